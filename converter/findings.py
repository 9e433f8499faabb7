"""The records of an inspection: what was found in a file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from resnext_convert.converter.binary import map_file
from resnext_convert.converter.preprocess import InputSpec
from resnext_convert.converter.proof import FileRecord
from resnext_convert.converter.records import SourceRecord, Verdict
from resnext_convert.converter.resnext.config import ResNeXtConfig
from resnext_convert.converter.resnext.ledger import Binding, Ignored
from resnext_convert.converter.tensors import TensorRef


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedFile:
    """A file: its path as the user gave it, its size and its SHA-256."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """One stored tensor; ``where`` is its place in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamsInspection:
    """An MXNet params file.

    Attributes:
        kind: ``params``.
        file: which.
        layouts: of its records, in order of appearance (``legacy``, ``V1``, ``V2``, ``V3``, ``npz``).
        named: False where it is a list without names.
        tensors: all of them, in the file's order.
        notes: what is odd about it.
    """

    kind: Literal["params"] = "params"
    file: InspectedFile
    layouts: tuple[str, ...]
    named: bool
    tensors: tuple[TensorEntry, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEntry:
    """One operator of a symbol file, with its attributes as the file has them."""

    name: str
    op: str
    attributes: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedDefault:
    """An attribute that a symbol file leaves to MXNet's default, the default, and how many nodes leave it."""

    op: str
    attribute: str
    value: str
    nodes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolInspection:
    """An MXNet symbol file.

    Attributes:
        kind: ``symbol``.
        file: which.
        version: the MXNet that wrote it.
        dialect: the key of its attributes (``param``, ``attr``, ``attrs``).
        inputs: variables that are read as data, with the shape that they declare (0 where unknown), if any.
        heads: the outputs.
        variables: how many variables there are.
        operators: how many nodes of each operator, the most frequent first.
        defaults: attributes left out whose default is easily got wrong.
        nodes: all operators, in topological order.
    """

    kind: Literal["symbol"] = "symbol"
    file: InspectedFile
    version: str
    dialect: str
    inputs: Mapping[str, tuple[int, ...] | None]
    heads: tuple[str, ...]
    variables: int
    operators: Mapping[str, int]
    defaults: tuple[AppliedDefault, ...]
    nodes: tuple[NodeEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrototxtInspection:
    """A Caffe net as text.

    Attributes:
        kind: ``prototxt``.
        file: which.
        name: the net's own; empty where it has none.
        inputs: the tops of its data and input layers in the phase TEST, with the shape that they declare, if any.
        layers: how many layers the net has in all phases.
        operators: how many layers of each type in the phase TEST, the most frequent first.
        defaults: fields left out whose default is easily got wrong.
        notes: fields that were skipped.
        nodes: the layers of the phase TEST with their parameters.
    """

    kind: Literal["prototxt"] = "prototxt"
    file: InspectedFile
    name: str
    inputs: Mapping[str, tuple[int, ...] | None]
    layers: int
    operators: Mapping[str, int]
    defaults: tuple[AppliedDefault, ...]
    notes: tuple[str, ...]
    nodes: tuple[NodeEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaffeWeightsInspection:
    """A caffemodel, or the same as HDF5.

    Attributes:
        kind: ``caffe weights``.
        file: which.
        container: ``caffemodel`` or ``hdf5``.
        layers: how many layers it has, and how many of those have blobs.
        tensors: all blobs, in the file's order.
        notes: what is odd about it.
    """

    kind: Literal["caffe weights"] = "caffe weights"
    file: InspectedFile
    container: str
    layers: tuple[int, int]
    tensors: tuple[TensorEntry, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanInspection:
    """A mean image, such as ``mean.binaryproto``: its shape (C, H, W) and the mean of each channel."""

    kind: Literal["mean"] = "mean"
    file: InspectedFile
    shape: tuple[int, ...]
    channels: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkInspection:
    """The ResNeXt that a pair of files holds.

    Attributes:
        summary: how the family calls it.
        config: every layer.
        preprocessing: what the statistics of bn_data, the files and a release say about the input.
        bindings: each key of a state dict and its source tensors.
        ignored: the other source tensors, and why.
        other_heads: outputs that are not converted.
        release: the published release that it is; None: none, as far as can be told.
        identified: how that is known, or why it is not.
    """

    summary: str
    config: ResNeXtConfig
    preprocessing: InputSpec
    bindings: tuple[Binding, ...]
    ignored: tuple[Ignored, ...]
    other_heads: tuple[str, ...]
    release: str | None
    identified: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PairInspection:
    """A symbol file and its params file, or a prototxt and its weights.

    Attributes:
        kind: ``pair``.
        path: the folder or the prefix that was named.
        graph: the one.
        weights: the other.
        network: what they hold together; None where that is no ResNeXt.
        refusal: why it is none; empty where it is one.
        warnings: what was odd and how it was understood.
    """

    kind: Literal["pair"] = "pair"
    path: str
    graph: SymbolInspection | PrototxtInspection
    weights: ParamsInspection | CaffeWeightsInspection
    network: NetworkInspection | None
    refusal: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportInspection:
    """A report of this program, in short.

    Attributes:
        kind: ``report``.
        file: which.
        tool: what wrote it; None in the report of a proof alone, and so are the next four.
        source: the files that were converted.
        network: how the family calls it.
        output: the checkpoint.
        dtype: of its parameters.
        verdict: ``proven``, ``failed`` or ``not proven``.
        failure: what did not pass.
        gate: of the proof, of peak; None without one.
        worst: the largest difference, of peak; None without a proof, or where it was not finite.
        warnings: of the conversion.
    """

    kind: Literal["report"] = "report"
    file: InspectedFile
    tool: str | None
    source: SourceRecord | None
    network: str | None
    output: FileRecord | None
    dtype: str | None
    verdict: Verdict
    failure: str
    gate: float | None
    worst: float | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInspection:
    """A checkpoint for PyTorch: tensors by their keys.

    Attributes:
        kind: ``checkpoint``.
        file: which.
        container: the format: ``pytorch``, ``safetensors`` or ``hdf5``.
        metadata: texts in its header.
        tensors: by their keys, in the file's order.
        report: the report beside it, if there is one that can be read.
        belongs: whether that report is of this very file, by its SHA-256; None without a report.
        note: what can be said about the report beside it.
    """

    kind: Literal["checkpoint"] = "checkpoint"
    file: InspectedFile
    container: Literal["pytorch", "safetensors", "hdf5"] = "pytorch"
    metadata: Mapping[str, str] = field(default_factory=dict)
    tensors: tuple[TensorEntry, ...]
    report: ReportInspection | None
    belongs: bool | None
    note: str


Inspection = (
    ParamsInspection
    | SymbolInspection
    | PrototxtInspection
    | CaffeWeightsInspection
    | MeanInspection
    | PairInspection
    | ReportInspection
    | CheckpointInspection
)


def inspected_file(path: Path) -> InspectedFile:
    """The record of a file that is looked at.

    Raises:
        MissingFileError: it is not there.
        InputError: it cannot be read.
    """
    content = map_file(path)
    return InspectedFile(path=str(path), bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def tensor_entries(tensors: Iterable[TensorRef]) -> tuple[TensorEntry, ...]:
    """The records of stored tensors."""
    return tuple(
        TensorEntry(
            name=tensor.name,
            dtype=tensor.dtype.value,
            shape=tensor.shape,
            bytes=tensor.nbytes,
            where=tensor.where,
        )
        for tensor in tensors
    )
