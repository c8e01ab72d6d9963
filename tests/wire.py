"""Two ways to look at what a response carried: line by line for people, and as a reader by PROTOCOL §6 sees it.

Both are written from the contract alone and know nothing of the relay.
"""

from typing import Any, Final

import msgspec

from subak.core.sse import SseDecoder, SseEvent

TERMINAL: Final = ("done", "error")


class Envelope(msgspec.Struct, forbid_unknown_fields=True):
    """What each block's data is (PROTOCOL §3)."""

    type: str
    data: Any
    sequence: int
    timestamp: int


decode_envelope = msgspec.json.Decoder(Envelope).decode


def transcribe(wire: bytes) -> list[str]:
    """Give the bytes of a response as short lines, one for each block and each comment.

    `: hb` · `1 metadata connected` · `2 token "Ciao "` · `3 done stop` · `heartbeat 2 retry 2000`. The number is that
    of the `id:` line; a block without one has the sequence behind its type. The rules of §3 that bytes can break are
    asserted: LF only, whole blocks, a comment never inside a block, one data line a block.
    """
    assert b"\r" not in wire, "lines end in LF"
    if not wire:
        return []
    lines = wire.decode().split("\n")
    assert lines.pop() == "", "the last line is whole"
    said: list[str] = []
    block: list[str] = []
    for line in lines:
        if line.startswith(":"):
            assert not block, "a comment stands between blocks"
            said.append(line)
        elif line:
            block.append(line)
        else:
            said.append(_describe(block))
            block = []
    assert block == [] or _is_preface(block), "the last block is whole"
    return said


def _is_preface(block: list[str]) -> bool:
    return len(block) == 1 and block[0].startswith("retry: ")


def _describe(block: list[str]) -> str:
    fields = dict(line.split(": ", 1) for line in block)
    assert len(fields) == len(block), "no field comes twice"
    assert "data" in fields, "no block without data"
    envelope = decode_envelope(fields["data"])
    retry = f" retry {fields['retry']}" if "retry" in fields else ""
    if "id" not in fields:
        assert fields["event"] == envelope.type
        return f"{envelope.type} {envelope.sequence}{retry}"
    seq = int(fields["id"].rpartition(".")[2])
    assert (fields["event"], envelope.sequence) == ("message", seq)
    return f"{seq} {envelope.type} {_brief(envelope)}{retry}"


def _brief(envelope: Envelope) -> str:
    match envelope.type:
        case "metadata":
            return str(envelope.data["status"])
        case "done":
            return str(envelope.data["finish_reason"])
        case "error":
            return str(envelope.data["code"])
        case _:
            return msgspec.json.encode(envelope.data).decode()


class FollowingReader:
    """A reader by the rule of PROTOCOL §6, strict: this server has no reason to send a seq twice or leave one out.

    `applied` holds the envelopes after seq `base`, in order. `snapshot` is the text that replaced all before it.
    """

    def __init__(self, stream_id: str, base: int) -> None:
        self.stream_id = stream_id
        self.base = base
        self.applied: list[Envelope] = []
        self.snapshot: str | None = None
        self.heartbeats = 0
        self.retry_ms: int | None = None
        self._decoder = SseDecoder()

    @property
    def last(self) -> int:
        """The last seq applied; 0 at the beginning."""
        return self.base + len(self.applied)

    @property
    def cursor(self) -> str:
        """What it returns as `Last-Event-ID`."""
        return f"{self.stream_id}.{self.last}"

    @property
    def has_ending(self) -> bool:
        """Whether the terminal event was applied."""
        return bool(self.applied) and self.applied[-1].type in TERMINAL

    @property
    def text(self) -> str:
        """The answer as this reader has it."""
        return (self.snapshot or "") + "".join(item.data for item in self.applied if item.type == "token")

    def reconnect(self) -> None:
        """A new response begins: half a block that the old one left is gone."""
        self._decoder.reset()

    def take(self, chunk: bytes) -> None:
        """Apply what came."""
        for event in self._decoder.feed(chunk):
            self._apply(event)

    def _apply(self, event: SseEvent) -> None:
        assert not self.has_ending, "nothing follows the terminal event"
        envelope = decode_envelope(event.data)
        if event.retry is not None:
            self.retry_ms = event.retry
        if event.event == "heartbeat":
            assert envelope.type == "heartbeat"
            assert envelope.sequence == self.last, "a heartbeat bears the last seq sent"
            self.heartbeats += 1
            return
        assert event.event == "message"
        if envelope.type == "snapshot":
            self._replace(envelope)
        else:
            assert envelope.sequence == self.last + 1, "no gap, no repeat"
            self.applied.append(envelope)
        assert event.id == self.cursor

    def _replace(self, envelope: Envelope) -> None:
        assert envelope.sequence == envelope.data["upto"]
        self.snapshot = envelope.data["text"]
        self.base = envelope.sequence
        self.applied = []
