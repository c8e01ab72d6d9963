"""The golden transcripts: a gateway makes these very bytes, and readers take from them what the index says.

They change by `python -m tests.transcripts.record`, and only with the contract.
"""

import json
import re

import httpx
import httpx_sse
import pytest

from subak.core.sse import SseDecoder
from tests.reader import Reading
from tests.transcripts.index import FOLDER, INDEX, Entry, ExchangeEntry, bodies, entry, read_bodies, read_index
from tests.transcripts.record import play
from tests.transcripts.scenes import SCENES, Scene
from tests.transcripts.stage import STREAM_ID

ENTRIES = read_index()
BODIES = read_bodies()
STREAMS = [
    exchange
    for each in ENTRIES.values()
    for exchange in each.exchanges
    if exchange.headers.get("content-type") == "text/event-stream"
]
EVENTS = [name for exchange in STREAMS if (name := exchange.body) is not None]

# How a wire event is told: id, name, data.
WireEvent = tuple[str, str, str]


@pytest.mark.parametrize("scene", SCENES, ids=[scene.name for scene in SCENES])
async def test_a_gateway_makes_the_recorded_bytes(scene: Scene) -> None:
    exchanges = await play(scene)
    assert entry(scene, exchanges) == ENTRIES[scene.name]
    for name, body in bodies(scene, exchanges).items():
        assert body == BODIES[name], name


def test_the_index_names_every_file_and_every_scene() -> None:
    named = {exchange.body for each in ENTRIES.values() for exchange in each.exchanges if exchange.body is not None}
    assert named == set(BODIES)
    assert list(ENTRIES) == [scene.name for scene in SCENES]
    assert {path.name for path in FOLDER.glob("*.json")} - set(BODIES) == {INDEX.name}


def test_nothing_of_the_machine_that_recorded_is_in_the_files() -> None:
    everything = INDEX.read_bytes() + b"".join(BODIES.values())
    assert set(re.findall(rb"st_[A-Za-z0-9_-]{28}", everything)) == {STREAM_ID.encode()}
    assert re.search(rb"127\.0\.0\.1|localhost|/tmp/|/home/|/root/", everything) is None


def wire_events(body: bytes) -> list[WireEvent]:
    """Spell a body's events by splitting it at its blank lines: no parser, so that one can be compared with it."""
    events: list[WireEvent] = []
    last_id = ""
    for block in body.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        last_id = fields.get("id", last_id)
        events.append((last_id, fields["event"], fields["data"]))
    return events


@pytest.mark.parametrize("name", EVENTS)
def test_our_decoder_reads_each_transcript_without_phantom_events(name: str) -> None:
    body = BODIES[name]
    for size in (len(body), 1, 7):
        decoder = SseDecoder()
        read = [event for at in range(0, len(body), size) for event in decoder.feed(body[at : at + size])]
        assert [(event.id, event.event, event.data) for event in read] == wire_events(body)
        assert decoder.pending_bytes == 0


@pytest.mark.parametrize("name", EVENTS)
def test_httpx_sse_reads_each_transcript_without_phantom_events(name: str) -> None:
    response = httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=BODIES[name])
    read = list(httpx_sse.EventSource(response).iter_sse())
    assert [(event.id, event.event, event.data) for event in read] == wire_events(BODIES[name])
    assert all(event.json()["type"] for event in read)


def read_streams(recorded: Entry, feed_bytes: int) -> Reading:
    reading = Reading()
    for exchange in recorded.exchanges:
        if exchange in STREAMS and not reading.is_over and exchange.body is not None:
            body = BODIES[exchange.body]
            reading.reconnect()
            for at in range(0, len(body), feed_bytes):
                reading.take(body[at : at + feed_bytes])
    return reading


@pytest.mark.parametrize("name", ENTRIES)
def test_a_reader_by_the_contract_has_the_text_and_the_ending_that_the_index_tells(name: str) -> None:
    recorded = ENTRIES[name]
    for feed_bytes in (1, 64_000):
        reading = read_streams(recorded, feed_bytes)
        assert reading.text == recorded.text
        assert reading.stream_id == STREAM_ID
        assert not reading.has_gap
        assert reading.terminal is not None
        ending = {"type": reading.terminal.type} | reading.terminal.data
        assert recorded.terminal.items() <= ending.items()


def ends_with_terminal(exchange: ExchangeEntry) -> bool:
    assert exchange.body is not None
    last = json.loads(wire_events(BODIES[exchange.body])[-1][2])
    return last["type"] in {"done", "error"}


@pytest.mark.parametrize("exchange", STREAMS, ids=EVENTS)
def test_only_a_terminal_event_lets_a_response_end_cleanly(exchange: ExchangeEntry) -> None:
    assert (exchange.ends == "clean") == ends_with_terminal(exchange)
