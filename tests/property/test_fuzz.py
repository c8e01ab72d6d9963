"""Row 75 of the fault matrix: broken input to whatever reads bytes of others raises what is declared, and nothing else.

Half a second each in `./dev.py check`, three in `./dev.py test`, a minute in `./dev.py soak` and in CI. Requests over
real sockets: tests/integration/test_fuzz_requests.py.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec
import pytest

from subak.core.cursor import Cursor
from subak.core.errors import MalformedCursor
from subak.core.events import Ending, Event, Failed, Finished
from subak.core.sse import SseDecoder, SseEvent, SseTooLarge
from subak.settings import Loaded, SettingsError, catalogue, load
from subak.upstream.http1_response import BodyState, MalformedResponse, Response
from subak.upstream.openai_frames import OpenAiCounts, OpenAiFrames
from subak.upstream.rag_frames import FrameCounts, RagFrames
from tests.mutator import FUZZ_MARKS, Mutator

pytestmark = [*FUZZ_MARKS]
AT_MS: Final = 1_795_359_600_000
MAX_BYTES: Final = 4096


def repeatable(mutator: Mutator, content: bytes) -> str:
    """Say how to see it again."""
    return f"seed {mutator.seed}, input {content!r}"


STREAMS: Final = (
    b"\xef\xbb\xbfevent: token\nid: st_x.1\ndata: one\ndata: two\nretry: 100\n\n: comment\n\n",
    b"data: a\r\rdata:b\r\n\r\ndata\n\nid\ndata: c\n\nevent\ndata: d\n\n",
    "data: é😀\u2028 \u0000\n\nid: a\0b\ndata: x\n\n".encode(),
)
FIELDS: Final = (b"data: ", b"event: ", b"id: ", b"retry: ", b"data:", b"\ndata: x\n\n", b":\n", b"x" * (MAX_BYTES + 1))


def read(slices: Sequence[bytes]) -> tuple[list[SseEvent], str]:
    """Read an event stream; give its events, and the bound at which it ended."""
    decoder = SseDecoder(max_line_bytes=MAX_BYTES, max_event_bytes=MAX_BYTES)
    events: list[SseEvent] = []
    for part in slices:
        try:
            events += decoder.feed(part)
        except SseTooLarge as error:
            return [*events, *error.events], error.limit
        assert decoder.pending_bytes <= 4 * MAX_BYTES
    return events, ""


def test_s75_event_streams_are_read_the_same_in_any_slices() -> None:
    mutator = Mutator(STREAMS, FIELDS)
    for content in mutator.inputs():
        assert read([content]) == read(mutator.slices(content)), repeatable(mutator, content)


class Frames(Protocol):
    """One answer's frames, in whatever dialect."""

    def feed(self, chunk: bytes, at_ms: int) -> tuple[list[Event], Ending | None]:
        """Take what one read brought."""


def rag() -> Frames:
    return RagFrames(FrameCounts(), max_event_bytes=MAX_BYTES)


def openai() -> Frames:
    return OpenAiFrames(OpenAiCounts(), max_event_bytes=MAX_BYTES)


RAG_BODIES: Final = (
    b'data: {"text": "Ciao ", "sequenceNumber": 1, "timestamp": 1.5}\n\ndata: {"type": "token", "data": "mondo"}\n\n',
    b'data: {"sources": [{"source": "a.md", "snippet": "b", "similarity": 0.8}, {"title": "c", "score": 1}]}\n\n',
    b'data: {"text": "\\ud83d"}\n\ndata: {"text": "\\ude00", "done": true, "usage": {"tokens": 5, "a": {"b": 1}}}\n\n',
    b'data: {"error": "x", "done": true}\n\n',
    b'data: plain text\n\ndata: {"type": "done", "finish_reason": "length"}\n\n',
)
OPENAI_BODIES: Final = (
    b'data: {"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"Ciao"}}]}\n\n',
    b'data: {"choices":[{"index":0,"delta":{"role":"assistant"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens_details":{"a":2}}}\n\ndata: [DONE]\n\n',
    b'data: {"choices":[{"delta":{"reasoning_content":"hm","tool_calls":[{}]}}]}\n\n',
    b'data: {"error":{"message":"x","type":"y","code":429}}\n\n',
    b'data: {"choices":[{"delta":{"content":[{"type":"text","text":"a"}]},"finish_reason":"length"}]}\n\n',
)
JSON_WORDS: Final = (
    *(b'"text"', b'"data"', b'"type"', b'"token"', b'"sources"', b'"done"', b'"error"', b'"usage"', b'"choices"'),
    *(b'"delta"', b'"content"', b'"finish_reason"', b"data: ", b"\n\n", b"[DONE]", b"false", b"0.1", b"{}", b"[]"),
)


