"""The reader's rule as a machine without IO: what came, and what to do next (PROTOCOL §6).

    what came                                                next
    -------------------------------------------------------  ----------------------------------------------------
    nothing yet                                              ask; attach, where the stream is known
    an event that joins the text                             read on
    one after a gap, 204 or 410 to an attach                 look at the state, take its text, attach behind it
    the end of a body, a lost line                           wait, then attach; ask with the same key without an id
    a line that said nothing at all                          wait, look at the state, attach
    a refusal that passes (408, 425, 429, 5xx)               wait at least as long as it says, then the same again
    any other refusal                                        failed, unless a state has told the ending
    `done`; a state that ended, where nothing can be read    over
    `error`                                                  failed

A clean end of a body means nothing: only a terminal event ends an answer. Whoever drives this performs each step and
reports what came of it; times go out as seconds to wait, randomness comes in.
"""

from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import Final

import msgspec

from subak.client.answer import Answer, Gap
from subak.client.errors import AnswerExpired, AnswerFailed, ClientError, Garbled, GaveUp, Refused
from subak.client.events import Content
from subak.client.wire import ErrorData, Refusal, StateReply, decode_envelope, shown
from subak.core.backoff import full_jitter_s
from subak.core.cursor import Cursor
from subak.core.errors import MalformedCursor
from subak.core.json_errors import NOT_JSON
from subak.core.sse import SseDecoder, SseEvent, SseTooLarge

CUT: Final = "cut"
SILENT: Final = "silent"
UNREACHABLE: Final = "unreachable"
GARBLED: Final = "garbled"
HEARTBEAT: Final = "heartbeat"

_PASSING: Final = frozenset({200, 408, 425, 429})
"""Refusals that may pass, beside 5xx; a 200 is a page of something in between."""
_ABOUT: Final = {
    401: "The gateway wants valid credentials",
    403: "The gateway doesn't stream for this caller",
    404: "The gateway knows no such stream or route",
    429: "The gateway wants a longer pause than this reader takes",
}
_GONE: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
_HEARTBEATS_UNTIL_DEAD: Final = 2.5


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of time and size.

    A line that says nothing for 2.5 of the gateway's heartbeats (`heartbeat_s`) is dead. Waits grow from up to
    `first_wait_s` to up to `longest_wait_s`, and are never shorter than the gateway asks for; when it asks for more
    than `longest_retry_after_s`, that is a refusal. `attempts` in a row that bring nothing are the end.
    """

    heartbeat_s: float = 30.0
    connect_s: float = 10.0
    first_wait_s: float = 1.0
    longest_wait_s: float = 30.0
    longest_retry_after_s: float = 300.0
    attempts: int = 10
    max_event_bytes: int = 8 * 1024 * 1024

    @property
    def silence_s(self) -> float:
        """How long a line may say nothing."""
        return _HEARTBEATS_UNTIL_DEAD * self.heartbeat_s

    def jitter_s(self, attempt: int, chance: float) -> float:
        """Give how long to wait before coming back. `attempt`: from 0."""
        return full_jitter_s(attempt, chance, first_s=self.first_wait_s, longest_s=self.longest_wait_s)


class Ask(msgspec.Struct, frozen=True):
    """Send the question with its key."""


class Attach(msgspec.Struct, frozen=True):
    """Read on after the cursor, by a snapshot where events are missing."""

    cursor: Cursor


class Look(msgspec.Struct, frozen=True):
    """Get the stream's state."""

    stream_id: str


class Wait(msgspec.Struct, frozen=True):
    """Do nothing for so long. `attempt` counts those in a row that brought nothing, from 1.

    `reason`: cut, silent, unreachable, garbled, or the code of a refusal, whose HTTP status is then `status`.
    """

    seconds: float
    reason: str
    attempt: int
    status: int | None = None


Step = Ask | Attach | Look | Wait


class _Pause(msgspec.Struct, frozen=True):
    """Why to wait, and for how long at least."""

    reason: str
    at_least_s: float
    status: int | None = None


