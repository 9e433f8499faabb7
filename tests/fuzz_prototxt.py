"""Mutates valid prototxts of every form: only typed errors may escape, in bounded time and memory.

    python tests/fuzz_prototxt.py --count 100000

Most mutations are of tokens, so that the text stays near a net. What is read is made a graph. What Python allocates
meanwhile stays below `MEMORY_CONSTANT + MEMORY_FACTOR * the file's size` (looked at for every `TRACED`th file).
"""

from __future__ import annotations

import argparse
import random
import re
import resource
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable

from resnext_convert.converter.caffe.network import build_network
from resnext_convert.converter.caffe.prototxt import Prototxt, parse_prototxt
from resnext_convert.converter.errors import InputError

MAX_SECONDS = 1.0  # of the processor: what else the machine does is no fault of the file
MEMORY_CONSTANT = 2 * 2**20
MEMORY_FACTOR = 128
TRACED = 8  # every so many files memory is traced, which takes several times as long as reading
GROWTH = 2**27

TOKEN = re.compile(r"""#.*|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|[\w.+-]+|\s+|.""")

V2 = r"""
# a net of every kind of parameter
name: "net" state { level: 1 stage: "s" }
layer { name: "data" type: "Input" top: "data" input_param: { shape: { dim: 1 dim: 3 dim: 224 dim: 0xE0 } } }
layer {
  name: "conv\057a" type: "Convolution" bottom: "data" top: "c"  # a comment
  param { lr_mult: 1 decay_mult: 1.0f name: 'w' share_mode: PERMISSIVE }, param < lr_mult: 2; >
  convolution_param { num_output: 011 kernel_size: [3, 3] stride: 2 pad: 1 group: 3 bias_term: false engine: CUDNN
                      weight_filler { type: "msra" std: -inf max: nan } dilation: 1 }
}
layer { name: "bn" type: "BatchNorm" bottom: "c" top: "c" param {} param {} param {}
        batch_norm_param { use_global_stats: true eps: 2e-5 moving_average_fraction: .999 } }
layer { name: "sc" type: "Scale" bottom: "c" top: "c" scale_param { bias_term: t axis: -3 num_axes: 1 } }
layer { name: "re" type: "ReLU" bottom: "c" top: "c" relu_param { negative_slope: 1E-1f } }
layer { name: "p" type: "Pooling" bottom: "c" top: "p"
        pooling_param { pool: MAX kernel_size: 3 stride: 2 ceil_mode: 0 } }
layer { name: "q" type: "Pooling" bottom: "c" top: "q"
        pooling_param { pool: 1 kernel_h: 3 kernel_w: 3 stride: 2 round_mode: FLOOR } }
layer { name: "e" type: "Eltwise" bottom: ["p", "q"] top: "e" eltwise_param { operation: SUM coeff: [1, -0.5] } }
layer { name: "own" type: "Own" bottom: "e" top: "o"
        own_param { a: { b: 1 } b < c: "d" "e" > d: [1, "f" "g", h] [x.googleapis.com/z.w] { f: -1 } } }
layer { name: "f" type: "InnerProduct" bottom: "o" top: "f" inner_product_param { num_output: 5 transpose: True } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "f" bottom: "l" top: "loss" loss_weight: 1
        include: { phase: TRAIN not_stage: "s" } exclude [] loss_param { ignore_label: -1 } }
layer { name: "prob" type: "Softmax" bottom: "f" top: "prob" include { phase: TEST min_level: -1 max_level: 2 } }
"""

V1 = """
name: "old"
input: "data" input: "more" input_dim: [1, 3, 8, 8] input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8
layers { bottom: "data" top: "c" name: "c" type: CONVOLUTION blobs_lr: 1 blobs_lr: 2 weight_decay: 1 param: "w"
         blob_share_mode: STRICT convolution_param { num_output: 8 kernel_size: 3 } include { phase: TEST } }
layers { top: "d" top: "l" name: "d" type: DATA data_param { batch_size: 8 scale: 0.5 mean_file: "m" crop_size: 8 }
         transform_param { mirror: true mean_value: 104 mean_value: 117 } include: { phase: TRAIN } }
layers { bottom: "c" top: "r" name: "r" type: RELU }
layers { bottom: "r" top: "s" name: "s" type: SOFTMAX }
"""

