"""The record of a conversion: what the report beside a checkpoint holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from resnext_convert.converter.classes import ClassOrder
from resnext_convert.converter.domain import InputDomain
from resnext_convert.converter.preprocess import InputSpec
from resnext_convert.converter.proof import FileRecord, VerificationReport
from resnext_convert.converter.resnext.config import ResNeXtConfig
from resnext_convert.converter.resnext.ledger import Binding, Ignored

SCHEMA_VERSION: Final = 1
FOLDER_MODEL: Final = "model.safetensors"
FOLDER_REPORT: Final = "report.json"

TITLES: Final = {"mxnet": "MXNet", "caffe": "Caffe"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRecord:
    """Where the network came from.

    Attributes:
        framework: ``mxnet`` or ``caffe``.
        version: of the framework that wrote the graph, as far as it says.
        files: those that were read.
        release: the published release that they are, if any.
        identified: how that is known, or why it is not.
        domain: what the source network is fed; None: not known.
        class_order: the order of its classes; None: not known.
    """

    framework: str
    version: str | None
    files: tuple[FileRecord, ...]
    release: str | None
    identified: str
    domain: InputDomain | None
    class_order: ClassOrder | None

    @property
    def title(self) -> str:
        """The framework's own name, with its version where that is known: ``MXNet 1.9.1``, ``Caffe``."""
        return " ".join(filter(None, [TITLES.get(self.framework, self.framework), self.version]))


@dataclass(frozen=True, slots=True, kw_only=True)
class StockRecord:
    """The stock model that the checkpoint is for.

    Attributes:
        library: ``torchvision`` or ``timm``.
        call: the expression that makes it.
        architecture: the function or class in it.
        arguments: what that is told besides the number of classes.
        legacy: its parameters have the names of timm's SENet class.
    """

    library: str
    call: str
    architecture: str
    arguments: dict[str, int | str | list[int]]
    legacy: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionReport:
    """All that is known about one conversion; the file beside the checkpoint holds it as JSON.

    Attributes:
        schema_version: of this record.
        tool: name and version of this program.
        source: the files that were read.
        network: how the family calls the network.
        config: every layer of it; ``load`` builds the module from this.
        target: whose names and conventions the state dict has.
        stock: the stock model that it is for; None: the module that ``load`` builds.
        dtype: of the weights that were written.
        dtype_note: which other values are wider, and why; empty where none is.
        output: the checkpoint.
        preprocessing: what the network's statistics, its files, and a release or the user say about the input.
        domain: what the checkpoint's network is fed; None: not known.
        class_order: the order of the classes in the rows of ``fc`` (`classes.ORDERS`); None: not known.
        bindings: each key of the state dict, its source tensors and the transform.
        ignored: each source tensor that is in no binding, and why.
        warnings: what was odd and how it was understood.
        verification: the proof; None if it was not asked for.
    """

    schema_version: Literal[1]
    tool: str
    source: SourceRecord
    network: str
    config: ResNeXtConfig
    target: str
    stock: StockRecord | None
    dtype: str
    dtype_note: str
    output: FileRecord
    preprocessing: InputSpec
    domain: InputDomain | None
    class_order: ClassOrder | None
    bindings: tuple[Binding, ...]
    ignored: tuple[Ignored, ...]
    warnings: tuple[str, ...]
    verification: VerificationReport | None


Record = ConversionReport | VerificationReport
Verdict = Literal["proven", "failed", "not proven"]


def report_path(checkpoint: Path) -> Path:
    """Where the report of a checkpoint is: ``out.json`` beside ``out.pth``, ``report.json`` in a hub folder."""
    if checkpoint.is_dir():
        return checkpoint / FOLDER_REPORT
    beside, of_folder = checkpoint.with_suffix(".json"), checkpoint.with_name(FOLDER_REPORT)
    in_folder = checkpoint.name == FOLDER_MODEL and of_folder.is_file() and not beside.is_file()
    return of_folder if in_folder else beside


def proof_of(record: Record) -> VerificationReport | None:
    """The proof in a record; None where a conversion was not proven."""
    return record.verification if isinstance(record, ConversionReport) else record


def verdict(record: Record) -> Verdict:
    """The verdict in a word; a conversion without a proof is ``not proven``."""
    proof = proof_of(record)
    if proof is None:
        return "not proven"
    return "proven" if proof.passed else "failed"
