"""Log lines: one JSON object a line on stdout, pretty on a terminal.

Writing to a pipe may block, so a thread of its own writes; between it and the event loop stands a bounded queue that
counts what it has to drop. The thread wakes at most ten times a second and writes what has gathered in one piece: to
wake it for each line cost the event loop more than making the line. No line carries a question, an answer, an e-mail,
an address or a stream id in clear.
"""

import sys
import threading
from collections import deque
from collections.abc import Mapping
from io import TextIOWrapper
from typing import Final, Literal, Protocol, TextIO

import msgspec
import structlog

QUEUE_LINES: Final = 10_000
FLUSH_DEADLINE_S: Final = 2.0
GATHER_S: Final = 0.1
"""How long a line waits for others."""

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


class LineWriter:
    """A file-like sink whose `write` never blocks. Lines leave in order; `dropped` counts those that found no room."""

    def __init__(self, target: TextIO, *, max_lines: int = QUEUE_LINES) -> None:
        """Start the thread that writes to `target`."""
        self.dropped = 0
        if isinstance(target, TextIOWrapper):  # one character unknown to its encoding would take all lines along
            target.reconfigure(errors="replace")
        self._target = target
        self._max_lines = max_lines
        self._lines: deque[str] = deque()
        self._bell = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="subak-log", daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Queue `text`, or count it as dropped."""
        if len(self._lines) >= self._max_lines:
            self.dropped += 1
            return
        self._lines.append(text)
        if not self._bell.is_set():
            self._bell.set()

    def flush(self) -> None:
        """Nothing to do: the thread flushes."""

    def close(self) -> None:
        """Write what is queued, for at most two seconds, and end the thread."""
        self._closing.set()
        self._bell.set()
        self._thread.join(FLUSH_DEADLINE_S)

    def _run(self) -> None:
        is_over = False
        while not is_over:
            self._bell.wait()
            is_over = self._closing.wait(GATHER_S)
            self._bell.clear()  # whoever rings from now on has put a line where it isn't looked at yet
            self._write_what_waits()

    def _write_what_waits(self) -> None:
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        try:
            self._target.write("".join(lines))
            self._target.flush()
        except (OSError, ValueError):
            self.dropped += len(lines)


class Sink(Protocol):
    """Where lines go."""

    def write(self, text: str) -> None:
        """Take some text, or count it as dropped. Must not block."""

    def flush(self) -> None:
        """Called after each line."""


def make_logger(sink: Sink, *, level: str, form: Literal["json", "pretty"]) -> structlog.typing.FilteringBoundLogger:
    """Give a logger that writes to `sink`: `json` for machines, `pretty` for a terminal."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(serializer=_to_json)
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=True)
    )
    logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        structlog.WriteLogger(sink),  # type: ignore[arg-type]  # it only ever calls write, once a line, and flush
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
    ).bind()  # once, here: what is not bound yet binds itself anew for each line, and for each look at the level
    return logger


def _to_json(fields: Mapping[str, object], **_ignored: object) -> str:
    """Encode one line. Line ends and other control characters inside a value are escaped by JSON itself."""
    return msgspec.json.encode(fields).decode()


def form_for(setting: str, target: TextIO = sys.stdout) -> Literal["json", "pretty"]:
    """Resolve `auto`: pretty on a terminal, JSON elsewhere."""
    if setting == "json" or (setting == "auto" and not target.isatty()):
        return "json"
    return "pretty"
