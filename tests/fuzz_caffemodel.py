"""Mutates valid caffemodels and mean images: only typed errors may escape, in bounded time and memory.

    python tests/fuzz_caffemodel.py --count 100000

Half of the mutations are of bytes; the other half are of fields, so that all lengths around them are right and the
damage is inside. Each file is read as weights and as a mean image. The bound on memory: what Python and NumPy allocate
while a file is read and all its arrays are touched stays below `MEMORY_CONSTANT + MEMORY_FACTOR * the file's size`. It
does not see protobuf's own memory, so the process as a whole may grow by `GROWTH` at most.
"""

from __future__ import annotations

import argparse
import random
import re
import resource
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from caffe_writer import (
    RAMP,
    blob,
    layer,
    legacy,
    message,
    net,
    packed,
    raw,
    shape,
    solver_state,
    unpacked,
    v0_layer,
    v1_layer,
    varint,
)

from resnext_convert.converter.caffe.mean import read_mean
from resnext_convert.converter.caffe.weights import read_weights
from resnext_convert.converter.errors import InputError
from resnext_convert.converter.tensors import TensorRef

MAX_SECONDS = 1.0  # of the processor: what else the machine does is no fault of the file
MEMORY_CONSTANT = 2**20
MEMORY_FACTOR = 256
GROWTH = 2**27

_INTERESTING = (0, 1, 2, 3, 4, 7, 0x7F, 0x80, 0xFF, 0x112, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1)
_FIELDS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 50, 100, 1001)

Field = tuple[int, int, bytes]
"""Number, wire type, and what follows: the bytes of a number, or the content of a field with a length."""


@cache
def seeds() -> tuple[bytes, ...]:
    """Small valid files: every encoding of a blob, every form of a net, a mean image, a solver's state."""
    double = RAMP.astype(np.float64)
    four = legacy(num=1, channels=1, height=2, width=3)
    bn = [blob(RAMP[0]), blob(abs(RAMP[1])), blob(np.array([999.98], np.float32))]
    layers = {
        "fc": [blob(RAMP), blob(RAMP[0])],
        "chunks": [packed(RAMP, chunks=3) + shape((2, 3))],
        "loose": [unpacked(RAMP) + shape((2, 3))],
        "mixed": [packed(RAMP[:1]) + unpacked(RAMP[1:]) + shape((2, 3))],
        "double": [blob(double), packed(double) + packed(RAMP) + shape((2, 3)), unpacked(double) + shape((2, 3))],
        "raw": [raw(RAMP) + shape((2, 3)), raw(RAMP.astype(np.float16)) + shape((2, 3))],
        "diff": [blob(RAMP) + message(6, RAMP.tobytes())],
        "four": [packed(RAMP) + four + shape((9,)), blob(RAMP[0, 0])],
    }
    return (
        net(layer("conv", [blob(RAMP)]), layer("bn", bn, "BatchNorm"), layer("relu", kind="ReLU")),
        *(net(layer(name, blobs, more=message(1001, "of a fork"))) for name, blobs in layers.items()),
        net(old=[v1_layer("conv", [packed(RAMP) + four]), v1_layer("relu", kind=18)]),
        net(old=[v0_layer("conv", [packed(RAMP) + four]), v0_layer("pad", kind="padding")]),
        packed(np.ones((3, 4, 4), np.float32)) + legacy(num=1, channels=3, height=4, width=4),
        blob(np.ones((1, 3, 2, 2), np.float64)),
        solver_state("net_iter_5000.caffemodel", [blob(RAMP)]),
    )


