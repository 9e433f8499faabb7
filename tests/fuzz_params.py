"""Mutates valid `.params` files of every layout: only typed errors may escape, in bounded time and memory.

    python tests/fuzz_params.py --count 100000

The bound on memory: what Python and NumPy allocate while a file is read and all its arrays are touched stays below
`MEMORY_CONSTANT + MEMORY_FACTOR * the file's size`. Sparse arrays may take 1 MiB or 16 times the file, whatever is
more, when they are made dense; bfloat16 is widened to float32 in two steps, so that takes up to six times as much.
The rest is one small object per array.
"""

from __future__ import annotations

import argparse
import random
import re
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from functools import cache

import numpy as np
from mxnet_params_writer import LAYOUTS, TYPE_FLAGS, csr, dense, npy, params_list, row_sparse, zip_of

from resnext_convert.converter.errors import InputError
from resnext_convert.converter.mxnet.params import parse_params

MAX_SECONDS = 1.0  # of the processor: what else the machine does is no fault of the file
MEMORY_CONSTANT = 6 * 2**20
MEMORY_FACTOR = 128

_INTERESTING = (
    *(0, 1, 2, 3, 7, 8, 32, 33, 64, 0x7F, 0x80, 0xFF, 0x112, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1),
    *(0xF993FAC8, 0xF993FAC9, 0xF993FACA, 0xF993FACB, 2**60, 2**62, 2**63 - 1, 2**63, 2**64 - 3, 2**64 - 1),
)


@cache
def seeds() -> tuple[bytes, ...]:
    """Small valid files: every layout, every type, sparse storage, no names, and zips."""
    ramp = np.arange(6, dtype=np.float32).reshape(2, 3)
    sparse = [
        row_sparse((4, 3), [1, 3], ramp),
        csr((3, 4), [0, 2, 2, 3], [0, 3, 1], np.arange(3, dtype=np.float32)),
        dense(ramp),
    ]
    types = [
        dense(np.ones((2, 2), "uint16" if name == "bfloat16" else name), bfloat16=name == "bfloat16")
        for name in TYPE_FLAGS
    ]
    return (
        *(params_list([dense(ramp, layout), dense(ramp[0], layout)], ["arg:w", "aux:m"]) for layout in LAYOUTS),
        params_list([dense(ramp, layout) for layout in LAYOUTS], ["a", "b", "c", "d"]),
        params_list(types, list(TYPE_FLAGS)),
        params_list(sparse, ["arg:r", "arg:c", "arg:d"]),
        params_list(sparse[:1], ["arg:r"]),
        params_list([dense(ramp), dense(np.zeros((0, 3), np.float32)), dense(np.array(2.5, np.float32), "V3")]),
        params_list([]),
        zip_of({}),
        zip_of({"w.npy": npy(ramp), "m.npy": npy(ramp[0])}),
        zip_of({"w.npy": npy(ramp, header="{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }")}),
    )


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to four random changes of ``data``; half of the zips are packed again, so that their checksums are right."""
    if data[:2] == b"PK" and rng.random() < 0.5:
        array = np.arange(rng.randrange(7), dtype=rng.choice(["<f4", "<f2", "|u1"]))
        return zip_of({"w.npy": mutate(npy(array), rng)})
    for _ in range(rng.randint(1, 4)):
        data = rng.choice(_MUTATIONS)(data, rng)
    return data


def _flip_bit(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) or 1)
    return data[:place] + bytes(byte ^ 1 << rng.randrange(8) for byte in data[place : place + 1]) + data[place + 1 :]


def _set_byte(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) or 1)
    return data[:place] + rng.randbytes(1) + data[place + 1 :]


def _set_integer(data: bytes, rng: random.Random) -> bytes:
    size = rng.choice((4, 8))
    place = rng.randrange(len(data) // 4 + 1) * 4 + rng.choice((0, 0, 0, rng.randrange(4)))
    value = rng.choice(_INTERESTING) % (1 << 8 * size)
    return data[:place] + value.to_bytes(size, "little") + data[place + size :]


def _add_to_integer(data: bytes, rng: random.Random) -> bytes:
    if len(data) < 4:
        return data
    place = rng.randrange(len(data) // 4) * 4
    value = int.from_bytes(data[place : place + 4], "little") + rng.choice((-2, -1, 1, 2))
    return data[:place] + (value % 2**32).to_bytes(4, "little") + data[place + 4 :]


def _insert(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.randbytes(rng.randint(1, 16)) + data[place:]


def _delete(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) or 1)
    return data[:place] + data[place + rng.randint(1, 16) :]


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _swap(data: bytes, rng: random.Random) -> bytes:
    size = rng.choice((1, 4, 8))
    first, second = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    if first + size > second:
        return data
    return (
        data[:first]
        + data[second : second + size]
        + data[first + size : second]
        + data[first : first + size]
        + data[second + size :]
    )


def _splice(data: bytes, rng: random.Random) -> bytes:
    other = rng.choice(seeds())
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


_MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip_bit,
    _set_byte,
    _set_integer,
    _set_integer,
    _add_to_integer,
    _insert,
    _delete,
    _truncate,
    _swap,
    _splice,
)


def read_everything(data: bytes) -> str:
    """Reads a file and touches every array: ``read``, or the refusal with its names and numbers left out."""
    try:
        tensors = parse_params(memoryview(data), "mutated.params").tensors
    except InputError as error:
        refusal = error
    else:
        for tensor in tensors.values():
            array = tensor.numpy()
            array.tobytes()
            assert array.shape == tensor.shape
        return "read"
    assert str(refusal).startswith("mutated.params: ")
    assert refusal.hint, f"no hint: {refusal}"
    problem = re.sub(r"'.*'|[0-9]+", "…", refusal.problem)
    return f"{type(refusal).__name__}: {problem}"


def run(count: int, seed: int) -> Counter[str]:
    """Reads ``count`` mutated files and counts the outcomes.

    Raises:
        AssertionError: a file took a second, or more memory than its size allows.
        Exception: whatever else than an `InputError` the reader raised.
    """
    rng = random.Random(seed)
    outcomes: Counter[str] = Counter()
    tracemalloc.start()
    try:
        for case in range(count):
            data = mutate(rng.choice(seeds()), rng)
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            begin = time.process_time()
            try:
                outcomes[read_everything(data)] += 1
            except Exception as error:
                error.add_note(f"case {case} of seed {seed}: {data.hex()}")
                raise
            seconds = time.process_time() - begin
            peak = tracemalloc.get_traced_memory()[1] - before
            assert seconds < MAX_SECONDS, f"{seconds:.2f} s for case {case} of seed {seed}: {data.hex()}"
            allowed = MEMORY_CONSTANT + MEMORY_FACTOR * len(data)
            assert peak <= allowed, f"{peak} bytes for {len(data)} in case {case} of seed {seed}: {data.hex()}"
    finally:
        tracemalloc.stop()
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    begin = time.perf_counter()
    outcomes = run(arguments.count, arguments.seed)
    for outcome, times in outcomes.most_common():
        print(f"{times:8d}  {outcome}")
    print(f"{arguments.count} files in {time.perf_counter() - begin:.1f} s; only typed errors, time and memory bounded")


if __name__ == "__main__":
    main()
