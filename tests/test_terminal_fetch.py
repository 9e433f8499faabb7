"""What is shown while files are fetched."""

from __future__ import annotations

from test_terminal import on_a_terminal

PROGRAM = """
import time
from resnext_convert.converter.terminal_fetch import fetching
with fetching() as (report, say):
    report("net-\\x1b[31m[red].params", 1_000_000, 4_000_000)
    say("a mirror [bold]\\x1b[31m lacks it")
    for done in range(1, 5):
        report("net-\\x1b[31m[red].params", done * 1_000_000, 4_000_000)
        report("unknown.zip", done, None)
        time.sleep(0.1)
print("done")
"""


def test_a_bar_is_shown_and_taken_away() -> None:
    said = on_a_terminal(PROGRAM)
    assert b"net-\\x1b[31m[red].params" in said
    assert b"4.0/4.0 MB" in said
    assert b"MB/s" in said
    assert said.count(b"a mirror [bold]\\x1b[31m lacks it\r\n") == 1
    assert said.endswith(b"\x1b[2Kdone\r\n")  # the bars were erased
    assert said.count(b"\x1b[?25l") == said.count(b"\x1b[?25h") == 1  # the cursor is back


def test_a_dumb_terminal_gets_the_words_alone() -> None:
    assert on_a_terminal(PROGRAM, TERM="dumb") == b"a mirror [bold]\\x1b[31m lacks it\r\ndone\r\n"
