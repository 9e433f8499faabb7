"""What goes out: the network as it is, or as a stock model of torchvision or timm computes it, exactly or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from resnext_convert.converter.classes import ClassOrder, labels
from resnext_convert.converter.domain import InputDomain
from resnext_convert.converter.errors import TargetError, UsageError
from resnext_convert.converter.resnext.config import ResNeXtConfig, stem_names
from resnext_convert.converter.resnext.fold import Folded, faithful, fold
from resnext_convert.converter.resnext.match import Match
from resnext_convert.converter.resnext.stock import StockModel, find_stock, stock_key
from resnext_convert.converter.tensors import Array

TargetName = Literal["reference", "torchvision", "timm"]
WantedOrder = Literal["source", "imagenet-2012"]

IMAGENET_CLASSES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A network in the form that goes out.

    Attributes:
        name: whose conventions it has.
        stock: the stock model; None for ``reference``.
        folded: its weights, and how its inputs and outputs are related to the source's.
        domain: what it wants to be fed; None: not known.
        class_order: that of the rows of its classifier; None: not known.
    """

    name: TargetName
    stock: StockModel | None
    folded: Folded
    domain: InputDomain | None
    class_order: ClassOrder | None

    @property
    def first_conv(self) -> str:
        """Our key of the first convolution's weights."""
        return f"{stem_names(len(self.folded.config.stem))[0][0]}.weight"

    def keys(self) -> Mapping[str, str]:
        """The name in the checkpoint of each of our keys."""
        ours = self.folded.config.state_shapes()
        return {key: stock_key(key, self.stock) if self.stock else key for key in ours}


def render(
    name: TargetName,
    match: Match,
    arrays: Mapping[str, Array],
    *,
    domain: InputDomain | None,
    class_order: ClassOrder | None,
    wanted: WantedOrder | None = None,
) -> Target:
    """Brings a network into the form that a target has.

    Args:
        name: the target.
        match: the network.
        arrays: its state dict, as `assemble` gives it.
        domain: what the source network is fed; None: not known.
        class_order: that of the source network's classes; None: not known.
        wanted: the order of classes that goes out. None: as in the source for ``reference`` and where there are other
            than 1000 classes, else that of ILSVRC-2012, which the label lists of stock models have.

    Raises:
        UsageError: there is no such target, or the order of classes does not fit their number.
        TargetError: no stock model computes this network, or what has to be known for that is not.
    """
    if name not in get_args(TargetName):
        raise UsageError(f"there is no target {name!r}", expected=", ".join(get_args(TargetName)))
    stock = None if name == "reference" else find_stock(match.config, name)
    order = _order(name, match.config, class_order, wanted)
    if stock is None:
        return Target(
            name=name,
            stock=None,
            folded=faithful(match, arrays, order),
            domain=domain,
            class_order="imagenet-2012" if order else class_order,
        )
    if domain is None:
        raise TargetError(
            "what the source network is fed is not known, so what a stock model is fed cannot be said",
            expected="the colour order and range of its pixels, the mean that is subtracted, the std that divides",
            hint="state --input-colour rgb|bgr and --input-range 1|255, and --input-mean and --input-std where they are"
            " not 0 and 1; or --target reference, which keeps the source's input",
        )
    folded = fold(match, arrays, stock, domain, order)
    return Target(
        name=name,
        stock=stock,
        folded=folded,
        domain=folded.domain,
        class_order="imagenet-2012" if order else class_order,
    )


def _order(
    name: TargetName, config: ResNeXtConfig, known: ClassOrder | None, wanted: WantedOrder | None
) -> ClassOrder | None:
    """The source's order of classes if the rows are to be moved; None: they stay where they are."""
    classes = config.head.classes
    if known is not None and len(labels(known)) != classes:
        raise UsageError(
            f"the classes cannot be in the order {known}", expected=f"{len(labels(known))} classes", found=classes
        )
    if wanted is None:
        wanted = "imagenet-2012" if name != "reference" and classes == IMAGENET_CLASSES else "source"
    if wanted == "source":
        return None
    if known is None:
        raise TargetError(
            "the order of the source's classes is not known, so they cannot be put in that of ILSVRC-2012",
            expected="imagenet-2012 or imagenet-2015",
            hint="state it with --source-class-order, or keep it with --class-order source",
        )
    if known == "cifar-10":
        raise UsageError(
            "the classes are not those of ImageNet", expected="imagenet-2012 or imagenet-2015", found=known
        )
    return known if known != wanted else None