V0 = """
name: "older" input: "data" input_shape { dim: 1 dim: 4 dim: 8 dim: 8 }
layers { layer { name: "pad" type: "padding" pad: 2 } bottom: "data" top: "wide" }
layers { layer { name: "c" type: "conv" num_output: 8 kernelsize: 5 biasterm: false group: 2 blobs_lr: 1 }
         bottom: "wide" top: "c" }
layers { layer { name: "p" type: "pool" pool: AVE kernelsize: 3 stride: 2 } bottom: "c" top: "p" }
layers { layer { name: "d" type: "data" source: "s" batchsize: 4 meanfile: "m" scale: 0.5 cropsize: 7 } top: "d" }
layers { layer { name: "f" type: "innerproduct" num_output: 5 } bottom: "p" top: "f" }
"""

SEEDS = (V2, V1, V0)

_NAMES = (
    *("layer", "layers", "name", "type", "bottom", "top", "param", "include", "exclude", "blobs", "input", "input_dim"),
    *(
        "input_shape",
        "dim",
        "state",
        "convolution_param",
        "pooling_param",
        "foo_param",
        "data",
        "phase",
        "shape",
        "net",
    ),
    *("num_output", "kernel_size", "pad", "axis", "eps", "stage", "level", "foo", "5", "a-b", "é"),
)
_VALUES = (
    *(
        "TEST",
        "TRAIN",
        "CONVOLUTION",
        "MAX",
        "FLOOR",
        "true",
        "false",
        "inf",
        "nan",
        "-inf",
        "Infinity",
        "t",
        "f",
        "{}",
    ),
    *(
        "0",
        "1",
        "-1",
        "4",
        "007",
        "08",
        "0x1F",
        "0x",
        "1e5",
        "1e999",
        "-1e-999",
        ".5",
        "5.",
        "1.0f",
        "1ff",
        "- 1",
        "--1",
    ),
    *("2147483647", "2147483648", "4294967296", "-2147483649", "9" * 30, "9" * 5000, "0x" + "f" * 5000, "1" + "e" * 50),
    *('""', "''", '"a"', "'b' \"c\"", '"', "'", '"\\', r'"\xff"', r'"\777"', r'"\u00e9"', r'"\n"', '"é"', '"data"'),
    *("[1, 2]", "[]", '["a", "b"]', "[{}]", '"padding"', '"conv"', '"' + "n" * 5000 + '"'),
)
_WORDS = (
    *_NAMES,
    *_VALUES,
    *("{", "}", "<", ">", "[", "]", ":", ";", ",", "#", "\n", "/", ".", "$", "\\", "[a.b]", "[a.b/c.d]", "é", "\x00"),
    *("{}", "<>", "[]", ": {", "a: [", "a {", 'name: "x"', "type: RELU", 'type: "ReLU"', "layer {}", "layers {}"),
    *("include {}", "exclude {}", "input_dim: 1", 'input: "x"', "blobs { data: 0.5 }", 'blobs { data: "abcd" }'),
)


def mutate(seed: str, rng: random.Random) -> bytes:
    """A few random changes: of the tokens, of the layout, of the bytes."""
    tokens = TOKEN.findall(seed)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3))):
        rng.choice(_OF_TOKENS)(tokens, rng)
    text = "".join(tokens)
    if rng.random() < 0.3:
        text = rng.choice(_OF_LAYOUT)(text, rng)
    data = text.encode()
    for _ in range(rng.choice((0, 0, 0, 0, 0, 1, 2))):
        data = rng.choice(_OF_BYTES)(data, rng)
    return data


def _place(tokens: list[str], rng: random.Random) -> int:
    """Of a token that is not a blank, if luck allows."""
    for _ in range(8):
        place = rng.randrange(len(tokens) or 1)
        if tokens and not tokens[place].isspace():
            break
    return place


def _drop(tokens: list[str], rng: random.Random) -> None:
    place = _place(tokens, rng)
    tokens[place : place + 1] = []


