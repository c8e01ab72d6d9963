"""The thread that writes log lines: in order, many at a time, and nobody waits for a pipe that is full."""

import io
import threading

from subak.telemetry.logs import LineWriter
from subak.testing import PATIENCE_S

MANY = 100


class Pipe(io.StringIO):
    """A target that takes nothing while `is_open` isn't set."""

    def __init__(self) -> None:
        super().__init__()
        self.is_asked = threading.Event()
        self.is_open = threading.Event()
        self.writes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        self.is_asked.set()
        assert self.is_open.wait(PATIENCE_S)
        return super().write(text)


class BrokenPipe(io.StringIO):
    """A target whose reader has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(text)


def hung(sink: LineWriter, pipe: Pipe) -> None:
    """Have the thread wait for the pipe, with one line in its hand."""
    sink.write("first\n")
    assert pipe.is_asked.wait(PATIENCE_S)


def test_what_gathers_while_the_pipe_is_full_leaves_in_order_and_in_one_piece() -> None:
    pipe = Pipe()
    sink = LineWriter(pipe)
    hung(sink, pipe)
    for number in range(MANY):
        sink.write(f"{number}\n")
    pipe.is_open.set()
    sink.close()
    assert pipe.getvalue().splitlines() == ["first", *map(str, range(MANY))]
    assert pipe.writes == 2
    assert sink.dropped == 0


def test_what_finds_no_room_is_counted_and_the_rest_is_written() -> None:
    pipe = Pipe()
    sink = LineWriter(pipe, max_lines=3)
    hung(sink, pipe)
    for number in range(MANY):
        sink.write(f"{number}\n")
    assert sink.dropped == MANY - 3
    pipe.is_open.set()
    sink.close()
    assert pipe.getvalue() == "first\n0\n1\n2\n"


def test_lines_that_can_not_be_written_are_counted() -> None:
    sink = LineWriter(BrokenPipe())
    sink.write("a\n")
    sink.write("b\n")
    sink.close()
    assert sink.dropped == 2


def test_a_character_that_the_target_can_not_hold_takes_no_line_along() -> None:
    written = io.BytesIO()
    sink = LineWriter(io.TextIOWrapper(written, encoding="ascii"))
    for line in ("before\n", "5 % \u2192 25 %\n", "lone \ud800\n", "after\n"):
        sink.write(line)
    sink.close()
    assert written.getvalue() == b"before\n5 % ? 25 %\nlone ?\nafter\n"
    assert sink.dropped == 0


def test_a_line_written_right_before_the_end_is_not_lost() -> None:
    for _ in range(MANY):
        target = io.StringIO()
        sink = LineWriter(target)
        sink.write("last\n")
        sink.close()
        assert target.getvalue() == "last\n"
