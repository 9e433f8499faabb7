"""Time and peak memory of whole conversions, beside what a user would otherwise do.

    python benchmarks/bench_conversion.py SYMBOL PARAMS [--runs 5]
    python benchmarks/bench_conversion.py PROTOTXT CAFFEMODEL [--runs 5]

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
MXNET_BY_HAND = """
import sys
from resnext_convert.converter.oracles.mxnet import import_mxnet
mx = import_mxnet()
import torch
loaded = mx.nd.load(sys.argv[1])
torch.save({name: torch.from_numpy(array.asnumpy()) for name, array in loaded.items()}, sys.argv[2])
"""

# The same for Caffe: Caffe's own schema, in which the numbers are `repeated float`.
CAFFE_PLAIN = """
import sys
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from resnext_convert.schemas import caffe_pb2

file = descriptor_pb2.FileDescriptorProto.FromString(caffe_pb2.DESCRIPTOR.serialized_pb)
file.name = "plain.proto"
blob = next(message for message in file.message_type if message.name == "BlobProto")
data = next(field for field in blob.field if field.name == "data")
data.type, data.options.packed = descriptor_pb2.FieldDescriptorProto.TYPE_FLOAT, True
pool = descriptor_pool.DescriptorPool()
pool.Add(file)
net = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.NetParameter"))()
with open(sys.argv[1], "rb") as stored:
    net.ParseFromString(stored.read())
arrays = {layer.name: [np.array(blob.data, np.float32) for blob in layer.blobs] for layer in net.layer}
"""

CAFFE_BY_HAND = (
    CAFFE_PLAIN
    + """
import torch
named = {f"{name}.{index}": array for name, blobs in arrays.items() for index, array in enumerate(blobs)}
torch.save({name: torch.from_numpy(array) for name, array in named.items()}, sys.argv[2])
"""
)

CAFFE_READ = """
import sys
from pathlib import Path
from resnext_convert.converter.caffe.weights import read_weights
read_weights(Path(sys.argv[1]))
"""

RATIO = """
import json, sys, time
from pathlib import Path
import torch
from resnext_convert.converter import checkpoint
from resnext_convert.converter.mxnet.source import read_pair as read_mxnet
from resnext_convert.converter.caffe.source import read_pair as read_caffe
from resnext_convert.converter.preprocess import input_spec
from resnext_convert.converter.resnext.match import match
from resnext_convert.converter.runner import ModuleRunner
from resnext_convert.converter.verify import prove

read_pair = read_mxnet if sys.argv[1].endswith(".json") else read_caffe
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
    parser.add_argument("graph", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    chosen = parser.parse_args()
    framework, option = ("mxnet", "--params") if chosen.graph.suffix == ".json" else ("caffe", "--weights")
    with tempfile.TemporaryDirectory() as name:
        out, by_hand = Path(name) / "out.pth", Path(name) / "by_hand.pth"
        program = str(Path(sys.executable).with_name("resnext-convert"))
        convert = [program, framework, str(chosen.graph), str(out), option, str(chosen.weights), "-q"]
        python = [sys.executable, "-c"]
        commands = {
            "conversion without proof": [*convert, "--no-verify"],
            "conversion with proof": [*convert, "--oracle", "none"],
        }
        if framework == "mxnet":
            commands |= {
                "mx.nd.load + torch.save": [*python, MXNET_BY_HAND, str(chosen.weights), str(by_hand)],
                "conversion with proof and MXNet": [*convert, "--oracle", "mxnet"],
            }
        else:
            commands |= {
                "reading the weights": [*python, CAFFE_READ, str(chosen.weights)],
                "plain protobuf read": [*python, CAFFE_PLAIN, str(chosen.weights)],
                "plain protobuf read + torch.save": [*python, CAFFE_BY_HAND, str(chosen.weights), str(by_hand)],
                "conversion with proof and OpenCV": [*convert, "--oracle", "opencv"],
            }
        figures: dict[str, list[Usage]] = {what: [] for what in commands}
        for run in range(chosen.runs + 1):
            # In turn, so that a machine that slows down slows all of them.
            for what, command in commands.items():
                usage = measure(command)
                if run > 0:
                    figures[what].append(usage)
        print(
            f"{chosen.weights.stat().st_size / 1e6:.0f} MB of weights, {os.cpu_count()} processors, {chosen.runs} runs"
        )
        for what, usages in figures.items():
            seconds = statistics.median(usage.seconds for usage in usages)
            megabytes = statistics.median(usage.megabytes for usage in usages)
            slowest = max(usage.seconds for usage in usages)
            print(f"{what:34} {seconds:6.2f} s (slowest {slowest:.2f})  {megabytes:6.0f} MB")
        answer = subprocess.run(
            [sys.executable, "-c", RATIO, str(chosen.graph), str(chosen.weights), str(out)],
            check=True,
            capture_output=True,
            text=True,
        )
        ratio = json.loads(answer.stdout)
        forward = statistics.median(ratio["forwards"])
        print(
            f"one float64 forward of the module, 224x224: {forward:.2f} s; both sides on one image of that size:"
            f" {ratio['full'] / forward:.2f} times that; the whole proof:"
            f" {ratio['proof'] / forward:.2f} times"
        )


if __name__ == "__main__":
    main()