def _replace(tokens: list[str], rng: random.Random) -> None:
    place = _place(tokens, rng)
    tokens[place : place + 1] = [rng.choice(_WORDS)]


def _insert(tokens: list[str], rng: random.Random) -> None:
    place = _place(tokens, rng)
    tokens[place:place] = [" ", rng.choice(_WORDS), " "]


def _swap(tokens: list[str], rng: random.Random) -> None:
    if tokens:
        i, j = _place(tokens, rng), _place(tokens, rng)
        tokens[i], tokens[j] = tokens[j], tokens[i]


def _copy_span(tokens: list[str], rng: random.Random) -> None:
    start, to = _place(tokens, rng), _place(tokens, rng)
    tokens[to:to] = tokens[start : start + rng.randint(1, 40)]


def _drop_span(tokens: list[str], rng: random.Random) -> None:
    start = _place(tokens, rng)
    tokens[start : start + rng.randint(1, 40)] = []


def _field(tokens: list[str], rng: random.Random) -> tuple[int, int]:
    """The places of a field's name and of its value, which is not a block; the text stays well-formed around it."""
    for _ in range(8):
        place = rng.choice([place for place, token in enumerate(tokens) if token == ":"] or [1])
        end = place + 2
        if tokens[end : end + 1] and tokens[end][0] not in "{<[ \n":
            return place - 1, end
    return 0, 0


def _change_value(tokens: list[str], rng: random.Random) -> None:
    _, place = _field(tokens, rng)
    tokens[place : place + 1] = [rng.choice(_VALUES)]


def _rename(tokens: list[str], rng: random.Random) -> None:
    place, _ = _field(tokens, rng)
    tokens[place : place + 1] = [rng.choice(_NAMES)]


def _drop_field(tokens: list[str], rng: random.Random) -> None:
    start, end = _field(tokens, rng)
    tokens[start : end + 1] = []


def _copy_field(tokens: list[str], rng: random.Random) -> None:
    (start, end), (to, _) = _field(tokens, rng), _field(tokens, rng)
    tokens[to:to] = [*tokens[start : end + 1], " "]


def _block(tokens: list[str], rng: random.Random) -> tuple[int, int]:
    """Where a block begins, with its name, and where it ends."""
    start = rng.choice([place for place, token in enumerate(tokens) if token == "{"] or [0])
    depth, end = 0, start
    for end in range(start, len(tokens)):
        depth += (tokens[end] == "{") - (tokens[end] == "}")
        if depth == 0:
            break
    while start > 0 and not re.match(r"\w", tokens[start]):
        start -= 1
    return start, end + 1


def _drop_block(tokens: list[str], rng: random.Random) -> None:
    start, end = _block(tokens, rng)
    tokens[start:end] = []


def _copy_block(tokens: list[str], rng: random.Random) -> None:
    (start, end), (to, _) = _block(tokens, rng), _block(tokens, rng)
    tokens[to:to] = [*tokens[start:end], " "]


_OF_TOKENS: tuple[Callable[[list[str], random.Random], None], ...] = (
    *(_drop, _replace, _replace, _insert, _swap, _copy_span, _drop_span),
    *(_change_value, _change_value, _change_value, _rename, _rename, _drop_field, _drop_field, _copy_field),
    *(_drop_block, _drop_block, _copy_block),
)


def _other_line_ends(text: str, rng: random.Random) -> str:
    return text.replace("\n", rng.choice(("\r\n", "\r", "\n\n", "\n\t", " \f\n")))


def _other_brackets(text: str, rng: random.Random) -> str:
    opened, closed = rng.choice(((": {", "}"), ("<", ">"), (":<", ">;"), ("{ # x\n", "},"), ("{", ">")))
    return text.replace("{", opened).replace("}", closed)


def _one_line(text: str, rng: random.Random) -> str:
    bare = re.sub(r"#.*", "", text)
    return " ".join(bare.split("\n")) * rng.choice((1, 1, 2, 5)) + " " * rng.choice((0, 5000))


