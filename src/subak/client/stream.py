"""`stream` and `resume`: one answer as an async iterator, by the rule and over the line.

Leaving is closing: whoever breaks out of the loop closes the connection, and the answer goes on at the gateway for a
while. `stop` ends it there. The same `AnswerStream` may be read again later, and goes on where it was left.
"""

import asyncio
import random
import secrets
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from http import HTTPStatus
from itertools import count
from types import TracebackType
from typing import Final, Self
from weakref import ref

from subak.client.events import Content, Done, Source, Token
from subak.client.line import Fields, Line, LineLost, Options, Place, Reply
from subak.client.metrics import Meter, Metrics
from subak.client.rule import GARBLED, Ask, Attach, Look, Rule, Wait
from subak.client.wire import Refusal
from subak.core.cursor import Cursor, is_stream_id
from subak.core.errors import MalformedCursor

_KEY_BYTES: Final = 24
_STOPPED_SILENCE_S: Final = 5.0
"""After a stop its ending comes at once, or the line is dead."""
_DEFAULTS: Final = Options()
_Reading = ref[AsyncGenerator[Content, None]]


def stream(
    url: str,
    *,
    query: str,
    user_email: str | None = None,
    user_role: str | None = None,
    conversation_history: Sequence[Mapping[str, str]] | None = None,
    options: Options = _DEFAULTS,
) -> "AnswerStream":
    """Ask a question, once iterated over. `url`: the gateway's base URL, or that of its route for questions.

    `conversation_history` has `{"role": "user" | "assistant", "content": …}`, oldest first.

    Raises:
        ValueError: `url` is none of a gateway.
    """
    members = {
        "query": query,
        "user_email": user_email,
        "user_role": user_role,
        "conversation_history": conversation_history,
    }
    fields = {name: value for name, value in members.items() if value is not None}
    return AnswerStream(Place.of(url), options, fields, Rule(options.patience))


def resume(url: str, cursor: str, *, text: str | None = None, options: Options = _DEFAULTS) -> "AnswerStream":
    """Read on in an answer that was asked for elsewhere or earlier. `url` as in `stream`.

    `cursor` is what an `AnswerStream` had, or a stream's id, for all of it. `text`: the text up to the cursor. Without
    it `AnswerStream.text` begins behind the cursor, unless a repair tells the whole.

    Raises:
        ValueError: `url` is none of a gateway, or `cursor` is no cursor.
    """
    try:
        start = Cursor(cursor, 0) if is_stream_id(cursor) else Cursor.parse(cursor)
    except MalformedCursor as error:
        raise ValueError("expected a cursor, {stream_id}.{seq}, or a stream's id") from error
    return AnswerStream(Place.of(url), options, {}, Rule(options.patience, start, text))


