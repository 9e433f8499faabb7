"""Mutates valid `.caffemodel.h5` files: only typed errors may escape, in bounded time and memory.

    python tests/fuzz_hdf5.py --count 100000

libhdf5 crashes on one in some thousand of these files, or comes to no end and takes memory until there is none. The
reader therefore runs it in a process of its own. Here a fork of this process stands for that, for many files one after
the other, because a new interpreter takes 0.1 s; it runs the same code, with the same limits for each file. What is
measured is the processor time and the memory of both.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import resource
import tempfile
import time
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import IO
from unittest import mock

import h5py
import numpy as np
from caffe_writer import RAMP, hdf5
from fuzz_caffemodel import change_bytes, outcome

from resnext_convert.converter import libhdf5
from resnext_convert.converter.caffe import hdf5 as reader
from resnext_convert.converter.caffe.weights import read_weights

MAX_SECONDS = 1.0  # of this process
MAX_PROCESS_SECONDS = 12.0  # of the other: its limit is 10 for a small file
MAX_PROCESS_MEMORY = 2**28  # more than this process has: the limit is 2**27, and 2 MiB for values
MAX_LEFT_OVER = 2**25  # by files before: libhdf5 does not give back what it took in an endless loop
FILES_A_PROCESS = 500
FIT, GROWN = b"+", b"-"  # whether the process can take another file
MEMORY_CONSTANT = 2**20
MEMORY_FACTOR = 128


@cache
def seeds() -> tuple[bytes, ...]:
    """Small valid files: in Caffe's form, in the newest form of HDF5, in chunks, compressed, big-endian, in doubles."""
    layers = {"conv": [RAMP, RAMP[0]], "bn": [RAMP[0], RAMP[1], RAMP[0, :1]], "relu": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seed.h5"
        files = [hdf5(path, layers).read_bytes()]
        packed = {"conv": [RAMP]}
        files.append(hdf5(path, packed, chunks=(2, 2), compression="gzip", shuffle=True, fletcher32=True).read_bytes())
        files.append(hdf5(path, {"conv": [RAMP.astype(">f8"), RAMP.astype(np.int16)], "shared": []}).read_bytes())
        files.append(_newest(path, layers))
        return tuple(files)


def _newest(path: Path, layers: dict[str, list[np.ndarray]]) -> bytes:
    with h5py.File(path, "w", libver="latest") as file:
        for name, blobs in layers.items():
            group = file.create_group(f"data/{name}", track_order=True)
            for index, array in enumerate(blobs):
                group.create_dataset(str(index), data=array, chunks=(1,) * array.ndim if index else None)
    return path.read_bytes()


def mutate(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """One to four random changes: of bytes that are not 0, as most of such a file is, or of an address."""
    for _ in range(rng.randint(1, 4)):
        if rng.random() < 0.5:
            data = _change_address(data, rng)
        else:
            written = np.flatnonzero(np.frombuffer(data, np.uint8))
            start = max(int(rng.choice(written)) - rng.randrange(8), 0) if len(written) else 0
            part = change_bytes(data[start : start + 16], rng, others)
            data = data[:start] + part[: rng.choice((16, 16, 16, len(part)))] + data[start + 16 :]
        if rng.random() < 0.02:
            data = change_bytes(data, rng, others)
    return data


def _change_address(data: bytes, rng: random.Random) -> bytes:
    """Puts one number that may be an address in the place of another: structures overlap, and contain themselves."""
    words = np.frombuffer(data[: len(data) // 4 * 4], "<u4").astype(np.int64)
    places = 4 * np.flatnonzero((words[1:] == 0) & (words[:-1] > 0) & (words[:-1] < len(data)))
    if not len(places):
        return data
    source, target = int(rng.choice(places)), int(rng.choice(places))
    return data[:target] + data[source : source + 8] + data[target + 8 :]


class Worker:
    """Stands in for `run_libhdf5`: one process for many files, until one of them is its end."""

    def __init__(self, folder: Path, serve: Callable[[str, IO[bytes]], None] = reader.serve) -> None:
        self._reader = serve
        self._answer = folder / "answer"
        self._served = 0
        self._process = 0
        self._requests = self._replies = -1

    def __call__(self, path: Path, module: str, output: IO[bytes]) -> tuple[int, str]:
        if not self._process:
            self._start()
        os.write(self._requests, os.fsencode(path) + b"\n")
        if reply := os.read(self._replies, 1):
            output.write(self._answer.read_bytes())
            output.flush()
            self._served += 1
            if reply == GROWN or self._served == FILES_A_PROCESS:
                self.stop()
            return 0, ""
        return self.stop(), "the process of the fuzzer failed"

    def _start(self) -> None:
        requests, self._requests = os.pipe()
        self._replies, replies = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on: NumPy's threads, which do nothing
            self._process = os.fork()
        if self._process == 0:
            try:
                os.close(self._requests)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                faulthandler.disable()  # libhdf5 crashes as expected; pytest's would tell of each
                self._serve(requests, replies)
            finally:
                os._exit(1)
        os.close(requests)
        os.close(replies)
        self._served = 0

    def _serve(self, requests: int, replies: int) -> None:
        start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with open(requests, "rb", buffering=0) as paths:
            for path in paths:
                for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU):  # as in a new process
                    _, hard = resource.getrlimit(kind)
                    resource.setrlimit(kind, (hard, hard))
                begin = time.process_time()
                with self._answer.open("wb") as output:
                    self._reader(os.fsdecode(path[:-1]), output)
                assert time.process_time() - begin < MAX_PROCESS_SECONDS
                grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start
                os.write(replies, FIT if grown * 1024 < MAX_LEFT_OVER else GROWN)
        os._exit(0)

    def stop(self) -> int:
        """Ends the process, if it has not ended already, and returns its status."""
        if not self._process:
            return 0
        os.close(self._requests)
        os.close(self._replies)
        _, status, usage = os.wait4(self._process, 0)
        self._process = 0
        grown = (usage.ru_maxrss - resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024
        assert grown < MAX_PROCESS_MEMORY, f"{grown} bytes in the other process"
        return os.waitstatus_to_exitcode(status)


def read_everything(path: Path) -> str:
    """Reads a file as weights and touches every array: ``read``, or the refusal without its names and numbers."""
    return outcome(path, lambda: [blob for layer in read_weights(path).layers for blob in layer.blobs])


def run(count: int, seed: int) -> Counter[str]:
    """Reads ``count`` mutated files and counts the outcomes.

    Raises:
        AssertionError: a file took more time or memory than its size allows.
        Exception: whatever else than an `InputError` the reader raised.
    """
    rng = random.Random(seed)
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(Path(folder))
        path = Path(folder) / "mutated.caffemodel.h5"
        with mock.patch.object(libhdf5, "run_libhdf5", worker):
            for case in range(count):
                data = mutate(rng.choice(seeds()), rng, seeds())
                path.write_bytes(data)
                try:
                    outcomes[_read_within_bounds(path, len(data))] += 1
                except Exception as error:
                    error.add_note(f"case {case} of seed {seed}: {data.hex()}")
                    raise
        worker.stop()
    return outcomes


def _read_within_bounds(path: Path, size: int) -> str:
    begin = time.process_time()
    tracemalloc.start()
    try:
        found = read_everything(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    seconds = time.process_time() - begin
    assert seconds < MAX_SECONDS, f"{seconds:.2f} s"
    assert peak <= MEMORY_CONSTANT + MEMORY_FACTOR * size, f"{peak} bytes for {size}"
    return found


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
