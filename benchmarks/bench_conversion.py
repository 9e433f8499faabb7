"""Time and peak memory of whole conversions, beside what a user would otherwise do.

    python benchmarks/bench_conversion.py SYMBOL PARAMS [--runs 5]

Every figure is of whole processes, from the operating system's accounting of each child: medians of RUNS after one
that is not counted. All commands read the same weights in the same run. The last line is the cost of the proof in
units of one forward pass of the converted module in float64, measured in one process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

# What people do without this program: the tensors as they are, under their old names. It maps and checks nothing.
BY_HAND = """
import sys
from resnext_convert.converter.oracles.mxnet import import_mxnet
mx = import_mxnet()
import torch
loaded = mx.nd.load(sys.argv[1])
torch.save({name: torch.from_numpy(array.asnumpy()) for name, array in loaded.items()}, sys.argv[2])
"""

RATIO = """
import json, sys, time
from pathlib import Path
import torch
from resnext_convert.converter import checkpoint
from resnext_convert.converter.mxnet.source import read_pair
from resnext_convert.converter.pipeline import input_spec
from resnext_convert.converter.resnext.match import match
from resnext_convert.converter.runner import ModuleRunner
from resnext_convert.converter.verify import prove

model = read_pair(Path(sys.argv[1]), Path(sys.argv[2]))
found = match(model)
state = checkpoint.read(Path(sys.argv[3]))
runner = ModuleRunner(found.config, state, torch.float64)
image = torch.zeros(1, 3, 224, 224).numpy()
forwards = []
for _ in range(3):
    started = time.perf_counter()
    runner.run(image, ["fc"])
    forwards.append(time.perf_counter() - started)
proof = prove(model, found, state, input_spec(model, found), image_size=224, oracle="none")
for _ in range(3):
    started = time.perf_counter()
    runner.run(image, ["fc"])
    forwards.append(time.perf_counter() - started)
print(json.dumps({"forwards": forwards, "full": proof.inputs[0].seconds, "proof": proof.seconds}))
"""


@dataclass(frozen=True)
class Usage:
    """Wall seconds and peak resident megabytes of one process."""

    seconds: float
    megabytes: float


def measure(command: list[str]) -> Usage:
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert child.stderr is not None
    said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - started
    if status != 0:
        raise SystemExit(f"{command}: {said.decode(errors='replace')[-500:]}")
    return Usage(seconds, usage.ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("symbol", type=Path)
    parser.add_argument("params", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "out.pth"
        convert = [
            str(Path(sys.executable).with_name("resnext-convert")),
            "mxnet",
            str(chosen.symbol),
            str(out),
            "--params",
            str(chosen.params),
            "-q",
        ]
        commands = {
            "conversion without proof": [*convert, "--no-verify"],
            "mx.nd.load + torch.save": [
                sys.executable,
                "-c",
                BY_HAND,
                str(chosen.params),
                str(Path(name) / "by_hand.pth"),
            ],
            "conversion with proof": [*convert, "--oracle", "none"],
            "conversion with proof and MXNet": [*convert, "--oracle", "mxnet"],
        }
        figures: dict[str, list[Usage]] = {what: [] for what in commands}
        for run in range(chosen.runs + 1):
            # In turn, so that a machine that slows down slows all of them.
            for what, command in commands.items():
                usage = measure(command)
                if run > 0:
                    figures[what].append(usage)
        print(
            f"{chosen.params.stat().st_size / 1e6:.0f} MB of weights, {os.cpu_count()} processors, {chosen.runs} runs"
        )
        for what, usages in figures.items():
            seconds = statistics.median(usage.seconds for usage in usages)
            megabytes = statistics.median(usage.megabytes for usage in usages)
            slowest = max(usage.seconds for usage in usages)
            print(f"{what:34} {seconds:6.2f} s (slowest {slowest:.2f})  {megabytes:6.0f} MB")
        answer = subprocess.run(
            [sys.executable, "-c", RATIO, str(chosen.symbol), str(chosen.params), str(out)],
            check=True,
            capture_output=True,
            text=True,
        )
        ratio = json.loads(answer.stdout)
        forward = statistics.median(ratio["forwards"])
        print(
            f"one float64 forward of the module, 224x224: {forward:.2f} s; both sides on one image of that size:"
            f" {ratio['full'] / forward:.2f} times that; the whole proof, three inputs:"
            f" {ratio['proof'] / forward:.2f} times"
        )


if __name__ == "__main__":
    main()
