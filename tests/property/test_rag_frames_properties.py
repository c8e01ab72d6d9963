"""The short cut through the RAG backend's frames: whatever is read, it gives what the plain path gives (I12)."""

import json

from hypothesis import example, given
from hypothesis import strategies as st

from subak.core.events import Ending, Event
from subak.upstream.frames import Frames
from subak.upstream.rag_frames import FrameCounts, RagFrames

AT_MS = 1_795_359_600_000
ROOMY = 1 << 20

texts = st.one_of(st.text(max_size=8), st.text(alphabet='a"\\\n\x7f\x00é😀\u2028', max_size=6))
odd_values: st.SearchStrategy[object] = st.sampled_from(
    [None, False, True, 0, 1.5, "x", "", "token", "sources", "done", "error", [], ["s"], {}]
)
members = st.sampled_from(
    ["text", "type", "data", "sources", "done", "error", "finish_reason", "usage", "sequenceNumber"]
)
frames = st.one_of(
    st.builds(lambda text, seq: {"text": text, "sequenceNumber": seq, "timestamp": 1.5}, texts, st.integers(0, 9)),
    st.builds(lambda text: {"type": "token", "data": text}, texts),
    st.dictionaries(members, st.one_of(odd_values, texts), max_size=4),
    st.builds(lambda text, name, value: {"type": "token", "data": text, name: value}, texts, members, odd_values),
    st.builds(lambda text, name, value: {"text": text, name: value}, texts, members, odd_values),
)
written = st.one_of(
    st.builds(lambda frame, ascii_only: json.dumps(frame, ensure_ascii=ascii_only).encode(), frames, st.booleans()),
    st.sampled_from(
        [
            b"",
            b"plain",
            b"{",
            b'{"text": "a"} x',
            b' {"text": "a"} ',
            b'\t{"text": "a"}',
            b'{"text": "a", "text": "b"}',
            b'{"text": 1, "text": "b"}',
            b'{"text": "b", "text": 1}',
            b'{"text": "\xff"}',
            b'{"text": "a", "\xff": "\xff"}',
            b'{"text": "\\ud83d"}',
            b'{"text": "\\ude00"}',
            b'{"text": "a", "n": NaN}',
            b'{"text": "a", "n": 1e999}',
            b'{"text": "a", "n": ' + b"9" * 5000 + b"}",
            b'\xef\xbb\xbf{"text": "a"}',
            b'{"text": "a\tb"}',
            b'{"text": "a\\tb\\/\\u007f"}',
        ]
    ),
)
blocks = st.builds(
    lambda start, data, end: start + data + end,
    st.sampled_from([b"data: ", b"data: ", b"data: ", b"data:", b"id: 1\ndata: ", b": c\n\ndata: "]),
    written,
    st.sampled_from([b"\n\n", b"\n\n", b"\r\n\r\n", b"\r\r", b"\n", b""]),
)
usual_blocks = written.map(lambda data: b"data: " + data + b"\n\n")
rest = st.lists(st.one_of(usual_blocks, usual_blocks, blocks, st.lists(blocks, max_size=3).map(b"".join)), max_size=8)
reads = rest.map(lambda chunks: [b"\n", *chunks])  # the short cut is open between blocks, so not before the first one


def outcome(frames: RagFrames, reads: list[bytes], *, is_plain: bool) -> tuple[list[Event], Ending | None]:
    """All that comes of the reads up to an ending, by the short cut or past it."""
    found: list[Event] = []
    for read in reads:
        events, ending = Frames.feed(frames, read, AT_MS) if is_plain else frames.feed(read, AT_MS)
        found += events
        if ending is not None:
            return found, ending
    return found, None


@given(reads, st.integers(8, 60) | st.just(ROOMY))
@example([b"\n", b'data: {"text": "\\ud83d"}\n\n', b'data: {"text": "\\ude00"}\n\n'], ROOMY)
@example([b"\n", b'data: {"text": "\\ud83d"}\n\n', b'data: {"text": "a"}\n\n', b'data: {"text": "b"}\n\n'], ROOMY)
@example([b"\n", b'data: {"text": ""}\n\n'], ROOMY)
@example([b"\n", b'data: {"text": "a", "done": true}\n\n'], ROOMY)
@example([b"\n", b'data: {"text": "a", "error": "x"}\n\n'], ROOMY)
@example([b"\n", b'data: {"text": "a", "type": "done"}\n\n'], ROOMY)
@example([b"\n", b'data: {"text": "a", "sources": [{"source": "s"}]}\n\n'], ROOMY)
@example([b"\n", b'data: {"type": "token", "data": "a", "text": "b"}\n\n'], ROOMY)
@example([b"\n", b'data: {"type": "token", "text": "b"}\n\n'], ROOMY)
@example([b"\n", b'data: {"type": "token", "data": "a", "sources": ["s"]}\n\n'], ROOMY)
@example([b"\n", b'data: {"text": "a", "data": "b"}\n\n'], ROOMY)
@example([b"\n", b'data: {"text": "12345"}\n\n'], 20)
def test_the_short_cut_gives_what_the_plain_path_gives(reads: list[bytes], max_event_bytes: int) -> None:
    quick, plain = FrameCounts(), FrameCounts()
    by_short_cut = outcome(RagFrames(quick, max_event_bytes=max_event_bytes), reads, is_plain=False)
    assert by_short_cut == outcome(RagFrames(plain, max_event_bytes=max_event_bytes), reads, is_plain=True)
    assert quick.dropped == plain.dropped