def listen(frames: Frames, slices: Sequence[bytes]) -> tuple[list[object], Ending | None]:
    """Read one answer; give its events, decoded, and its ending."""
    events: list[object] = []
    for part in slices:
        found, ending = frames.feed(part, AT_MS)
        events += [(event.type, msgspec.json.decode(event.data)) for event in found]
        assert all(b"\n" not in event.data and b"\r" not in event.data for event in found)
        if ending is not None:
            assert isinstance(ending, Finished | Failed)
            return events, ending
    return events, None


@pytest.mark.parametrize(("make", "bodies"), [(rag, RAG_BODIES), (openai, OPENAI_BODIES)], ids=["rag", "openai"])
def test_s75_what_upstreams_say_is_events_and_at_most_one_ending(
    make: Callable[[], Frames], bodies: Sequence[bytes]
) -> None:
    mutator = Mutator(bodies, JSON_WORDS)
    for content in mutator.inputs():
        try:
            whole = listen(make(), [content])
            sliced = listen(make(), mutator.slices(content))
        except Exception as error:
            raise AssertionError(repeatable(mutator, content)) from error
        assert whole == sliced, repeatable(mutator, content)


HEADS: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\nConnection: close\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
)
BODIES: Final = (
    b"5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nX: y\r\n\r\n",
    b"A\r\n0123456789\r\n0\r\n\r\n",
    b"12345678901234567890",
)
HTTP_WORDS: Final = (
    b"Transfer-Encoding: ",
    b"Content-Length: ",
    b"chunked",
    b"Connection: ",
    b"HTTP/1.1 ",
    b"0\r\n\r\n",
)


def test_s75_upstreams_http_is_a_body_or_malformed() -> None:
    heads, bodies = Mutator(HEADS, HTTP_WORDS), Mutator(BODIES, HTTP_WORDS)
    for content in heads.inputs():
        head = b"".join(content.partition(b"\r\n\r\n")[:2])  # who reads the socket finds where it ends
        try:
            response = Response(head)
        except MalformedResponse:
            continue
        except Exception as error:
            raise AssertionError(repeatable(heads, head)) from error
        body = bodies.one()
        size_bytes = 0
        for part in bodies.slices(body):
            if response.state is not BodyState.OPEN:
                break
            size_bytes += len(response.feed(part))
        assert size_bytes <= len(body), f"head {head!r}, body {body!r}"


FILES: Final = (
    b'[server]\nhost = "127.0.0.1"\nport = 8080\n[features]\nsse_streaming = true\n',
    b'[upstream]\nurl = "http://127.0.0.1:8000"\nfallback_urls = ["http://127.0.0.1:8001"]\nheaders = {A = "b"}\n',
    b"[stream]\nheartbeat_s = 30.5\nmax_events = 100000\n[http]\ncors_origins = []\n",
)
VALUES: Final = (b"true", b"1", b"0.5", b"http://127.0.0.1:1", b'["a"]', b'{"A": "b"}', b"text", b"/x", b"")


def loaded(environment: dict[str, str], file: Path | None) -> Loaded | None:
    """Read settings; None where they are refused."""
    try:
        return load(environment, file, {})
    except SettingsError as error:
        problems = error.problems
    assert problems
    assert all(str(problem) for problem in problems)
    return None


def test_s75_settings_are_taken_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "subak.toml"
    names = [setting.key.encode() for setting in catalogue()]
    variables = [f"SUBAK_{setting.key.upper().replace('.', '__')}" for setting in catalogue()]
    files = Mutator(FILES, [*names, *VALUES, b"[", b"]", b"'''", b"1979-05-27"])
    values = Mutator(VALUES, VALUES)
    for content in files.inputs():
        file.write_bytes(content)
        given = [files.dice.choice(variables) for _ in range(files.dice.randrange(4))]
        environment = {name: values.one().replace(b"\0", b"").decode("utf-8", "surrogateescape") for name in given}
        try:
            loaded(environment, file)
        except Exception as error:
            raise AssertionError(f"{repeatable(files, content)}, {environment}") from error


def test_s75_cursors_are_read_and_written_back_or_refused() -> None:
    mutator = Mutator([b"st_" + b"A" * 28 + b".12", b"st_" + b"-_" * 14 + b".0"], [b".", b"st_", b"_"])
    for content in mutator.inputs():
        text = content.decode("utf-8", "surrogateescape")
        try:
            cursor = Cursor.parse(text)
        except MalformedCursor:
            continue
        except Exception as error:
            raise AssertionError(repeatable(mutator, content)) from error
        assert str(cursor) == text, repeatable(mutator, content)
