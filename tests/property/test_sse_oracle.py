"""The event-stream decoder against two parsers that are not ours, on Node: eventsource-parser and undici's EventSource.

Both run once a test run, over all streams, through `tests/node/sse_oracle.mjs`. Where they deviate from the standard
the comparison is narrowed, each time by a named rule below; `DEVIATIONS` shows that the deviation is still there, so
that no rule outlives its reason.
"""

import base64
import json
import random
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import pytest

from subak.core.sse import SseDecoder

pytestmark = pytest.mark.real

NODE_DIR: Final = Path(__file__).parents[1] / "node"
STREAMS: Final = 500
BOM: Final = b"\xef\xbb\xbf"


class Event(msgspec.Struct):
    """What any parser tells of an event; `id` is null where it tells none."""

    event: str
    data: str
    id: str | None


class Answer(msgspec.Struct, rename="camel"):
    """What one parser made of a stream; `retry` in milliseconds."""

    events: list[Event]
    retry: int | None
    last_event_id: str = ""


class Answers(msgspec.Struct):
    parser: Answer
    undici: Answer


class Read(NamedTuple):
    """One stream, read by us and by the others."""

    chunks: list[bytes]
    ours: Answer
    theirs: Answers

    @property
    def raw(self) -> bytes:
        return b"".join(self.chunks)


# Streams

