"""Weights of a network that GluonCV or gluoncv2 itself builds, saved as each of them saves, with its own outputs.

    python tests/gluoncv_weights.py MODEL FOLDER [--package gluoncv] [--seed 0]

Runs in an environment of its own (``make gluoncv``), because GluonCV refuses to be imported beside a new torch. The
network is built by name, without its published weights; tests/calibrated_weights.py settles others on its graph, which
are loaded back into it. FOLDER then holds

- ``structural.params``: ``save_parameters``;
- ``prefixed.params``: ``collect_params().save``;
- ``exported.params``: what ``export`` writes, with ``arg:`` and ``aux:``;
- ``pair-symbol.json`` and ``pair-0000.params``: the same with its graph, for the usual way;
- ``outputs.npz``: two images, and what the network makes of them in float32 and in float64.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from calibrated_weights import Array, Calibration, images, normalised

from resnext_convert.converter.oracles.mxnet import import_mxnet

BATCH = 4  # images that the weights are calibrated on
SHOWN = 2  # of them, whose outputs are kept


def build(package: str, model: str) -> Any:
    """A network by the name that its package has for it, without weights."""
    import_mxnet()
    if package == "gluoncv":
        from gluoncv.model_zoo import get_model
    else:
        from gluoncv2.model_provider import get_model
    return get_model(model, pretrained=False)


def side_of(model: str) -> int:
    """The side of the images that a network of this name is for."""
    return 32 if "cifar" in model or "svhn" in model else 224


def settle(network: Any, pictures: Array, seed: int) -> None:
    """Gives a network calibrated weights."""
    mx = import_mxnet()
    network.initialize()
    network(mx.nd.array(pictures[:1]))  # deferred shapes
    calibration = Calibration(network(mx.sym.var("data")), pictures, seed=seed)
    stored = network.collect_params()
    if set(stored) != set(calibration.params):
        raise ValueError(f"other tensors than the graph has: {set(stored) ^ set(calibration.params)}")
    for name, values in calibration.params.items():
        stored[name].set_data(mx.nd.array(values))


def save(network: Any, folder: Path, pictures: Array) -> None:
    """All files but the outputs."""
    mx = import_mxnet()
    network.save_parameters(str(folder / "structural.params"))
    network.collect_params().save(str(folder / "prefixed.params"))
    network.hybridize()
    network(mx.nd.array(pictures[:1]))
    network.export(str(folder / "pair"))
    shutil.copyfile(folder / "pair-0000.params", folder / "exported.params")


def outputs(network: Any, pictures: Array) -> dict[str, Array]:
    """The network's own outputs; it is left in float64."""
    mx = import_mxnet()
    found = {"images": pictures, "float32": network(mx.nd.array(pictures)).asnumpy()}
    network.hybridize(active=False)
    network.cast("float64")
    return found | {"float64": network(mx.nd.array(pictures, dtype="float64")).asnumpy()}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Make weights with GluonCV or gluoncv2.")
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--package", choices=["gluoncv", "gluoncv2"], default="gluoncv")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.perf_counter()
    options.folder.mkdir(parents=True, exist_ok=True)
    pictures = normalised(images(BATCH, side_of(options.model), np.random.default_rng([options.seed, 1])))
    network = build(options.package, options.model)
    settle(network, pictures, options.seed)
    save(network, options.folder, pictures)
    found = outputs(network, pictures[:SHOWN])
    np.savez(options.folder / "outputs.npz", allow_pickle=False, **found)
    logits = found["float64"]
    said = {"seconds": time.perf_counter() - start, "std": logits.std(), "apart": np.abs(np.diff(logits, axis=0)).max()}
    print(json.dumps(said, indent=2))


if __name__ == "__main__":
    main()