def _nest(text: str, rng: random.Random) -> str:
    depth, place = rng.choice((10, 100, 1000, 20_000)), rng.randrange(len(text) + 1)
    opened = rng.choice(("a {", "layer {", "a: [", "<", "{", "a <", "layers { layer {", '"\\"', "[a.b] {"))
    closed = rng.choice(("", "}", ">", "]"))
    return text[:place] + opened * depth + closed * depth + text[place:]


def _many(text: str, rng: random.Random) -> str:
    """Many short fields, on one line or on many."""
    place = rng.choice([match.end() for match in re.finditer(r"[{\n]", text)] or [0])
    field = rng.choice(
        ("foo: 1", "foo { a: 1 }", 'foo: "a"', "dim: 1", "layer {}", 'input: "a"', "foo: [1, 2]", "foo: a")
    )
    return text[:place] + (field + rng.choice((" ", "\n", ";", ", "))) * rng.choice((10, 2000)) + text[place:]


def _mark(text: str, rng: random.Random) -> str:
    return rng.choice(("\ufeff", "\ufeff\ufeff", "\n" * 5000, "<html>", "{", "#", "\x00", "net: 'a' ")) + text


_OF_LAYOUT = (_other_line_ends, _other_brackets, _one_line, _nest, _many, _mark)


def _flip_bit(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) or 1)
    return data[:place] + bytes(byte ^ 1 << rng.randrange(8) for byte in data[place : place + 1]) + data[place + 1 :]


def _insert_bytes(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    return (
        data[:place]
        + rng.choice((rng.randbytes(4), b'"', b"'", b"#", b"}", b"\n", b"\xff", b"\xc4\xe3"))
        + data[place:]
    )


def _delete_bytes(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) or 1)
    return data[:place] + data[place + rng.randint(1, 16) :]


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


_OF_BYTES = (_flip_bit, _insert_bytes, _delete_bytes, _truncate)


def read_everything(data: bytes) -> str:
    """Reads a net and makes its graph: ``built``, or the refusal with its names and numbers left out."""
    try:
        found = parse_prototxt(data, "mutated.prototxt")
        check(found)
        build_network(found.net, "mutated.prototxt")
    except InputError as error:
        refusal = error
    else:
        return "built"
    assert str(refusal).startswith("mutated.prototxt: "), refusal
    assert refusal.hint, f"no hint: {refusal}"
    assert len(str(refusal)) < 2000
    problem = re.sub(r"['\"].*|[0-9]+.*|value:? .*|got .*", "…", refusal.problem)
    return f"{type(refusal).__name__}: {problem:.100}"


def check(found: Prototxt) -> None:
    """What holds for every net that was read."""
    net = found.net
    assert net.layer
    assert {field.name for field, _ in net.ListFields()} <= {"name", "state", "layer"}
    assert sum(map(len, found.notes)) < 5000
    assert all(note.isprintable() for note in found.notes)
    written = net.SerializeToString(deterministic=True)
    assert type(net).FromString(written).SerializeToString(deterministic=True) == written


def run(count: int, seed: int) -> Counter[str]:
    """Reads ``count`` mutated files and counts the outcomes; raises where one took too long or too much memory."""
    rng = random.Random(seed)
    outcomes: Counter[str] = Counter()
    grown = _peak()
    for case in range(count):
        data = mutate(rng.choice(SEEDS), rng)
        where = f"case {case} of seed {seed}: {data[:5000]!r}"
        begin = time.process_time()
        if case % TRACED == 0:
            tracemalloc.start()
        try:
            outcomes[read_everything(data)] += 1
        except Exception as error:
            error.add_note(where)
            raise
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        seconds = time.process_time() - begin
        assert seconds < MAX_SECONDS, f"{seconds:.2f} s for {where}"
        allowed = MEMORY_CONSTANT + MEMORY_FACTOR * len(data)
        assert peak <= allowed, f"{peak} bytes for {len(data)} in {where}"
        assert _peak() - grown < GROWTH, f"the process has grown in {where}"
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
    for outcome, times in run(arguments.count, arguments.seed).most_common():
        print(f"{times:8d}  {outcome}")
    print(f"{arguments.count} files in {time.perf_counter() - begin:.1f} s; only typed errors, time and memory bounded")


if __name__ == "__main__":
    main()