def mutate(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """One to four random changes of ``data``."""
    for _ in range(rng.randint(1, 4)):
        data = change_field(data, rng) if rng.random() < 0.5 else change_bytes(data, rng, others)
    return data


def change_bytes(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """One random change anywhere; ``others`` are files of which a part may be put in its place."""
    return rng.choice(_MUTATIONS)(data, rng, others)


def _flip_bit(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    place = rng.randrange(len(data) or 1)
    return data[:place] + bytes(byte ^ 1 << rng.randrange(8) for byte in data[place : place + 1]) + data[place + 1 :]


def _set_byte(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    place = rng.randrange(len(data) or 1)
    return data[:place] + rng.randbytes(1) + data[place + 1 :]


def _set_integer(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    size, place = rng.choice((1, 2, 4, 8)), rng.randrange(len(data) + 1)
    value = rng.choice((*_INTERESTING, len(data), rng.randrange(len(data) + 1))) % (1 << 8 * size)
    return data[:place] + value.to_bytes(size, "little") + data[place + size :]


def _insert(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.randbytes(rng.randint(1, 16)) + data[place:]


def _delete(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    place = rng.randrange(len(data) or 1)
    return data[:place] + data[place + rng.randint(1, 16) :]


def _truncate(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _copy(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    source, target = (rng.randrange(len(data) + 1) for _ in range(2))
    part = data[source : source + rng.choice((1, 2, 4, 8, 16))]
    return data[:target] + part + data[target + len(part) :]


def _splice(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


_MUTATIONS: tuple[Callable[[bytes, random.Random, Sequence[bytes]], bytes], ...] = (
    _flip_bit, _set_byte, _set_integer, _insert, _delete, _truncate, _copy, _splice,
)  # fmt: skip


def change_field(data: bytes, rng: random.Random) -> bytes:
    """One random change of a message's fields or, deeper down, of one field's content."""
    fields = split(data)
    if not fields:
        return change_bytes(data, rng, seeds())
    place = rng.randrange(len(fields))
    field, wire, content = fields[place]
    match rng.randrange(8):
        case 0:
            fields[place : place + 1] = []
        case 1:
            fields.insert(rng.randrange(len(fields) + 1), (field, wire, content))
        case 2:
            fields[place] = (rng.choice(_FIELDS), wire, content)
        case 3:
            fields[place] = (field, 0, varint(rng.choice(_INTERESTING)))
        case 4:
            fields.insert(place, (rng.choice(_FIELDS), rng.choice((1, 5)), rng.randbytes(8)))
        case _:
            fields[place] = (field, wire, change_field(content, rng) if wire == 2 else rng.randbytes(len(content)))
    return b"".join(map(_joined, fields))


def split(data: bytes) -> list[Field]:
    """The fields of a message; empty if it is none."""
    fields = []
    while data:
        tag, data = _varint(data)
        wire = tag & 7
        if wire == 0:
            value, data = _varint(data)
            content = varint(value)
        else:
            size, data = _varint(data) if wire == 2 else ({1: 8, 5: 4}.get(wire, -1), data)
            if not 0 <= size <= len(data):
                return []
            content, data = data[:size], data[size:]
        fields.append((tag >> 3, wire, content))
    return fields


def _varint(data: bytes) -> tuple[int, bytes]:
    size = next((place for place, byte in enumerate(data[:10]) if byte < 0x80), len(data) - 1) + 1
    return sum((byte & 0x7F) << 7 * place for place, byte in enumerate(data[:size])), data[size:]


def _joined(field: Field) -> bytes:
    number, wire, content = field
    if wire == 2:
        return message(number, content)
    return varint(number << 3 | wire) + content[: {1: 8, 5: 4}.get(wire, len(content))]


def read_everything(path: Path) -> str:
    """Reads a file as weights and touches every array: ``read``, or the refusal without its names and numbers."""
    return outcome(path, lambda: [blob for layer in read_weights(path).layers for blob in layer.blobs])


def outcome(path: Path, read: Callable[[], Sequence[TensorRef | None]]) -> str:
    """What comes of reading a file.

    Raises:
        AssertionError: an array is not what it should be, or an error says no file or no hint.
        Exception: whatever else than an `InputError` the reader raised.
    """
    try:
        tensors = read()
    except InputError as error:
        refusal = error
    else:
        for tensor in filter(None, tensors):
            array = tensor.numpy()
            array.tobytes()
            assert array.shape == tensor.shape
            assert array.flags.writeable
        return "read"
    assert str(refusal).startswith(f"{path}: "), refusal
    assert refusal.hint, f"no hint: {refusal}"
    problem = re.sub(r"'.*'|[0-9]+", "…", refusal.problem)
    return f"{type(refusal).__name__}: {problem}"


def run(count: int, seed: int) -> Counter[str]:
    """Reads ``count`` mutated files and counts the outcomes.

    Raises:
        AssertionError: a file took a second, or more memory than its size allows.
        Exception: whatever else than an `InputError` a reader raised.
    """
    rng = random.Random(seed)
    outcomes: Counter[str] = Counter()
    grown = _peak()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutated.caffemodel"
        tracemalloc.start()
        try:
            for case in range(count):
                data = mutate(rng.choice(seeds()), rng, seeds())
                path.write_bytes(data)
                tracemalloc.reset_peak()
                before, _ = tracemalloc.get_traced_memory()
                begin = time.process_time()
                try:
                    outcomes[read_everything(path)] += 1
                    mean = outcome(path, lambda: [read_mean(path).image])
                    outcomes["read as a mean image"] += mean == "read"
                except Exception as error:
                    error.add_note(f"case {case} of seed {seed}: {data.hex()}")
                    raise
                seconds = time.process_time() - begin
                peak = tracemalloc.get_traced_memory()[1] - before
                assert seconds < MAX_SECONDS, f"{seconds:.2f} s for case {case} of seed {seed}: {data.hex()}"
                allowed = MEMORY_CONSTANT + MEMORY_FACTOR * len(data)
                assert peak <= allowed, f"{peak} bytes for {len(data)} in case {case} of seed {seed}: {data.hex()}"
                assert _peak() - grown < GROWTH, f"the process has grown in case {case} of seed {seed}: {data.hex()}"
        finally:
            tracemalloc.stop()
    return outcomes


def _peak() -> int:
    """The most memory that the process has had, in bytes (kilobytes on Linux, bytes on macOS: then a loose bound)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    begin = time.perf_counter()
    outcomes = run(arguments.count, arguments.seed)
    for text, times in outcomes.most_common():
        print(f"{times:8d}  {text}")
    print(f"{arguments.count} files in {time.perf_counter() - begin:.1f} s; only typed errors, time and memory bounded")


if __name__ == "__main__":
    main()