class AnswerStream:
    """One answer. Iterate over it for its events; it ends after `Done`, and raises a `ClientError` without one.

    To be sure that the connection is closed at a certain line, use it by `async with`; a loop that is left closes it
    soon after. One loop at a time.
    """

    def __init__(self, place: Place, options: Options, fields: Fields, rule: Rule) -> None:
        """Made by `stream` and `resume`."""
        self.idempotency_key = options.idempotency_key or secrets.token_urlsafe(_KEY_BYTES)
        """What makes a question that is sent again the same question. Whoever has it may find the answer by it."""
        self._fields = fields
        self._options = options
        self._rule = rule
        self._line = Line(place, options)
        self._meter = Meter()
        self._moved = asyncio.Event()
        """Set whenever the stream's id may have become known, or nobody reads any more."""
        self._woken = asyncio.Event()
        """Set to end the pause under way."""
        self._reading: _Reading | None = None
        self._is_reading = False

    @property
    def text(self) -> str:
        """The answer so far."""
        return self._rule.answer.text

    @property
    def sources(self) -> Sequence[Source]:
        """Its sources so far."""
        return self._rule.answer.sources

    @property
    def stream_id(self) -> str:
        """Empty until the gateway has told it. Whoever has it may read and stop an anonymous answer."""
        return self._rule.answer.stream_id

    @property
    def cursor(self) -> str:
        """Where it goes on, for `resume`; empty before the stream is known."""
        return str(self._rule.answer.cursor) if self.stream_id else ""

    @property
    def done(self) -> Done | None:
        """Its ending, if it ended well."""
        ending = self._rule.answer.ending
        return ending if isinstance(ending, Done) else None

    @property
    def metrics(self) -> Metrics:
        """What it has been like so far."""
        rule = self._rule
        return self._meter.read(_now(), connects=rule.connects, duplicates=rule.answer.duplicates, gaps=rule.gaps)

    def __aiter__(self) -> AsyncGenerator[Content, None]:
        events = self._events(self._reading)
        self._reading = ref(events)
        return events

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Leave: close the connection of a loop that was left. The answer goes on at the gateway for a while."""
        events = self._reading() if self._reading is not None else None
        if events is not None:
            await events.aclose()

    async def stop(self) -> None:
        """End the answer at the gateway, for everybody who reads it; returns when the gateway has done so.

        May be called within the loop or beside it. A loop goes on to the ending that the gateway then tells, usually
        `Done` with "cancelled"; the text so far is kept. Does nothing where there is nothing to end.

        Raises:
            ClientError: the gateway refuses, has the answer no more, or can't be reached.
        """
        self._rule.stop()
        self._woken.set()
        while not self._rule.is_over and not self.stream_id:
            await self._come_to_know_it()
        for attempt in count():
            if not self.stream_id or self._rule.answer.ending is not None:
                return
            refusal = await self._send_stop()
            if refusal is None:
                break
            wait = self._rule.stop_refused(refusal, attempt, _chance())
            await asyncio.sleep(wait.seconds)
        self._line.shorten_silence(_STOPPED_SILENCE_S)
        self._woken.set()

    async def _come_to_know_it(self) -> None:
        """Wait until something has moved; where nobody reads, read until the stream is known."""
        if self._is_reading:
            self._moved.clear()
            await self._moved.wait()
            return
        async with aclosing(self._events(None)) as events:
            async for _ in events:
                if self.stream_id:
                    return

    async def _send_stop(self) -> Refusal | None:
        try:
            async with self._line.stop(self.stream_id) as reply:
                return None if reply.is_ok else await reply.refusal()
        except LineLost as lost:
            return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, lost.reason)

    async def _events(self, previous: _Reading | None) -> AsyncGenerator[Content, None]:
        while self._is_reading:
            if previous is None or previous() is not None:
                raise RuntimeError("this answer is being read by another loop: one at a time")
            self._moved.clear()  # the other one was left, and is about to close its connection
            await self._moved.wait()
        self._is_reading = True
        self._rule.join()
        self._meter.start(_now())
        try:
            while (step := self._rule.next_step(_chance())) is not None:
                if isinstance(step, Wait):
                    await self._rest(step)
                    continue
                async with aclosing(self._exchange(step)) as batches:
                    async for batch in batches:
                        for content in batch:
                            self._note(content)
                            yield content
        finally:
            self._meter.end(_now())
            self._is_reading = False
            self._moved.set()

    async def _exchange(self, step: Ask | Attach | Look) -> AsyncGenerator[Iterable[Content], None]:
        """Perform one step over the line; give what it brings."""
        rule = self._rule
        if isinstance(step, Ask):
            yield rule.send()
            if rule.is_over:
                return
        try:
            async with self._request(step) as reply:
                if isinstance(step, Look) or not reply.is_stream:
                    yield await self._read_whole(step, reply)
                    return
                rule.begin(reply.stream_id)
                self._moved.set()
                while rule.wants_more and (chunk := await reply.chunk()):
                    self._meter.size_bytes += len(chunk)
                    yield rule.take(chunk)
                rule.end()
        except LineLost as lost:
            rule.lost(lost.reason)

    def _request(self, step: Ask | Attach | Look) -> AbstractAsyncContextManager[Reply]:
        match step:
            case Ask():
                return self._line.ask(self._fields, self.idempotency_key)
            case Attach():
                return self._line.attach(step)
            case Look():
                return self._line.look(step)

    async def _read_whole(self, step: Ask | Attach | Look, reply: Reply) -> Sequence[Content]:
        if not isinstance(step, Look) or not reply.is_ok:
            return self._rule.refuse(step, await reply.refusal())
        state = await reply.state(self._options.patience.max_event_bytes)
        if state is None:
            self._rule.lost(GARBLED)
            return ()
        return self._rule.learn(state)

    def _note(self, content: Content) -> None:
        if isinstance(content, Token):
            self._meter.token(_now())
        self._moved.set()

    async def _rest(self, wait: Wait) -> None:
        if self._options.on_wait is not None:
            self._options.on_wait(wait)
        self._woken.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(wait.seconds):
                await self._woken.wait()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _chance() -> float:
    return random.random()  # noqa: S311 - jitter, not a secret
