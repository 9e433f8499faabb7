"""From the names of stored tensors to the layers of a network: for weights that were published without a graph.

Four naming schemes are known. In each the name of a tensor is the path of its layer in the program that made the
network, so that the names tell depths, excitation, projections and the kind of the stem, as that program builds them:

- GluonCV, by structure (``save_parameters``): gluoncv/model_zoo/resnext.py, senet.py and cifarresnext.py (0.10.5);
- GluonCV, by prefix (``export``, ``collect_params().save``, ``save_params``): the same three. Convolutions and
  normalisations are counted in the order in which a block creates them: the residual's three, the two of the
  excitation, the projection;
- gluoncv2, by structure: resnext.py, seresnext.py, senet.py and resnext_cifar.py in gluoncv2/models (0.0.64);
- simpledet: resnext.py in mxnext's backbones, which follows MXNet's own script, and utils/convert_from_detectron.py.

Here a name decides what a tensor is, because nothing else is there that could; `resnext_convert.converter.mxnet.wiring`
then holds it against the shapes. Nothing is matched by the order of the file. Every tensor must have its place.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Final, NoReturn

from resnext_convert.converter.errors import FormatError, LedgerError, MissingTensorError, NotResNeXtError
from resnext_convert.converter.graph import Role
from resnext_convert.converter.mxnet.binding import Stored
from resnext_convert.converter.mxnet.description import Block, Description, Layer, Scheme, Unit
from resnext_convert.converter.mxnet.params import ParamsFile

_SHOWN: Final = 5
_LONGEST: Final = 200  # characters of a name that a layer can have; what is longer has no place

_MARKS: Final = {
    Scheme.GLUON: re.compile(r"features\.[0-9]+\.[0-9]+\.body\.[0-9]+\.weight"),
    Scheme.GLUON_PREFIX: re.compile(r"(?P<prefix>.*)stage[0-9]+_conv[0-9]+_weight", re.DOTALL),
    Scheme.GLUONCV2: re.compile(r"features\.[0-9]+\.[0-9]+\.body\.conv[0-9]+\.conv\.weight"),
    Scheme.SIMPLEDET: re.compile(r"stage[0-9]+_unit[0-9]+_conv[0-9]+_weight"),
}
"""A name that each scheme has in every block and no other scheme has."""

_LEAVES: Final = {
    Role.WEIGHT: "weight",
    Role.BIAS: "bias",
    Role.GAMMA: "gamma",
    Role.BETA: "beta",
    Role.MEAN: "running_mean",
    Role.VAR: "running_var",
}
_NORM: Final = (Role.GAMMA, Role.BETA, Role.MEAN, Role.VAR)
_WITH_BIAS: Final = (Role.WEIGHT, Role.BIAS)


def recognise(params: ParamsFile) -> Scheme | None:
    """The scheme of the names in a params file; None where it is none of the four.

    Raises:
        FormatError: names of several schemes are mixed, or of several networks.
    """
    names = set(Stored(params).names())
    found = [scheme for scheme, mark in _MARKS.items() if any(mark.fullmatch(name) for name in names)]
    if len(found) > 1:
        raise FormatError(
            "the names of the tensors are of several schemes",
            expected="one network",
            found=" and ".join(scheme.value for scheme in found),
            hint="save each network into a file of its own",
        )
    # MXNet's own script names its layers as simpledet does, and normalises its input: there is a symbol file of those.
    if found == [Scheme.SIMPLEDET] and any(name.startswith("bn_data_") for name in names):
        return None
    return found[0] if found else None


def describe(params: ParamsFile) -> Description | None:
    """The layers that the names in a params file tell; None where they are of none of the four schemes.

    Raises:
        FormatError: names of several schemes are mixed, or of several networks.
        MissingTensorError: tensors are missing that the scheme's program makes; all of them are named.
        LedgerError: tensors are left that have no place in such a network.
        NotResNeXtError: there is no classifier.
    """
    scheme = recognise(params)
    return None if scheme is None else _PARSERS[scheme](scheme, params).parse()


class _Parser(ABC):
    """What the schemes have in common: layers by name, and the books on what was taken."""

    separator = "."
    statistics = "running"

    def __init__(self, scheme: Scheme, params: ParamsFile) -> None:
        self.scheme = scheme
        self.params = params
        self._stored = Stored(params)
        self.names = {name for name in self._stored.names() if len(name) <= _LONGEST}
        ends = ((name, match.end()) for name in self.names for match in re.finditer("[._]", name))
        self._starts = {name[:end] for name, end in ends}
        self._taken: set[str] = set()
        self._missing: list[str] = []

    def parse(self) -> Description:
        classifier = self.classifier()
        if not self.has(classifier) and not self.has(classifier, Role.BIAS):
            self._no_classifier(classifier)
        description = Description(
            scheme=self.scheme,
            stem=self.stem(),
            stem_pools=self.stem_pools(),
            stages=tuple(tuple(stage) for stage in self.stages()),
            window=self.window(),
            classifier=self.layer(classifier, *_WITH_BIAS),
        )
        self._close()
        return description

    # -- what a scheme says ----------------------------------------------------------------------------------------

    @abstractmethod
    def stem(self) -> tuple[Unit, ...]: ...

    @abstractmethod
    def stem_pools(self) -> bool | None: ...

    @abstractmethod
    def stages(self) -> Iterator[Iterator[Block]]: ...

    def window(self) -> int | None:
        return None

    @abstractmethod
    def classifier(self) -> str: ...

    # -- tensors by name -------------------------------------------------------------------------------------------

    def leaf(self, layer: str, role: Role) -> str:
        return layer + self.separator + _LEAVES[role].replace("running", self.statistics)

    def has(self, layer: str, role: Role = Role.WEIGHT) -> bool:
        return self.leaf(layer, role) in self.names

    def any_under(self, start: str) -> bool:
        """Whether a name begins with ``start``, which ends in a separator."""
        return start in self._starts

    def layer(self, name: str, *roles: Role) -> Layer:
        found: dict[Role, str] = {}
        for role in roles:
            full = self._stored.find(role, self.leaf(name, role))
            if full is None:
                self._missing.append(self.leaf(name, role))
                continue
            self._taken.add(full)
            found[role] = full
        return Layer(name=name, params=found)

    def unit(self, conv: str, norm: str) -> Unit:
        return Unit(conv=self.layer(conv, Role.WEIGHT), norm=self.layer(norm, *_NORM))

    def gate(self, *convs: str) -> tuple[Layer, ...]:
        return tuple(self.layer(name, *_WITH_BIAS) for name in convs)

    # -- the books -------------------------------------------------------------------------------------------------

    def _no_classifier(self, name: str) -> NoReturn:
        raise NotResNeXtError(
            "the file holds a backbone without a classifier, and only whole classifiers are converted",
            expected=f"{self.leaf(name, Role.WEIGHT)} and {self.leaf(name, Role.BIAS)}",
            found=f"{len(self.params.tensors)} others ({self.scheme.value})",
            hint="take a file that was saved with the classifier; those of detectors have none",
        )

    def _close(self) -> None:
        left = [full for full in self.params.tensors if full not in self._taken]
        if self._missing:
            raise MissingTensorError(
                f"tensors are missing ({len(self._missing)}): {_some(self._missing)}",
                expected=f"all tensors of a network with {self.scheme.value}",
                found=f"{_some(left)}, which have no place in it" if left else f"{len(self._taken)} others",
                hint="the file is incomplete, of another network, or was renamed by hand; weights under 'arg:' and "
                "moving statistics under 'aux:', or all without a prefix; with its symbol file any network can be read",
            )
        if left:
            raise LedgerError(
                f"tensors are left that have no place in the network ({len(left)}): {_some(left)}",
                expected=f"the tensors of a ResNeXt with {self.scheme.value}, no others",
                hint="it is another network: export its graph too, and convert the pair",
            )


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


class _Structural(_Parser):
    """What the two structural schemes have in common: ``features.STAGE.BLOCK``."""

    @abstractmethod
    def first_stage(self) -> int: ...

    @abstractmethod
    def block(self, name: str, stage: int, number: int) -> Block: ...

    def stages(self) -> Iterator[Iterator[Block]]:
        stage = self.first_stage()
        while self.any_under(f"features.{stage}.0."):
            yield self._blocks(stage)
            stage += 1

    def _blocks(self, stage: int) -> Iterator[Block]:
        number = 0
        while self.any_under(f"features.{stage}.{number}."):
            yield self.block(f"features.{stage}.{number}", stage - self.first_stage(), number)
            number += 1


class _Gluon(_Structural):
    """GluonCV's structural names: the place in ``features``, a list in which activations and poolings count too.

    The stem is convolution, normalisation and ReLU (0, 1, 2), or three of these (0 to 8); then comes the pooling, which
    CIFAR's networks lack; then come the stages. Each stage's first block has a projection, always; where that averages
    first (``avg_down``), its convolution is 1 and its normalisation 2. ``body`` and ``se`` count alike.
    """

    def _deep(self) -> bool:
        return self.has("features.3")

    def first_stage(self) -> int:
        if self._deep():
            return 10
        return 4 if self.stem_pools() else 3

    def stem(self) -> tuple[Unit, ...]:
        places = (0, 3, 6) if self._deep() else (0,)
        return tuple(self.unit(f"features.{place}", f"features.{place + 1}") for place in places)

    def stem_pools(self) -> bool:
        return self._deep() or not self.any_under("features.3.0.")

    def block(self, name: str, stage: int, number: int) -> Block:
        gated = self.has(f"features.{self.first_stage()}.0.se.0")
        averages = stage > 0 and self.has(f"{name}.downsample.1")
        projection = f"{name}.downsample.{int(averages)}", f"{name}.downsample.{int(averages) + 1}"
        return Block(
            name=name,
            units=tuple(self.unit(f"{name}.body.{place}", f"{name}.body.{place + 1}") for place in (0, 3, 6)),
            gate=self.gate(f"{name}.se.0", f"{name}.se.2") if gated else (),
            projection=self.unit(*projection) if number == 0 else None,
            averages=averages,
        )

    def classifier(self) -> str:
        return "output"


class _Gluoncv2(_Structural):
    """gluoncv2's structural names: a stem ``features.0``, then the stages from ``features.1`` on.

    The stem's convolution is ``conv.conv``; SENet's three are ``conv1.conv`` to ``conv3.conv``; CIFAR's is ``conv``,
    and no pooling follows it. A block has a projection (``identity_conv``) where its stride or its number of channels
    changes: in the first stage the names say whether. The last pooling has a window of 7, of 8 on CIFAR
    (``nn.AvgPool2D``), and SENet's classifier comes behind a dropout, so that it is 2 in ``output``.
    """

    def first_stage(self) -> int:
        return 1

    def stem(self) -> tuple[Unit, ...]:
        if self.has("features.0.conv"):
            return (self.unit("features.0.conv", "features.0.bn"),)
        deep = self.has("features.0.conv1.conv")
        names = ("conv1", "conv2", "conv3") if deep else ("conv",)
        return tuple(self.unit(f"features.0.{name}.conv", f"features.0.{name}.bn") for name in names)

    def stem_pools(self) -> bool:
        return not self.has("features.0.conv")

    def block(self, name: str, stage: int, number: int) -> Block:
        gated = self.has("features.1.0.se.conv1")
        projects = number == 0 and (stage > 0 or self.any_under(f"{name}.identity_conv."))
        return Block(
            name=name,
            units=tuple(self.unit(f"{name}.body.{part}.conv", f"{name}.body.{part}.bn") for part in _CONVS),
            gate=self.gate(f"{name}.se.conv1", f"{name}.se.conv2") if gated else (),
            projection=self.unit(f"{name}.identity_conv.conv", f"{name}.identity_conv.bn") if projects else None,
        )

    def window(self) -> int:
        return 7 if self.stem_pools() else 8

    def classifier(self) -> str:
        return next((name for name in ("output.1", "output.2") if self.has(name)), "output.1")


_CONVS: Final = ("conv1", "conv2", "conv3")


class _GluonPrefix(_Parser):
    """GluonCV's names with a prefix (``resnext0_``, ``senet0_``, ``cifarresnext0_``; the number counts networks).

    Convolutions, normalisations and fully connected layers are counted for the network, and anew for each stage, in the
    order in which the blocks create them (not in that in which they run: CIFAR's projection, which runs first, is
    ``conv3`` all the same).
    """

    separator = "_"

    def __init__(self, scheme: Scheme, params: ParamsFile) -> None:
        super().__init__(scheme, params)
        matches = (_MARKS[scheme].fullmatch(name) for name in self.names)
        prefixes = sorted({match["prefix"] for match in matches if match})
        if len(prefixes) > 1:
            raise FormatError(
                "the file holds the tensors of several networks",
                expected="one prefix",
                found=_some([repr(prefix) for prefix in prefixes]),
                hint="save each network into a file of its own",
            )
        self.prefix = prefixes[0]

    def stem(self) -> tuple[Unit, ...]:
        count = 3 if self.has(f"{self.prefix}conv1") else 1
        return tuple(self.unit(f"{self.prefix}conv{i}", f"{self.prefix}batchnorm{i}") for i in range(count))

    def stem_pools(self) -> None:
        return None

    def stages(self) -> Iterator[Iterator[Block]]:
        stage = 1
        while self.has(f"{self.prefix}stage{stage}_conv0"):
            yield self._blocks(f"{self.prefix}stage{stage}_", stage)
            stage += 1

    def _blocks(self, start: str, stage: int) -> Iterator[Block]:
        gated = self.has(f"{self.prefix}stage1_conv3", Role.BIAS)
        deep = self.has(f"{self.prefix}conv1")
        conv = norm = number = 0
        while self.has(f"{start}conv{conv}"):
            units = tuple(self.unit(f"{start}conv{conv + i}", f"{start}batchnorm{norm + i}") for i in range(3))
            conv, norm = conv + 3, norm + 3
            gate = self.gate(f"{start}conv{conv}", f"{start}conv{conv + 1}") if gated else ()
            conv += len(gate)
            projection = None
            if number == 0:
                projection = self.unit(f"{start}conv{conv}", f"{start}batchnorm{norm}")
                conv, norm = conv + 1, norm + 1
            yield Block(
                name=f"{start}block{number}",
                units=units,
                gate=gate,
                projection=projection,
                averages=None if deep and stage > 1 else False,
            )
            number += 1

    def classifier(self) -> str:
        return f"{self.prefix}dense0"


class _Simpledet(_Parser):
    """simpledet's names, which are those of MXNet's own script without the normalisation of the input."""

    separator = "_"
    statistics = "moving"

    def stem(self) -> tuple[Unit, ...]:
        return (self.unit("conv0", "bn0"),)

    def stem_pools(self) -> bool:
        return True

    def stages(self) -> Iterator[Iterator[Block]]:
        stage = 1
        while self.any_under(f"stage{stage}_unit1_"):
            yield self._blocks(stage)
            stage += 1

    def _blocks(self, stage: int) -> Iterator[Block]:
        number = 1
        while self.any_under(start := f"stage{stage}_unit{number}_"):
            yield Block(
                name=start.rstrip("_"),
                units=tuple(self.unit(f"{start}conv{i}", f"{start}bn{i}") for i in (1, 2, 3)),
                gate=(),
                projection=self.unit(f"{start}sc", f"{start}sc_bn") if number == 1 else None,
            )
            number += 1

    def classifier(self) -> str:
        return "fc1"


_PARSERS: Final[dict[Scheme, Callable[[Scheme, ParamsFile], _Parser]]] = {
    Scheme.GLUON: _Gluon,
    Scheme.GLUON_PREFIX: _GluonPrefix,
    Scheme.GLUONCV2: _Gluoncv2,
    Scheme.SIMPLEDET: _Simpledet,
}
