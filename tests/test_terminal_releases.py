"""How the catalogue looks on a terminal of any width, and in a pipe."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest

from resnext_convert.converter import terminal_releases
from resnext_convert.converter.releases import Release, catalogue, find
from resnext_convert.converter.terminal_releases import print_list, print_release


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """What is printed on a terminal of some width (0: in a pipe), without colours."""

    def show(width: int, what: Callable[[], None]) -> list[str]:
        stream = Terminal() if width else io.StringIO()
        monkeypatch.setattr("sys.stdout", stream)
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setenv("TERM", "dumb")
        monkeypatch.setenv("COLUMNS", str(width or 80))
        monkeypatch.delenv("FORCE_COLOR", raising=False)
        what()
        return stream.getvalue().splitlines()

    return show


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_the_table_fits_the_terminal(width: int, shown: Callable[..., list[str]]) -> None:
    lines = shown(width, lambda: print_list(catalogue()))
    assert max(map(len, lines)) <= width
    for release in catalogue():
        (line,) = [line for line in lines if line.split(" ")[0] == release.name]
        if release.expected:
            assert release.expected.network in line


def test_in_a_pipe_nothing_is_left_out(shown: Callable[..., list[str]]) -> None:
    lines = shown(0, lambda: print_list([find("gluoncv/senet_154"), find("ResNeXt-50"), find("resnext-101")]))
    assert [" ".join(line.split()) for line in lines[:10] if line] == [
        "name network top-1 classes input files",
        "GluonCV (MXNet)",
        "gluoncv/senet_154 SE-ResNeXt-152 (64x4d) 81.26 2012 RGB 0..1 - mean / std url",
        "cypw/ResNeXt-1 (terrychenism/ResNeXt) (Caffe)",
        "ResNeXt-50 ResNeXt-50 (32x4d) 76.90 - - by hand",
        "data.mxnet.io (MXNet)",
        "resnext-101 ResNeXt-101 (32x4d) 78.28 2015 RGB 0..255 dead",
    ]
    assert "releases show NAME" in lines[-1]


@pytest.mark.parametrize("release", catalogue(), ids=lambda release: release.id)
def test_all_that_is_known_of_a_release_is_shown(release: Release, shown: Callable[..., list[str]]) -> None:
    text = "\n".join(shown(0, lambda: print_release(release)))
    known = [release.name, release.publisher, release.licence, release.accuracy_source, *release.aliases]
    known += [release.class_order or "order is not known", *release.uncertain, *release.notes]
    known += [release.domain.text, release.domain.source] if release.domain else ["its preparation is not known"]
    if release.expected:
        known += [release.expected.network, release.expected.stem_pool or ""]
        known += [f"{value:g}" for value in release.expected.eps] or ["an eps that is not known"]
    for file in (*release.files, *(file for reissue in release.reissues for file in reissue.files)):
        known += [file.name, file.size if file.bytes is None else f"{file.bytes:,} bytes"]
        known += [text for checksum in file.checksums for text in (checksum.value, checksum.source)]
        known += [text for location in file.locations for text in (location.url, location.dead)]
    known += [text for reissue in release.reissues for text in (reissue.by, reissue.what)]
    assert [fact for fact in known if fact not in text] == []


def test_sentences_are_broken_between_words_and_addresses_not_at_all(shown: Callable[..., list[str]]) -> None:
    release = find("resnext-50")
    lines = shown(80, lambda: print_release(release))
    assert all(len(line) <= 80 or line.strip().startswith("http") for line in lines)
    assert any(line.strip() == release.files[1].locations[0].url for line in lines)
    assert "  also called  data.mxnet.io/resnext-50, imagenet1k-resnext-50" in lines
    assert "  params       resnext-50-0000.params, 96 MB" in lines


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("gluoncv/senet_154", "All files can be fetched, as far as is known."),
        ("SENet-154", "open them in a browser."),
        ("resnext-50", "Some files are at no address that is known to answer."),
        ("soeaver/resnext-merge", "No address of its files is known."),
    ],
)
def test_it_is_said_how_a_release_can_be_had(name: str, advice: str, shown: Callable[..., list[str]]) -> None:
    text = "\n".join(shown(0, lambda: print_release(find(name))))
    assert advice in text
    assert ("--from DIR" in text) == (name in {"SENet-154", "resnext-50"})


def test_nothing_of_a_text_is_taken_for_markup_or_control(shown: Callable[..., list[str]]) -> None:
    hostile = replace(find("resnext-50"), publisher="[bold]\x1b[31mx", licence="\u202e[/]")
    for what in (lambda: print_release(hostile), lambda: print_list([hostile])):
        text = "\n".join(shown(120, what))
        assert "\x1b" not in text
        assert "[bold]\\x1b[31mx" in text
    assert terminal_releases.FRAMEWORKS.keys() == {release.framework for release in catalogue()}
