"""The page that a report becomes."""

from __future__ import annotations

import math
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from records import FED, HOSTILE, RECORDS, STOCK, diff, every_record, failed, hostile, report

from resnext_convert.converter.domain import InputDomain
from resnext_convert.converter.origin import PixelTransform
from resnext_convert.converter.records import Record, verdict
from resnext_convert.converter.report import figure, place, to_html
from resnext_convert.converter.resnext.ledger import Binding, Transform
from resnext_convert.converter.text import printable

VOID = {"meta", "rect", "line"}


class Page(HTMLParser):
    """The elements and the text of a page; fails where elements are not nested as they must be."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self.feed(to_html(record).decode("utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.said.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())

    def classed(self, tag: str, name: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.elements if found == tag and attributes.get("class") == name]


@every_record
def test_the_page_needs_nothing_from_elsewhere(record: Record) -> None:
    page = Page(record)
    assert {tag for tag, _ in page.elements} & {"script", "link", "img", "iframe", "object", "embed", "base"} == set()
    for _, attributes in page.elements:
        assert not {name for name in attributes if name.startswith("on") or name in {"src", "srcset", "action"}}
        assert (attributes.get("href") or "#").startswith("#")
    source = to_html(record).decode("utf-8")
    (style,) = [part.partition("</style>")[0] for part in source.split("<style>")[1:]]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in source


@every_record
def test_the_page_says_the_verdict_first(record: Record) -> None:
    headings = {"proven": "✓ Proven", "failed": "✗ Failed", "not proven": "– Not proven"}
    page = Page(record)
    assert f"{headings[verdict(record)]} " in page.text[:120]
    assert len([tag for tag, _ in page.elements if tag == "h1"]) == 1


def test_the_page_escapes_what_files_say() -> None:
    page = Page(hostile())
    assert page.text.count(" ".join(printable(HOSTILE).split())) >= 10
    source = to_html(hostile()).decode("utf-8")
    assert "\x1b" not in source
    assert "\u202e" not in source
    assert "alert(1)</script>" not in source
    assert "{{ 7 * 7 }}" in source  # a name is no template


def test_what_is_wider_than_the_weights_and_what_is_stacked() -> None:
    stacked = Binding(target="k", sources=("a", "b", "c"), transform=Transform.FACTOR, axis=0, factors=("f", "g", "h"))
    text = Page(report(dtype_note="float64 for two", bindings=(stacked,))).text
    assert "Precision: float64 for two." in text
    assert "6 source tensors fill their places among the 1 key" in text
    assert f"k a , b , c {Transform.FACTOR.value}; the 3 branches stacked along axis 0" in text
    assert "Precision" not in Page(report()).text


def test_a_stock_model_and_what_it_is_fed() -> None:
    text = Page(report(stock=STOCK, domain=FED)).text
    assert STOCK.call in text
    assert FED.text in text
    assert "RGB images in [0, 1]; each side prepares them" in text
    assert "Standard deviation" not in text


def test_the_page_holds_the_whole_record() -> None:
    record = report()
    text = Page(record).text
    for word in (
        *(f"{f.name} {f.bytes:,} bytes {f.sha256}" for f in (*record.source.files, record.output)),
        *(f"{b.target} {', '.join(b.sources) or 'none'} {b.how}" for b in record.bindings),
        *(f"{i.source} {i.reason}" for i in record.ignored),
        *record.warnings,
        "ResNeXt-11 (4x2d)",
        "MXNet 1.9.1",
        "raw RGB images in 0..255, no mean subtracted",
        "0 123.68 58.4",
        "layer2 2 bottleneck 16 4 512 2 1x1 conv, identity",
        "structured image 1x3x32x32, 5 comparisons, worst at layer1.0 8.9e-16 ✓",
        "float32 logits in float32 1.7e-07",
        "MXNet was not run: not asked for",
        "ref64:fc1_output recording 2e-16 ✓",
        "resnext-convert 0.1.0",
    ):
        assert word in text


def test_the_page_of_a_failed_proof_says_where() -> None:
    text = Page(report(verification=failed())).text
    assert failed().failure in text
    assert "no checkpoint was written" in text
    assert "Checkpoint (not written) out.pth" in text
    assert "layer2.0.bn1 : all activations before it agree" in text
    assert "5.3e-04 ✗" in text
    assert "MXNet 1.9.1 ran the source files itself, in float32, and differs" in text


def test_the_page_of_a_proof_alone_names_what_was_compared() -> None:
    text = Page(RECORDS["proof alone"]).text
    assert f"checkpoint out.pth 123,456 bytes {'c' * 64}" in text
    assert "The checkpoint computes what the source computes" in text
    assert "Preprocessing" not in text


def test_the_page_of_shapes_that_differ_says_so() -> None:
    apart = diff(value=math.inf, at=(), peak=0.0)
    assert "largest difference the shapes differ" in Page(failed(first_divergence=apart, worst=apart)).text


def test_the_page_says_that_the_input_is_not_known() -> None:
    record = report()
    silent = replace(record.preprocessing, reading=None, source="assumed: the files do not say")
    page = Page(replace(record, config=replace(record.config, data_norm=None), preprocessing=silent))
    assert "Unknown. The inputs of a proof are drawn with what is assumed: the files do not say" in page.text


def test_the_page_says_what_is_known_of_input_and_classes() -> None:
    record = report(class_order="imagenet-2015")
    transform = PixelTransform(mean=(104, 117, 123), source="net.prototxt")
    declared = InputDomain(colour="bgr", mean=(104.0, 117.0, 123.0), source=f"the release {HOSTILE}")
    text = Page(
        replace(record, preprocessing=replace(record.preprocessing, transform=transform, declared=declared))
    ).text
    assert "bn_data says raw RGB images in 0..255, no mean subtracted" in text
    assert "files (pixel - (104, 117, 123)), as net.prototxt says" in text
    assert f"declared BGR of 0..255, minus (104, 117, 123), as the release {printable(HOSTILE)} says" in text
    assert "classes in the order imagenet-2015" in text
    assert "bn_data says" not in Page(report(preprocessing=replace(record.preprocessing, reading=None))).text


def test_the_bars_of_the_page_are_to_scale() -> None:
    page = Page(failed())
    (good, *_), (bad, *_), (gate, *_) = (
        page.classed("rect", "good"),
        page.classed("rect", "bad"),
        page.classed("line", "gate"),
    )
    assert good["width"] == str(place(4.4e-16))
    assert bad["width"] == str(place(5.3e-4))
    assert gate["x1"] == str(place(1e-10)) == "44.44"


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (0.0, 0.0),
        (1e-30, 0.0),
        (1e-18, 0.0),
        (1e-9, 50.0),
        (1.0, 100.0),
        (7.0, 100.0),
        (math.inf, 100.0),
        (math.nan, 100.0),
    ],
)
def test_places_on_the_axis(value: float, found: float) -> None:
    assert place(value) == found


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (8.86e-16, "8.9e-16"),
        (1e-10, "1e-10"),
        (0.0, "0"),
        (0.34, "3.4e-01"),
        (math.inf, "infinite"),
        (math.nan, "infinite"),
    ],
)
def test_figures(value: float, text: str) -> None:
    assert figure(value) == text