FRAGMENTS: Final = [
    *[b"\n", b"\n", b"\n", b"\n\n", b"\n\n", b"\r", b"\r\r", b"\r\n", b"\r\n\r\n", b"\n\r"],
    *[b"data", b"data:", b"data: ", b"data: ", b"data: ", b"\ndata: ", b"\nevent: ", b"\nid: ", b"\nretry: ", b"\n: "],
    *[b"event", b"event: ", b"id", b"id: ", b"retry: ", b"foo: ", b":", b" ", b"\t", b"\0", b"a", b"{}", b"7", b"250"],
    *[text.encode() for text in ("é", "€", "😀", "\u2028", "\x85", "\ufeff", "٣")],
    *[b"\xef", b"\xbb", b"\xbf", b"\xf0\x9f", b"\x98", b"\x80", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90", b"\xff"],
    *[b"\nid: 7\ndata: b\n\n", b"\revent: x\r\ndata: c\r\r", b"\nretry: 30\ndata: d\n\r", b"\nid: 8\r\r", b"9" * 20],
    *[b"\ndata: a\n\n"] * 3,
]  # fmt: skip
STARTS: Final = [b"", b"", b"", BOM, BOM + BOM, BOM[:2], BOM[:1]]

# eventsource-parser holds back a CR at the end of its input until a line end comes. Every stream therefore goes on, in
# a chunk of its own, with a comment (or with the end of an unfinished line, which no blank line follows).
GOES_ON: Final = b":\n"
# undici takes a `retry` when its block ends, not (as the standard says) with its line. In half of the streams all
# blocks end.
ENDS_BLOCK: Final = b":\n\n"


def make_stream(dice: random.Random) -> list[bytes]:
    raw = dice.choice(STARTS) + b"".join(dice.choices(FRAGMENTS, k=dice.randrange(80)))
    cuts = sorted(dice.randrange(len(raw) + 1) for _ in range(dice.choice([0, 1, 3, 10, len(raw)])))
    chunks = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    return [*chunks, dice.choice([GOES_ON, ENDS_BLOCK])]


def read_by_us(chunks: list[bytes]) -> Answer:
    decoder = SseDecoder()
    events = [Event(event.event, event.data, event.id) for chunk in chunks for event in decoder.feed(chunk)]
    return Answer(events, decoder.retry, decoder.last_event_id)


def read_by_node(streams: list[list[bytes]]) -> list[Answers]:
    node = shutil.which("node")
    assert node is not None, "node is missing: ./dev.py test installs it, or install Debian's nodejs"
    asked = json.dumps([[base64.b64encode(chunk).decode() for chunk in chunks] for chunks in streams])
    answer = subprocess.run(
        [node, NODE_DIR / "sse_oracle.mjs"], input=asked.encode(), capture_output=True, timeout=200, check=False
    )
    assert answer.returncode == 0, f"sse_oracle.mjs failed (npm ci in tests/node?): {answer.stderr.decode()[-2000:]}"
    return msgspec.json.decode(answer.stdout, type=list[Answers])


class Deviation(NamedTuple):
    """A stream that a foreign parser reads otherwise than the standard, and the two readings."""

    name: str
    chunks: list[bytes]
    standard: object
    other: object
    reading: Callable[[Answer], object]
    of: Callable[[Answers], Answer]


def of_parser(answers: Answers) -> Answer:
    return answers.parser


def of_undici(answers: Answers) -> Answer:
    return answers.undici


def data_of(answer: Answer) -> list[str]:
    return [event.data for event in answer.events]


def names_of(answer: Answer) -> list[str]:
    return [event.event for event in answer.events]


def ids_of(answer: Answer) -> list[str | None]:
    return [event.id for event in answer.events]


def retry_of(answer: Answer) -> int | None:
    return answer.retry


def last_event_id_of(answer: Answer) -> str:
    return answer.last_event_id


DEVIATIONS: Final = [
    Deviation("parser: a CR at the end waits", [b"data: a\r\r"], ["a"], [], data_of, of_parser),
    Deviation(
        "parser: the characters of a BOM misread as Latin-1 are dropped like a BOM",
        ["ï»¿data: a\ndata: b\n\n".encode()],
        ["b"],
        ["a\nb"],
        data_of,
        of_parser,
    ),
    Deviation("undici: retry counts from its block's end", [b"retry: 5\n"], 5, None, retry_of, of_undici),
    Deviation("undici: an empty id keeps the old one", [b"id: 7\n\nid\n\n"], "", "7", last_event_id_of, of_undici),
    Deviation(
        "undici: an empty event field keeps the one before it",
        [b"event: x\nevent\ndata: a\n\n"],
        ["message"],
        ["x"],
        names_of,
        of_undici,
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def all_reads() -> list[Read]:
    dice = random.Random(20)
    streams = [make_stream(dice) for _ in range(STREAMS)] + [deviation.chunks for deviation in DEVIATIONS]
    theirs = read_by_node(streams)
    return [Read(chunks, read_by_us(chunks), their) for chunks, their in zip(streams, theirs, strict=True)]


@pytest.fixture
def reads(all_reads: list[Read]) -> list[Read]:
    return all_reads[:STREAMS]


def has_empty_field(field: bytes, raw: bytes) -> bool:
    """Whether a finished line is `field` without value."""
    return re.search(rb"(^|[\r\n])(%b)?%b(: ?)?[\r\n]" % (BOM, field), raw) is not None


def test_the_streams_are_worth_reading(reads: list[Read]) -> None:
    assert sum(len(read.ours.events) for read in reads) > 4 * STREAMS
    assert sum(len({event.id for event in read.ours.events}) > 1 for read in reads) > STREAMS // 3
    assert sum(any("\ufffd" in event.data for event in read.ours.events) for read in reads) > STREAMS // 4
    assert sum(read.ours.retry is not None for read in reads) > STREAMS // 3


def test_eventsource_parser_reads_the_same_events(reads: list[Read]) -> None:
    for read in reads:
        assert data_of(read.theirs.parser) == data_of(read.ours), read.chunks
        assert names_of(read.theirs.parser) == names_of(read.ours), read.chunks


def test_eventsource_parser_reads_the_same_ids(reads: list[Read]) -> None:
    # It tells an id only with the event whose block held it: the last id is its caller's to keep.
    for read in reads:
        pairs = zip(read.theirs.parser.events, read.ours.events, strict=True)
        assert all(their.id in {None, our.id} for their, our in pairs), read.chunks


def test_eventsource_parser_reads_the_same_retry(reads: list[Read]) -> None:
    for read in reads:
        assert read.theirs.parser.retry == read.ours.retry, read.chunks


def test_undici_reads_the_same_data(reads: list[Read]) -> None:
    for read in reads:
        assert data_of(read.theirs.undici) == data_of(read.ours), read.chunks


def test_undici_reads_the_same_event_types(reads: list[Read]) -> None:
    compared = [read for read in reads if not has_empty_field(b"event", read.raw)]
    assert len(compared) > STREAMS // 2
    for read in compared:
        assert names_of(read.theirs.undici) == names_of(read.ours), read.chunks


def test_undici_reads_the_same_ids(reads: list[Read]) -> None:
    compared = [read for read in reads if not has_empty_field(b"id", read.raw)]
    assert len(compared) > STREAMS // 2
    for read in compared:
        assert ids_of(read.theirs.undici) == ids_of(read.ours), read.chunks
        assert read.theirs.undici.last_event_id == read.ours.last_event_id, read.chunks


def test_undici_reads_the_same_retry(reads: list[Read]) -> None:
    compared = [read for read in reads if read.chunks[-1] == ENDS_BLOCK]
    assert len(compared) > STREAMS // 3
    for read in compared:
        assert read.theirs.undici.retry == read.ours.retry, read.chunks


@pytest.mark.parametrize("index", range(len(DEVIATIONS)), ids=[deviation.name for deviation in DEVIATIONS])
def test_known_deviation_is_still_there(all_reads: list[Read], index: int) -> None:
    deviation, read = DEVIATIONS[index], all_reads[STREAMS + index]
    assert deviation.reading(read.ours) == deviation.standard
    assert deviation.reading(deviation.of(read.theirs)) == deviation.other
