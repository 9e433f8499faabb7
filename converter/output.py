"""Where a conversion goes: a checkpoint and the report beside it, or a folder of the hub's form. All of it, or nothing.

The folder holds `config.json`, `model.safetensors` and `report.json`. A new one gets its name when it is complete. In
one that is there already these three files are replaced, and others stay.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from resnext_convert.converter import checkpoint
from resnext_convert.converter.errors import WriteError, in_file
from resnext_convert.converter.records import FOLDER_MODEL, FOLDER_REPORT, report_path
from resnext_convert.converter.staging import StagedFile, commit, hidden_name, signals_held_back, sync_folder, writing
from resnext_convert.converter.tensors import Array

CONFIG: Final = "config.json"


class Output:
    """An output that is not there before `commit`. A context manager: leaving it uncommitted leaves nothing.

    Entering raises `WriteError` where it cannot be written, or is there and may not be replaced.

    Args:
        out: as the user wrote it: ``out.pth``; ``out/``, or a folder that is there.
        overwrite: whether files that are there may be replaced.
        dtype: of the tensors, where it is known already.

    Attributes:
        path: without the slash.
        is_folder: whether it is a folder of the hub's form.
        suffix: of the checkpoint, a key of `checkpoint.FORMATS`.
        name: the checkpoint's.

    Raises:
        UsageError: no format has the suffix of ``out``, or it has no such ``dtype``.
    """

    def __init__(self, out: Path | str, *, overwrite: bool = True, dtype: str | None = None) -> None:
        self.suffix = checkpoint.suffix_of(out, dtype)
        self.path = Path(out)
        self._overwrite = overwrite
        self.is_folder = checkpoint.is_folder(out)
        self._hidden: Path | None = None
        self._stack = contextlib.ExitStack()
        self.name = FOLDER_MODEL if self.is_folder else self.path.name

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            if self.is_folder:
                self._check_folder()
                self._model, self._report, self._config = (
                    stack.enter_context(self._inside(name)) for name in (FOLDER_MODEL, FOLDER_REPORT, CONFIG)
                )
            else:
                self._model = stack.enter_context(StagedFile(self.path, overwrite=self._overwrite))
                beside = report_path(self.path)
                self._report = stack.enter_context(StagedFile(beside, overwrite=self._overwrite))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _check_folder(self) -> None:
        if self.path.is_dir():
            return
        if os.path.lexists(self.path):
            raise WriteError("cannot be made a folder: there is a file of this name", file=self.path)
        if not self.path.parent.is_dir():
            raise WriteError("there is no such folder", file=self.path.parent, hint="make the folder first")
        self._hidden = self.path.with_name(hidden_name())

    def _inside(self, name: str) -> StagedFile:
        """A file of the folder. Until the folder has its name, its bytes are beside it."""
        if self._hidden is None:
            return StagedFile(self.path / name, overwrite=self._overwrite)
        return StagedFile(self._hidden / name, staging=self.path.parent, shown=self.path / name)

    def write(self, arrays: Mapping[str, Array], metadata: Mapping[str, str], config: Mapping[str, Any]) -> None:
        """Writes the checkpoint, and for a folder its ``config.json``.

        Args:
            arrays: the state dict.
            metadata: texts for the checkpoint's header.
            config: what timm reads from the hub; not used for a single file.

        Raises:
            UsageError: the format cannot hold a tensor.
            WriteError: of the operating system.
        """
        with in_file(self._model.shown):
            checkpoint.write(arrays, self._model.file, self.suffix, metadata)
        if self.is_folder:
            with writing(self._config.shown):
                self._config.file.write((json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode())

    @property
    def readable(self) -> Path:
        """A path under which the checkpoint's bytes can be read back."""
        return self._model.readable

    def commit(self, report: bytes) -> None:
        """Puts everything in its place, with its report.

        Raises:
            WriteError: that was not possible; then every place is as it was before.
        """
        with writing(self._report.shown):
            self._report.file.write(report)
        files = [self._report, *([self._config] if self.is_folder else []), self._model]
        if self._hidden is None:
            commit(files)
            return
        hidden = self._hidden
        with signals_held_back(), writing(self.path):
            try:
                hidden.mkdir()
                commit(files)
                hidden.rename(self.path)
            except BaseException:
                shutil.rmtree(hidden, ignore_errors=True)
                raise
        sync_folder(self.path.parent)
