"""Reads what is in a PyTorch checkpoint without PyTorch: keys, dtypes and shapes of a plain state dict.

`torch.save` writes a zip of stored entries: ``NAME/data.pkl``, a pickle of protocol 2 that describes the tensors, and
``NAME/data/KEY``, the elements of each storage (PyTorch 2.13, torch/serialization.py, _save). The pickle is not given
to Python's unpickler: a table holds the few instructions that a plain state dict needs, and any other is refused, so
nothing of the file is ever called and memory is bounded by its size.
"""

from __future__ import annotations

import math
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from resnext_convert.converter.errors import (
    FormatError,
    InputError,
    MissingFileError,
    TruncatedError,
    UnsupportedError,
    in_file,
)
from resnext_convert.converter.tensors import DType, checked_size

_PICKLE = "/data.pkl"
_SAVE_PLAIN = "save the plain state dict: torch.save(model.state_dict(), FILE)"

_STORAGES: Final[Mapping[str, DType]] = {
    "torch FloatStorage": DType.FLOAT32,
    "torch DoubleStorage": DType.FLOAT64,
    "torch HalfStorage": DType.FLOAT16,
    "torch BFloat16Storage": DType.BFLOAT16,
    "torch BoolStorage": DType.BOOL,
    "torch CharStorage": DType.INT8,
    "torch ShortStorage": DType.INT16,
    "torch IntStorage": DType.INT32,
    "torch LongStorage": DType.INT64,
    "torch ByteStorage": DType.UINT8,
}


@dataclass(frozen=True, slots=True)
class _Storage:
    """A run of elements in the zip entry ``data/KEY``."""

    key: str
    dtype: DType
    size: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a state dict.

    Attributes:
        dtype: of its elements.
        shape: of the tensor.
        storage: where its elements are; tensors may share one.
        end: how many elements the storage must have at least.
    """

    dtype: DType
    shape: tuple[int, ...]
    storage: _Storage
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * self.dtype.itemsize


def is_checkpoint(beginning: bytes) -> bool:
    """Whether a file that begins so is a zip of `torch.save`, which puts the pickle first."""
    name_length = int.from_bytes(beginning[26:28], "little")
    return beginning.startswith(b"PK\x03\x04") and beginning[30 : 30 + name_length].endswith(_PICKLE.encode())


def read_state(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a state dict by their keys, in the file's order; no element is read.

    Raises:
        MissingFileError: there is no such file.
        TruncatedError: elements of a tensor are not in the file.
        UnsupportedError: it holds more than a flat dictionary of tensors.
        FormatError: the file is damaged.
    """
    with in_file(path):
        entries, folder, text = _open(path)
        state = _state(_Pickle().run(text))
        for name, tensor in state.items():
            entry = entries.get(f"{folder}/data/{tensor.storage.key}")
            wanted = tensor.storage.size * tensor.dtype.itemsize
            if entry is None or entry.file_size != wanted or tensor.end > tensor.storage.size:
                raise TruncatedError(
                    "its elements are not all in the file",
                    place=f"tensor {name!r:.80}",
                    expected=f"{wanted} bytes in data/{tensor.storage.key:.80}, {tensor.end} elements",
                    found=f"{entry.file_size} bytes" if entry else "no such entry",
                )
        return state


