"""Which layers of a net count in which phase: Caffe's include and exclude rules (net.cpp)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from resnext_convert.converter.errors import FormatError
from resnext_convert.schemas.caffe_pb2 import TEST, LayerParameter, NetParameter, NetState, NetStateRule, Phase


def select(
    net: NetParameter, phase: Phase = TEST, stages: Collection[str] = (), level: int = 0
) -> list[LayerParameter]:
    """The layers that count, in the net's order (Net::FilterNet).

    The net's own ``state`` adds its stages. Its phase and its level are not looked at: ``Net(file, phase, level,
    stages)``, with which Caffe opens a file, overwrites both.

    Args:
        net: upgraded: with layers of the newest form alone.
        phase: TRAIN or TEST.
        stages: what is asked for besides.
        level: as in Caffe's command line and in pycaffe, 0 unless somebody says otherwise.

    Raises:
        FormatError: a layer has rules of both kinds.
    """
    state = NetState(phase=phase, level=level, stage=[*net.state.stage, *stages])
    return [layer for place, layer in enumerate(net.layer) if _counts(layer, place, state)]


def _counts(layer: LayerParameter, place: int, state: NetState) -> bool:
    if layer.include and layer.exclude:
        raise FormatError(
            "Specify either include rules or exclude rules; not both",
            place=f"layer {place} {layer.name!r:.60} ({layer.type:.60})",
            hint="remove one kind; Caffe refuses the file as it is",
        )
    if layer.include:
        return _meets_any(state, layer.include)
    return not _meets_any(state, layer.exclude)


def _meets_any(state: NetState, rules: Sequence[NetStateRule]) -> bool:
    return any(_meets(state, rule) for rule in rules)


def _meets(state: NetState, rule: NetStateRule) -> bool:
    """Net::StateMeetsRule: what a rule leaves out, it does not ask for."""
    return (
        (not rule.HasField("phase") or rule.phase == state.phase)
        and (not rule.HasField("min_level") or rule.min_level <= state.level)
        and (not rule.HasField("max_level") or rule.max_level >= state.level)
        and set(rule.stage).issubset(state.stage)
        and set(rule.not_stage).isdisjoint(state.stage)
    )
