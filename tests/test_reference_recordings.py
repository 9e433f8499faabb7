"""The reference executor against what MXNet 0.8.0 to 1.9.1 computed from the same files.

A recording holds the outputs and intermediates in float32, statistics of every internal output, and the outputs of
MXNet 1.9.1's float64 executor. Differences are in units of the largest value of the tensor.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from repository import FIXTURES
from shared_data import shared

from resnext_convert.converter.mxnet.source import read_pair
from resnext_convert.converter.reference import ReferenceExecutor
from resnext_convert.converter.tensors import Array

FLOAT32_NOISE = 5e-6  # MXNet's own rounding; measured over all recordings: 1.1e-6
FLOAT64_NOISE = 1e-13  # measured over all recordings: 1.6e-15
OLD_RULE = "0.8.0-pool_avg_full"  # its float32 arrays follow a rule that MXNet 0.9 gave up
FLOAT64_ALONE = "1.9.1-net_float16"  # MXNet's CPU build cannot run it in its own precision

RECORDINGS = sorted(folder.name for folder in (FIXTURES / "mxnet" / "recordings").iterdir())
assert RECORDINGS


def statistics(y: Array) -> Array:
    """Size, mean, standard deviation, smallest, largest, mean magnitude and the first four values (or zeros)."""
    first = np.zeros(4)
    first[: y.size] = y.ravel()[:4]
    return np.array([y.size, y.mean(), y.std(), y.min(), y.max(), np.abs(y).mean(), *first])


def differences(folder: Path) -> dict[str, float]:
    """By recorded array (``ref64:fc1_output``; ``stat:...`` for the statistics): the largest difference, of peak."""
    model = read_pair(folder / "model-symbol.json", folder / "model-0000.params")
    with np.load(folder / "io.npz") as stored:
        recorded = {name: stored[name] for name in stored.files}
    feed = {name.removeprefix("in:"): array for name, array in recorded.items() if name.startswith("in:")}
    arrays = {name: array for name, array in recorded.items() if name.startswith(("int:", "out", "ref64:"))}
    stats = dict(zip(recorded.get("stat_names", ()), recorded.get("stat_values", ()), strict=True))
    wanted = {name.partition(":")[2] for name in arrays} | set(map(str, stats))
    computed = ReferenceExecutor(model.graph, model.tensors).run(feed, wanted)
    found = {}
    for name, expected in arrays.items():
        y = computed[name.partition(":")[2]]
        assert y.shape == expected.shape, name
        found[name] = np.abs(y - expected).max() / np.abs(expected).max()
    for name, row in stats.items():
        y = computed[str(name)]
        assert y.size == row[0], name
        row[5] /= row[0]  # the sum of the magnitudes
        found[f"stat:{name}"] = np.abs(statistics(y) - row).max() / np.abs(y).max()
    return found


def check(folder: Path) -> int:
    """Compares whatever is recorded; returns how many arrays that were."""
    found = differences(folder)
    float64 = {name: value for name, value in found.items() if name.startswith("ref64:")}
    float32 = {name: value for name, value in found.items() if name not in float64}
    assert float64, folder.name
    assert bool(float32) == (folder.name != FLOAT64_ALONE), folder.name
    limit = np.inf if folder.name == OLD_RULE else FLOAT32_NOISE
    beyond = [name for name in float64 if not float64[name] <= FLOAT64_NOISE]
    beyond += [name for name in float32 if not float32[name] <= limit]
    assert not beyond, (folder.name, {name: found[name] for name in beyond})
    return len(found)


@pytest.mark.parametrize("name", RECORDINGS)
def test_recording(name: str) -> None:
    assert check(FIXTURES / "mxnet" / "recordings" / name) >= 2


@pytest.mark.acceptance
def test_every_recording() -> None:
    folders = sorted(path.parent for path in shared("golden/mxnet").glob("*/io.npz"))
    assert len(folders) == 138
    assert sum(check(folder) for folder in folders) > 7000


@pytest.mark.acceptance
def test_the_average_of_mxnet_0_8_is_another_where_windows_leave_the_map() -> None:
    """0.8.0 divides by the whole kernel, later versions by the clipped window, as the executor does."""
    found = differences(shared(f"golden/mxnet/{OLD_RULE}"))
    assert found["int:pooling0_output"] > 0.1
    assert found["out:softmax_output"] > 1e-3
    assert found["stat:conv0_output"] <= FLOAT32_NOISE
    assert found["ref64:softmax_output"] <= FLOAT64_NOISE