class Rule:
    """One answer's way to its end.

    Do what `next_step` says and report what came of it: `begin`, `take` … and `end` for an event stream, `learn` for a
    state, `refuse` for any other answer, `lost` for none. What these give is to be told to the reader, in order.
    """

    def __init__(self, patience: Patience, start: Cursor | None = None, text: str | None = None) -> None:
        """`start` is where to read on, `text` what stood before it, if that is known; without it one asks."""
        self.answer = Answer(start, text)
        self.connects = 0
        self.gaps = 0
        self._patience = patience
        self._decoder = SseDecoder(max_line_bytes=patience.max_event_bytes, max_event_bytes=patience.max_event_bytes)
        self._failure: ClientError | None = None
        self._pause: _Pause | None = None
        self._fruitless = 0
        self._must_look = False
        self._is_gone = False
        """An attach was refused as the next one will be: a state must tell the rest."""
        self._last_word: StateReply | None = None
        """A state that told the ending, until the stream itself tells it."""
        self._is_line_good = False
        self._has_heard = False
        self._is_stopped = False
        self._was_sent = self._may_exist = False
        """Whether a question, the last one left out or counted, may have made a stream whose id isn't known."""

    @property
    def is_over(self) -> bool:
        """Whether the answer has its ending, or can't get one."""
        return self.answer.ending is not None or self._failure is not None

    @property
    def wants_more(self) -> bool:
        """Whether the rest of this response is of any use."""
        return self._is_line_good and not self.is_over

    def join(self) -> None:
        """Somebody reads, for the first time or again: what was in vain before doesn't count."""
        self._fruitless = 0
        self._pause = None

    def stop(self) -> None:
        """Nobody wants the answer any more: a question that has certainly reached nobody isn't sent."""
        self._is_stopped = True

    def next_step(self, chance: float) -> Step | None:
        """Give what to do; None when the answer is whole. `chance` is in [0, 1).

        Raises:
            ClientError: there is no whole answer.
        """
        if isinstance(self.answer.ending, ErrorData):
            raise _failed(self.answer.ending)
        if self.answer.ending is not None:
            return None
        if self._failure is not None:
            raise self._failure
        if self._pause is not None:
            return self._wait(self._pause, chance)
        if self._must_look:
            return Look(self.answer.stream_id)
        return Attach(self.answer.cursor) if self.answer.stream_id else Ask()

    def send(self) -> list[Content]:
        """The question is about to be sent; when it was stopped before that, the answer ends here."""
        if self._is_stopped and not self._may_exist:
            return self.answer.end_unasked()
        self._was_sent, self._may_exist = self._may_exist, True
        return []

    def begin(self, stream_id: str) -> None:
        """A response that is an event stream has begun; it names its stream, or doesn't ("")."""
        self._decoder.reset()
        self._is_line_good = True
        self._has_heard = False
        self.connects += 1
        if stream_id and not self._is_ours(stream_id):
            self._spoil()

    def take(self, chunk: bytes) -> Iterator[Content]:
        """Take the next bytes of the response.

        An event is taken in when its content is asked for: where the reader stops, there the cursor stays.
        """
        self._has_heard = True
        try:
            yield from self._take_events(self._decoder.feed(chunk))
        except SseTooLarge as error:
            yield from self._take_events(error.events)
            self._failure = Garbled(f"What came is no stream of a gateway: {error}.")

    def end(self) -> None:
        """The response is over, by itself or because nobody wants more of it; its end means nothing."""
        if not self.is_over and not self._must_look:
            self.lost(CUT)

    def lost(self, reason: str) -> None:
        """Nothing came of a step, or nothing more."""
        self._is_line_good = False
        if reason == UNREACHABLE:
            self._may_exist = self._was_sent
        if reason == SILENT and not self._has_heard and self.answer.stream_id:
            self._must_look = True
        if self._pause is None:
            self._pause = _Pause(reason, self._retry_s)
        self._has_heard = False

    def refuse(self, step: Ask | Attach | Look, refusal: Refusal) -> list[Content]:
        """A step was answered by something else than what it asks for."""
        if isinstance(step, Ask):
            self._note_refused_question(refusal)
        elif self._last_word is not None and not self._is_passing(refusal):
            return self.answer.end_by(self._last_word)
        if isinstance(step, Attach) and refusal.status in _GONE:
            self._must_look = self._is_gone = True
        elif self._is_passing(refusal):
            at_least_s = max(self._retry_s, refusal.retry_after_s or 0.0)
            self._pause = _Pause(refusal.code, at_least_s, refusal.status)
        elif isinstance(step, Look) and refusal.status in _GONE:
            self._failure = AnswerExpired()
        elif not self._must_look:
            self._failure = _refused(refusal)
        return []

    def learn(self, state: StateReply) -> list[Content]:
        """Take what a state tells: the text, and perhaps the ending."""
        before, was_told = self.answer.known, self._last_word is not None
        told = self.answer.learn(state)
        self._note_progress(before)
        self._must_look = False
        self._last_word = state if state.is_ended else None
        if self._is_gone and state.is_ended:
            return told + self.answer.end_by(state)
        if self._is_gone:
            self._is_gone = False
            self.answer.read = self.answer.known
        if self.answer.known == before and (was_told or not state.is_ended):
            self.lost(CUT)
        return told

    def stop_refused(self, refusal: Refusal, attempt: int, chance: float) -> Wait:
        """A stop was answered by something else than success; give how long to wait before the next. `attempt`: from 0.

        Raises:
            ClientError: there is no use in trying again.
        """
        if refusal.status in _GONE:
            raise AnswerExpired
        if not self._is_passing(refusal):
            raise _refused(refusal)
        if attempt >= self._patience.attempts:
            raise GaveUp(attempt, refusal.code, str(self.answer.cursor))
        jitter_s = self._patience.jitter_s(attempt, chance)
        return Wait(max(refusal.retry_after_s or 0.0, jitter_s), refusal.code, attempt + 1, refusal.status)

    @property
    def _retry_s(self) -> float:
        return min((self._decoder.retry or 0) / 1000, self._patience.longest_retry_after_s)

    def _wait(self, pause: _Pause, chance: float) -> Wait:
        patience = self._patience
        if self._fruitless >= patience.attempts:
            cursor = str(self.answer.cursor) if self.answer.stream_id else ""
            raise GaveUp(self._fruitless, pause.reason, cursor)
        self._pause = None
        jitter_s = patience.jitter_s(self._fruitless, chance)
        self._fruitless += 1
        return Wait(max(pause.at_least_s, jitter_s), pause.reason, self._fruitless, pause.status)

    def _take_events(self, events: Iterable[SseEvent]) -> Iterator[Content]:
        for event in events:
            if not self.wants_more:
                return
            try:
                yield from self._take_event(event)
            except Gap:
                self._must_look = True
                self._is_line_good = False
                self.gaps += 1
            except (MalformedCursor, *NOT_JSON):
                self._spoil()

    def _take_event(self, event: SseEvent) -> list[Content]:
        envelope = decode_envelope(event.data)
        if event.event == HEARTBEAT:
            self._fruitless = 0
            if envelope.sequence > self.answer.known:
                raise Gap
            return []
        cursor = Cursor.parse(event.id)
        if not self._is_ours(cursor.stream_id):
            self._spoil()
            return []
        before = self.answer.known
        told = self.answer.take(envelope, bears_id=cursor.seq == envelope.sequence)
        self._note_progress(before)
        return told

    def _note_progress(self, before: int) -> None:
        if self.answer.known != before:
            self._fruitless = 0

    def _note_refused_question(self, refusal: Refusal) -> None:
        if refusal.status < HTTPStatus.INTERNAL_SERVER_ERROR:
            self._may_exist = self._was_sent
        if refusal.stream_id:  # the key's stream has ended: its text may still be there
            self.answer.stream_id = refusal.stream_id
            self._must_look = self._is_gone = True

    def _spoil(self) -> None:
        """What comes on this line is of no use; another one may be better."""
        self._is_line_good = False
        self._pause = _Pause(GARBLED, self._retry_s)

    def _is_passing(self, refusal: Refusal) -> bool:
        if (refusal.retry_after_s or 0.0) > self._patience.longest_retry_after_s:
            return False
        return refusal.status >= HTTPStatus.INTERNAL_SERVER_ERROR or refusal.status in _PASSING

    def _is_ours(self, stream_id: str) -> bool:
        if not self.answer.stream_id:
            self.answer.stream_id = stream_id
        return stream_id == self.answer.stream_id


def _failed(error: ErrorData) -> AnswerFailed:
    return AnswerFailed(error.code, shown(error.message), is_retryable=error.retryable, retry_after_s=error.retry_after)


def _refused(refusal: Refusal) -> Refused:
    about = _ABOUT.get(refusal.status, "The gateway refused the request")
    if refusal.status in range(300, 400):
        about = "The URL leads elsewhere, and nobody follows redirects of streams: give the gateway's own URL"
    said = f": {refusal.message}" if refusal.message else f" ({refusal.code})."
    return Refused(
        refusal.status,
        refusal.code,
        f"{about}, {refusal.status}{said}",
        is_retryable=refusal.status in _PASSING or refusal.status >= HTTPStatus.INTERNAL_SERVER_ERROR,
        retry_after_s=refusal.retry_after_s,
    )
