"""One answer as far as it was read, and the rule by which an event joins it (PROTOCOL §6).

    seq <= known       drop    it was told before; sources and metadata that weren't are told late
    seq == known + 1   apply
    seq >  known + 1   gap     nothing is told before the text is whole again

No network, no clock.
"""

from collections.abc import Sequence

import msgspec

from subak.client.events import Content, Done, Metadata, Replaced, Source, Sources, Token
from subak.client.wire import DoneData, Envelope, ErrorData, MetadataData, SnapshotData, StateReply
from subak.core.cursor import Cursor
from subak.core.envelope import SNAPSHOT
from subak.core.events import METADATA, SOURCES

_decode_text = msgspec.json.Decoder(str).decode
_decode_sources = msgspec.json.Decoder(tuple[Source, ...]).decode
_decode_metadata = msgspec.json.Decoder(MetadataData).decode
_decode_done = msgspec.json.Decoder(DoneData).decode
_decode_error = msgspec.json.Decoder(ErrorData).decode
_decode_snapshot = msgspec.json.Decoder(SnapshotData).decode


class Gap(Exception):
    """Something between what is known and this event hasn't come."""


class Answer:
    """Text, sources and ending of one stream.

    `known` is the seq up to which the text is known, `read` the one up to which events were read: less, once a state
    has told the text. It comes back after `read`, so that sources that the state doesn't tell aren't lost.
    """

    def __init__(self, start: Cursor | None = None, text: str | None = None) -> None:
        """`start` is where its reader has come to before, `text` what that was: None where nobody knows it."""
        self.stream_id = "" if start is None else start.stream_id
        self.known = self.read = 0 if start is None else start.seq
        self.ending: Done | ErrorData | None = None
        self.metadata: Metadata | None = None
        self.duplicates = 0
        self._parts = [text or ""]
        self._sources: dict[int, tuple[Source, ...]] = {}
        self._is_partial = text is None and self.known > 0

    @property
    def text(self) -> str:
        """The text so far; from where its reader joined, if what was before isn't known."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return self._parts[0]

    @property
    def sources(self) -> Sequence[Source]:
        """All sources so far, in order."""
        return [source for _, several in sorted(self._sources.items()) for source in several]

    @property
    def cursor(self) -> Cursor:
        """Where to come back."""
        return Cursor(self.stream_id, self.read)

    def take(self, envelope: Envelope, *, bears_id: bool) -> list[Content]:
        """Take an event in; give what its reader is to be told. `bears_id`: one may come back after it.

        Raises:
            Gap: it can't join yet.
            msgspec.MsgspecError: its data isn't what its type says.
        """
        seq = envelope.sequence
        if envelope.type == SNAPSHOT:
            snapshot = _decode_snapshot(envelope.data)
            self.read = seq
            return self._replace(snapshot.text, seq)
        if seq > self.known + 1:
            raise Gap
        told = self._late(envelope) if seq <= self.known else self._apply(envelope)
        if bears_id and seq > self.read:
            self.read = seq
        return told

    def learn(self, state: StateReply) -> list[Content]:
        """Take the text that a state tells, unless more is known already. A terminal event isn't part of it."""
        upto = state.last_seq - state.is_ended
        if upto < self.known or (upto == self.known and self._is_partial):
            return []
        return self._replace(state.text, upto)

    def end_by(self, state: StateReply) -> list[Content]:
        """End as a state tells that the stream has ended, where the stream itself can't be read any more."""
        assert state.is_ended
        if state.error is not None:
            self.ending = state.error
            return []
        return [self._end(Done(state.finish_reason or "", state.last_seq))]

    def end_unasked(self) -> list[Content]:
        """End before anything was asked."""
        return [self._end(Done("cancelled", self.known))]

    def _apply(self, envelope: Envelope) -> list[Content]:
        told = self._told(envelope)
        self.known = envelope.sequence
        return told

    def _told(self, envelope: Envelope) -> list[Content]:
        seq = envelope.sequence
        match envelope.type:
            case "token":
                text = _decode_text(envelope.data)
                self._parts.append(text)
                return [Token(text, seq)]
            case "sources":
                return [self._note_sources(envelope)]
            case "metadata":
                return [self._note_metadata(envelope)]
            case "done":
                done = _decode_done(envelope.data)
                return [self._end(Done(done.finish_reason, seq, done.usage, done.metrics))]
            case "error":
                self.ending = _decode_error(envelope.data)
                return []
            case _:  # newer than this reader
                return []

    def _late(self, envelope: Envelope) -> list[Content]:
        if envelope.type == SOURCES and envelope.sequence > self.read and envelope.sequence not in self._sources:
            return [self._note_sources(envelope)]
        if envelope.type == METADATA and envelope.sequence > self.read and self.metadata is None:
            return [self._note_metadata(envelope)]
        self.duplicates += 1
        return []

    def _note_sources(self, envelope: Envelope) -> Sources:
        items = _decode_sources(envelope.data)
        self._sources[envelope.sequence] = items
        return Sources(items, envelope.sequence)

    def _note_metadata(self, envelope: Envelope) -> Metadata:
        data = _decode_metadata(envelope.data)
        self.metadata = Metadata(data.stream_id, data.connection_id, envelope.sequence)
        return self.metadata

    def _end(self, done: Done) -> Done:
        self.ending = done
        return done

    def _replace(self, text: str, upto: int) -> list[Content]:
        """Take a whole text; tell what continues the one that was told, else all of it."""
        before, was_partial = self.text, self._is_partial
        self._parts, self._is_partial = [text], False
        self.known = upto
        self._sources = {seq: items for seq, items in self._sources.items() if seq <= upto}
        if not was_partial and text == before:
            return []
        if not was_partial and text.startswith(before):
            return [Token(text[len(before) :], upto)]
        return [Replaced(text, upto)]
