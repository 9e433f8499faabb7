"""Where a network came from, and what its files say besides the network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from resnext_convert.converter.errors import UsageError

StemPool = Literal["3x3 max, stride 2, padding 1", "3x3 max, stride 2, size rounded up", "none"]
"""The pooling behind the stem, in the words of `overview.pool_text`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFacts:
    """What a graph says and the names and shapes of its tensors do not; whoever has no graph file must state it.

    Attributes:
        eps: of all normalisations.
        stem_pool: the pooling behind the stem.

    Raises:
        UsageError: eps is no number that a normalisation can have.
    """

    eps: float
    stem_pool: StemPool

    def __post_init__(self) -> None:
        if not (math.isfinite(self.eps) and self.eps >= 0):
            raise UsageError("an eps that no normalisation can have", expected="0 or a small number", found=self.eps)


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelTransform:
    """How the source's files say that pixels of 0..255 become the network's input: ``(pixel - mean) * scale``.

    Attributes:
        mean: one number a channel, in the network's order of channels; () where none is subtracted.
        scale: the factor.
        crop: the side of the square that is cut out; None where nothing is.
        source: the files, or the field of the graph file, that say so.
    """

    mean: tuple[float, ...] = ()
    scale: float = 1.0
    crop: int | None = None
    source: str

    @property
    def text(self) -> str:
        """In words: ``(pixel - (104, 117, 123)) * 0.017, cropped to 224x224, as deploy.prototxt says``."""
        pixel = f"(pixel - ({', '.join(f'{value:.6g}' for value in self.mean)}))" if self.mean else "pixel"
        parts = [f"{pixel} * {self.scale:.6g}" if self.scale != 1 else pixel]
        parts += [f"cropped to {self.crop}x{self.crop}"] if self.crop else []
        return f"{', '.join(parts)}, as {self.source} says"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a model came from.

    Attributes:
        framework: ``mxnet`` or ``caffe``.
        version: the framework's version that wrote the graph, as far as it says, such as ``1.9.1``.
        files: the files that were read, by what they are (``symbol``, ``params``; ``prototxt``, ``weights``,
            ``mean``), the graph's first; an MXNet network that was read from its weights alone has ``params`` only.
        input_shape: the shape (N, C, H, W) that the graph declares for its input, 0 where unknown; None: none declared.
        transform: how pixels become the input, where the files say so.
        renamed: tensors (without a prefix) that the graph has under another name, and that name.
        warnings: what was odd about the files and how it was understood.
    """

    framework: str
    version: str | None
    files: Mapping[str, Path]
    input_shape: tuple[int, ...] | None = None
    transform: PixelTransform | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def graph_file(self) -> Path:
        """The file that holds the graph: the first of ``files``, which is the weights where there is no other."""
        return next(iter(self.files.values()))
