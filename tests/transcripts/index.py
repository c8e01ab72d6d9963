"""The transcripts as files: one for each response body, and `transcripts.json` that says what each is.

The index is for readers in any language; its form is that of `Entry`. Header names are in lower case. `body` names a
file beside the index, or is null for an empty one; it holds the body's bytes after de-chunking. `ends` says how the
response ended: `clean`, `aborted` (without its last chunk) or `left` (the client hung up).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from tests.transcripts.scenes import Scene
from tests.transcripts.stage import Ends, Exchange

FOLDER: Final = Path(__file__).parent
INDEX: Final = FOLDER / "transcripts.json"
_SUFFIXES: Final = {"text/event-stream": "sse"}


class RequestEntry(msgspec.Struct, frozen=True):
    """What was asked. `body` is text, null without one."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: str | None


class ExchangeEntry(msgspec.Struct, frozen=True):
    """A request and its answer."""

    request: RequestEntry
    status: int
    headers: Mapping[str, str]
    body: str | None
    ends: Ends


class Entry(msgspec.Struct, frozen=True):
    """One transcript: `text` and `terminal` are what a reader by PROTOCOL §6 has after all of its event streams."""

    name: str
    description: str
    exchanges: Sequence[ExchangeEntry]
    text: str
    terminal: Mapping[str, str]


def file_name(scene: Scene, number: int, exchange: Exchange) -> str | None:
    """Give the name of the file for the body of a scene's n-th exchange (1-based), None for an empty body."""
    if not exchange.body:
        return None
    suffix = _SUFFIXES.get(exchange.headers["content-type"], "json")
    return f"{scene.name}.{number}.{suffix}"


def entry(scene: Scene, exchanges: Sequence[Exchange]) -> Entry:
    """Give the index's entry for a scene that was played."""
    noted = [
        ExchangeEntry(
            RequestEntry(*exchange.request),
            exchange.status,
            exchange.headers,
            file_name(scene, number, exchange),
            exchange.ends,
        )
        for number, exchange in enumerate(exchanges, 1)
    ]
    return Entry(scene.name, scene.description, noted, scene.text, scene.terminal)


def bodies(scene: Scene, exchanges: Sequence[Exchange]) -> dict[str, bytes]:
    """Give the bodies of a scene that was played, by file name."""
    named = {file_name(scene, number, exchange): exchange.body for number, exchange in enumerate(exchanges, 1)}
    return {name: body for name, body in named.items() if name is not None}


def read_index() -> dict[str, Entry]:
    """Give the recorded entries by name."""
    return {each.name: each for each in msgspec.json.decode(INDEX.read_bytes(), type=list[Entry])}


def read_bodies() -> dict[str, bytes]:
    """Give the recorded bodies by file name."""
    return {path.name: path.read_bytes() for path in FOLDER.glob("*.*.*")}


def write(entries: Sequence[Entry], contents: Mapping[str, bytes]) -> None:
    """Replace what is recorded."""
    for name in read_bodies():
        (FOLDER / name).unlink()
    for name, body in contents.items():
        (FOLDER / name).write_bytes(body)
    INDEX.write_bytes(msgspec.json.format(msgspec.json.encode(entries), indent=2) + b"\n")
