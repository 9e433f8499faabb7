"""Mutates valid `-symbol.json` files of every dialect: only typed errors may escape, in bounded time and memory.

    python tests/fuzz_symbol.py --count 100000

What is read is also bound to a fitting params file, and its shapes and values are checked. The bound on memory: what
Python allocates meanwhile stays below `MEMORY_CONSTANT + MEMORY_FACTOR * the file's size`.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import re
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

from mxnet_graphs import Document, document, params, variables

from resnext_convert.converter.errors import InputError
from resnext_convert.converter.mxnet.binding import bind
from resnext_convert.converter.mxnet.checks import check_shapes, check_values
from resnext_convert.converter.mxnet.params import ParamsFile
from resnext_convert.converter.mxnet.symbol import parse_symbol

MAX_SECONDS = 1.0  # of the processor: what else the machine does is no fault of the file
MEMORY_CONSTANT = 4 * 2**20
MEMORY_FACTOR = 256

_STATISTICS = ("bn_gamma", "bn_beta", "bn_moving_mean", "bn_moving_var")
TENSORS = {"arg:conv_weight": (8, 3, 3, 3), "arg:conv_bias": (8,), "arg:fc_weight": (5, 8), "arg:slope_gamma": (8,)}
TENSORS |= {f"{'aux' if 'moving' in name else 'arg'}:{name}": (8,) for name in _STATISTICS}

_VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 7, 900, 4096, 2**31, 2**63, 2**200, 0.5, 1e308, float("nan"), float("inf")),
    *(
        "",
        "x",
        "null",
        "Convolution",
        "BatchNorm",
        "conv",
        "\x00",
        "\ud800",
        [],
        {},
        [[]],
        [0],
        [0, 0],
        [0, 0, 0],
        [-1, 0],
    ),
)
_TEXTS = (
    *(
        "",
        " ",
        "(",
        ")",
        "()",
        "(,)",
        "(1",
        "(1,",
        "1",
        "(1,1)",
        "[1,1]",
        "(1,1]",
        "(-1,1)",
        "(0,0)",
        "(1, 1, 1)",
        "(2L, 2L)",
    ),
    *("None", "(None,)", "True", "false", "0", "2", "-1", "-2", "nan", "inf", "1e-5", "1e999", "-1e-5", "0x10", "1_0"),
    *(
        "9" * 5000,
        "(" * 5000,
        "1" + "e" * 50,
        "99999999999",
        "(99999999999, 1)",
        "4096",
        "4097",
        "١",
        "max",
        "full",
        "same",
    ),
)
_NAMES = (
    "kernel",
    "stride",
    "no_bias",
    "num_args",
    "num_outputs",
    "axis",
    "eps",
    "__shape__",
    "lr_mult",
    "shape",
    "layout",
)


@cache
def seeds() -> tuple[str, ...]:
    """One network of many operators in the dialects of 0.8, 0.9 and 1.x."""
    bn = [*_STATISTICS]
    nodes = [
        *variables("data", "conv_weight", "conv_bias", *bn, "slope_gamma", "fc_weight", "softmax_label"),
        ("Convolution", "conv", [0, 1, 2], {"kernel": "(3, 3)", "num_filter": "8", "pad": "(1, 1)"}),  # 10
        ("BatchNorm", "bn", [10, 3, 4, 5, 6], {"fix_gamma": "False", "eps": "2e-05"}),
        ("LeakyReLU", "slope", [11, 7], {"act_type": "prelu"}),
        ("SliceChannel", "parts", [12], {"num_outputs": "2", "axis": "1"}),
        ("Concat", "join", [(13, 0), (13, 1)], {"num_args": "2", "dim": "1"}),
        ("_mul_scalar", "scale", [14], {"scalar": "0.5"}),
        ("MyOperator", "mine", [15, 0], {"anything": "goes", "__mark__": "yes"}),
        ("elemwise_add", "plus", [15, 14], {}),
        ("add_n", "sum", [17, 12, 11], {"num_args": "3"}),
        ("slice", "cut", [18], {"begin": "(0, 0)", "end": "(None, 8)", "step": "(1, 1)"}),
        ("Pooling", "pool", [19], {"kernel": "(7, 7)", "global_pool": "True", "pool_type": "avg"}),
        ("Reshape", "flat", [20], {"shape": "(0, -1)"}),
        ("FullyConnected", "fc", [21, 8], {"num_hidden": "5", "no_bias": "True"}),
        ("SoftmaxOutput", "softmax", [22, 9], {}),
    ]
    now = document(*nodes, heads=[[len(nodes) - 1, 0, 0], [16, 0, 0]])
    before = copy.deepcopy(now) | {"attrs": {"mxnet_version": ["int", 905]}}
    first = copy.deepcopy(now)
    del first["attrs"]
    for item in before["nodes"]:
        item["attr"] = item.pop("attrs")
    for item in first["nodes"]:
        item["param"] = item.pop("attrs")
        item["backward_source_id"] = -1
        item["inputs"] = [entry[:2] for entry in item["inputs"]][: 3 if item["op"] == "BatchNorm" else None]
    return json.dumps(now), json.dumps(before), json.dumps(first)


@cache
def tensors() -> ParamsFile:
    return params(TENSORS)


def mutate(seed: str, rng: random.Random) -> bytes:
    """A few random changes: of the graph, of its text, of its bytes."""
    found = json.loads(seed)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3))):
        rng.choice(_OF_GRAPH)(found, rng)
    text = json.dumps(found)
    if rng.random() < 0.05:
        text = _of_text(text, rng)
    data = text.encode()
    for _ in range(rng.choice((0, 0, 0, 0, 0, 1, 2))):
        data = rng.choice(_OF_BYTES)(data, rng)
    return data


def _place(found: Document, rng: random.Random, kind: type = object) -> tuple[Any, Any]:
    """A random place of the graph, (container, key), whose value is of a kind if luck allows; mostly in a node."""
    place: tuple[Any, Any] = ({"": 0}, "")
    for _ in range(8):
        value: Any = found["nodes"] if rng.random() < 0.8 and "nodes" in found else found
        while isinstance(value, (dict, list)) and value and rng.random() < 0.9:
            key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
            place, value = (value, key), value[key]
        if isinstance(place[0][place[1]], kind):
            break
    return place


def _drop(found: Document, rng: random.Random) -> None:
    container, key = _place(found, rng)
    del container[key]


def _retype(found: Document, rng: random.Random) -> None:
    container, key = _place(found, rng)
    container[key] = copy.deepcopy(rng.choice(_VALUES))


def _swap(found: Document, rng: random.Random) -> None:
    kind = rng.choice((object, int, str, list, dict))
    (first, i), (second, j) = _place(found, rng, kind), _place(found, rng, kind)
    first[i], second[j] = copy.deepcopy(second[j]), copy.deepcopy(first[i])


def _change_number(found: Document, rng: random.Random) -> None:
    container, key = _place(found, rng, int)
    if isinstance(container[key], int):
        container[key] += rng.choice((-2, -1, 1, 2, 100))


def _change_text(found: Document, rng: random.Random) -> None:
    container, key = _place(found, rng, str)
    old = str(container[key])
    place = rng.randrange(len(old) + 1)
    cut = old[:place] + rng.choice("()[],.-+eLN 09\x00é") + old[place + rng.randint(0, 1) :]
    container[key] = rng.choice((rng.choice(_TEXTS), cut))


def _add_attribute(found: Document, rng: random.Random) -> None:
    container, key = _place(found, rng, dict)
    if isinstance(container[key], dict):
        container[key][rng.choice((*_NAMES, "attr", "attrs", "param"))] = rng.choice(_TEXTS)


def _repeat_node(found: Document, rng: random.Random) -> None:
    nodes = found.get("nodes")
    if isinstance(nodes, list) and nodes:
        nodes.insert(rng.randrange(len(nodes) + 1), copy.deepcopy(rng.choice(nodes)))


_OF_GRAPH: tuple[Callable[[Document, random.Random], None], ...] = (
    _drop,
    _retype,
    _swap,
    _change_number,
    _change_number,
    _change_text,
    _change_text,
    _add_attribute,
    _repeat_node,
)


def _of_text(text: str, rng: random.Random) -> str:
    """A key twice in one object, deep nesting, a number of many digits, a byte order mark."""
    place = rng.choice([match.end() for match in re.finditer(r"[{\[]", text)] or [0])
    depth = rng.choice((10, 1000, 100_000))
    added = rng.choice(
        (
            '"op": "null", "op": "null",',
            "[" * depth,
            "[" * depth + "]" * depth,
            '{"a":' * depth,
            "1" * 5000 + ",",
            "\ufeff",
        )
    )
    return text[:place] + added + text[place:]


def _flip_bit(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) or 1)
    return data[:place] + bytes(byte ^ 1 << rng.randrange(8) for byte in data[place : place + 1]) + data[place + 1 :]


def _insert(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.choice((rng.randbytes(4), b'"', b",", b"{", b"]", b"-", b"NaN", b"1e999")) + data[place:]


def _delete(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) or 1)
    return data[:place] + data[place + rng.randint(1, 16) :]


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


_OF_BYTES = (_flip_bit, _insert, _delete, _truncate)


def read_everything(data: bytes) -> str:
    """Reads and binds a graph: ``read``, or the refusal with its names and numbers left out."""
    try:
        bound = bind(parse_symbol(data, "mutated.json"), tensors())
        check_shapes(bound.graph, tensors().tensors)
        check_values(bound.graph, tensors().tensors)
    except InputError as error:
        refusal = error
    else:
        written = [*bound.graph.inputs, *(value for node in bound.graph.nodes for value in node.outputs)]
        assert len(set(written)) == len(written), "a value is written twice"
        there = set(bound.graph.inputs)
        for node in bound.graph.nodes:
            assert there.issuperset(node.inputs), f"{node} reads what is not yet there"
            there.update(node.outputs)
        assert there.issuperset(bound.graph.outputs)
        return "read"
    assert refusal.hint, f"no hint: {refusal}"
    problem = re.sub(r"'.*'|\(.*|[0-9]+", "…", refusal.problem)
    return f"{type(refusal).__name__}: {problem}"


def run(count: int, seed: int) -> Counter[str]:
    """Reads ``count`` mutated files and counts the outcomes.

    Raises:
        AssertionError: a file took a second, or more memory than its size allows.
        Exception: whatever else than an `InputError` the reader raised.
    """
    rng = random.Random(seed)
    outcomes: Counter[str] = Counter()
    tensors()
    for case in range(count):
        data = mutate(rng.choice(seeds()), rng)
        begin = time.process_time()
        tracemalloc.start()
        try:
            outcomes[read_everything(data)] += 1
        except Exception as error:
            error.add_note(f"case {case} of seed {seed}: {data[:5000]!r}")
            raise
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        seconds = time.process_time() - begin
        assert seconds < MAX_SECONDS, f"{seconds:.2f} s for case {case} of seed {seed}: {data[:5000]!r}"
        allowed = MEMORY_CONSTANT + MEMORY_FACTOR * len(data)
        assert peak <= allowed, f"{peak} bytes for {len(data)} in case {case} of seed {seed}: {data[:5000]!r}"
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