def _open(path: Path) -> tuple[Mapping[str, zipfile.ZipInfo], str, bytes]:
    """The entries of the zip by name, the folder in which they are, and the pickle."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            if len(entries) != len(archive.infolist()):
                raise FormatError("the zip holds two entries of the same name")
            (name,) = [name for name in entries if name.endswith(_PICKLE) and name.count("/") == 1]
            folder = name.removesuffix(_PICKLE)
            if any(other.startswith(f"{folder}/code/") for other in entries):
                raise UnsupportedError("this is a TorchScript archive, no state dict", hint=_SAVE_PLAIN)
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
                raise UnsupportedError("the zip is compressed, which torch.save never does", hint=_SAVE_PLAIN)
            return entries, folder, archive.read(name)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
        raise FormatError(
            "this zip is no PyTorch checkpoint, or it is damaged",
            found=str(error) or type(error).__name__,
            hint="fetch it again and compare its size and checksum",
        ) from error
    except FileNotFoundError as error:
        raise MissingFileError("there is no such file") from error
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}") from error


def _state(value: object) -> dict[str, StoredTensor]:
    if not isinstance(value, dict):
        raise UnsupportedError("this is no state dict", expected="a dictionary of tensors", found=_kind(value))
    for key, item in value.items():
        if not isinstance(item, StoredTensor):
            raise UnsupportedError(
                "this is no plain state dict",
                place=f"key {key!r}",
                expected="a tensor",
                found=_kind(item),
                hint=_SAVE_PLAIN,
            )
    return value


def _kind(value: object) -> str:
    # Never the value itself: a pickle of a few bytes can stand for a nest of any size.
    return type(value).__name__


class _Pickle:
    """A stack machine for the instructions with which `torch.save` describes a state dict."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, text: bytes) -> object:
        """The object that a pickle describes; dictionaries, tuples, texts, numbers and `StoredTensor` occur in it.

        Raises:
            UnsupportedError: it holds anything else.
            FormatError: it is damaged.
        """
        try:
            for opcode, argument, position in pickletools.genops(text):
                try:
                    self.step(opcode.name, argument)
                except FormatError as error:
                    error.place = f"data.pkl, byte {position or 0:#x}"
                    raise
            return self.stack.pop()
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, Warning) as error:
            # A warning where the user turned warnings into errors: about backslashes, which no name of torch's has.
            raise FormatError(
                "the description of the tensors is damaged", place="data.pkl", found=str(error)
            ) from error

    def step(self, name: str, argument: Any) -> None:
        push, pop = self.stack.append, self.stack.pop
        match name:
            case "PROTO" | "STOP":
                pass
            case "MARK":
                self.marks.append(len(self.stack))
            case "EMPTY_DICT":
                push({})
            case "EMPTY_TUPLE":
                push(())
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                push({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINUNICODE":
                push(argument)
            case "TUPLE":
                push(tuple(self.above_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [pop() for _ in range(int(name[-1]))]
                push(tuple(reversed(items)))
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                push(self.memo[argument])
            case "GLOBAL":
                push(_known(argument))
            case "BINPERSID":
                push(_storage(pop()))
            case "REDUCE":
                arguments, function = pop(), pop()
                push(function(*arguments))
            case "SETITEM":
                value, key = pop(), pop()
                _fill(self.stack[-1], [key, value])
            case "SETITEMS":
                items = self.above_mark()
                _fill(self.stack[-1], items)
            case "BUILD":  # the _metadata of an OrderedDict: versions of modules, which no tensor depends on
                pop()
            case _:
                raise UnsupportedError(f"the pickle holds more than a state dict: {name}", hint=_SAVE_PLAIN)

    def above_mark(self) -> list[Any]:
        """Takes all that is above the last mark off the stack."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items


def _known(name: str) -> Callable[..., object] | DType:
    """What a global of the pickle stands for here."""
    known: Mapping[str, Callable[..., object] | DType] = {
        "collections OrderedDict": dict,
        "torch._utils _rebuild_tensor_v2": _tensor,
        **_STORAGES,
    }
    if name not in known:
        raise UnsupportedError("the pickle holds more than a state dict", found=f"{name!r:.80}", hint=_SAVE_PLAIN)
    return known[name]


def _storage(persistent: object) -> _Storage:
    match persistent:
        case ("storage", DType() as dtype, str(key), str(), int(size)) if size >= 0:
            return _Storage(key, dtype, size)
    raise FormatError("a reference to the elements of a tensor cannot be read")


def _tensor(
    storage: object, offset: object, shape: object, stride: object, requires_grad: object, hooks: object
) -> StoredTensor:
    """What torch._utils._rebuild_tensor_v2 makes of its arguments."""
    match storage, offset, shape, stride:
        case _Storage(), int(), tuple(), tuple() if all(_is_natural(n) for n in (offset, *shape, *stride)):
            # The index of the last element; an empty tensor has none.
            last = sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
            end = offset + last + 1 if checked_size(shape) else 0
            return StoredTensor(dtype=storage.dtype, shape=shape, storage=storage, end=end)
    raise FormatError("a tensor cannot be read")


def _is_natural(value: object) -> bool:
    return type(value) is int and value >= 0


def _fill(target: object, items: list[Any]) -> None:
    """Adds keys and values, which alternate, to a dictionary. Keys are texts; hashing a nest could take for ever."""
    if not isinstance(target, dict) or len(items) % 2 or not all(isinstance(key, str) for key in items[::2]):
        raise UnsupportedError("the pickle holds more than a state dict: keys that are no texts", hint=_SAVE_PLAIN)
    target.update(zip(items[::2], items[1::2], strict=True))
