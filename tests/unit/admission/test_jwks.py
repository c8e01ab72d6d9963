"""Rows 46 and 9 for keys: a real HTTP server that rotates them, fails, is slow, redirects."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import inf
from typing import Final

import aiohttp
import pytest

from subak.admission.jwks import MAX_SET_BYTES, REFRESH_S, RETRY_S, STALE_S, UNKNOWN_KEY_S, Jwks, JwksTerms
from subak.admission.jwt import TokenRules, TokenVerifier
from subak.admission.reasons import Reason
from subak.core.deadlines import Deadlines
from subak.core.errors import KeysUnavailable, Unauthenticated
from subak.core.facts import Crashed, KeysRefused, KeysTaken
from subak.relay.crash import crash_site
from subak.testing import PATIENCE_S, FakeClock, RecordingObserver
from tests.issuer import AUDIENCE, ISSUER, NOW_S, IssuerServer, issuer_server, rsa_key, signed

OLD: Final = rsa_key("old")
NEW: Final = rsa_key("new")
FOREVER: Final = NOW_S + 10 * int(STALE_S)
ALGORITHMS: Final = ("RS256",)


@dataclass
class Scene:
    """A key set, its server, and time that stands still."""

    server: IssuerServer
    jwks: Jwks
    clock: FakeClock
    verifier: TokenVerifier
    session: aiohttp.ClientSession
    observer: RecordingObserver

    async def verify(self, kid_key: object) -> str:
        key = OLD if kid_key is OLD else NEW
        return (await self.verifier.verify(signed(key, "RS256", exp=FOREVER))).id

    async def reason(self) -> str:
        with pytest.raises(Unauthenticated) as caught:
            await self.verify(NEW)
        return caught.value.reason

    async def pass_time(self, seconds: float) -> None:
        """Let time pass; a fetch that falls due is awaited."""
        self.clock.advance(seconds)
        await self.jwks.settled()


@asynccontextmanager
async def scene(*, is_first_fetched: bool = True) -> AsyncIterator[Scene]:
    deadlines = Deadlines()
    clock = FakeClock(deadlines)
    async with (
        issuer_server() as server,
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
        asyncio.TaskGroup() as tasks,
    ):
        server.publish(OLD)
        observer = RecordingObserver(clock)
        jwks = Jwks(
            JwksTerms(server.url, ALGORITHMS),
            session=session,
            clock=clock,
            tasks=tasks,
            observer=observer,
            site_of=crash_site,
        )
        rules = TokenRules(algorithms=ALGORITHMS, issuer=ISSUER, audience=AUDIENCE)
        if is_first_fetched:
            await jwks.refresh()
            deadlines.watch(jwks, clock.monotonic() + RETRY_S)
        yield Scene(server, jwks, clock, TokenVerifier(rules, jwks, clock), session, observer)
        await jwks.close()


async def test_a46_a_known_key_asks_nobody() -> None:
    async with scene() as on:
        for _ in range(3):
            assert await on.verify(OLD) == "user:42"
        assert (on.server.requests, on.jwks.state.problem, on.jwks.state.failures) == (1, "", 0)


async def test_a46_a_key_that_was_rotated_in_is_found_by_the_first_token_that_names_it() -> None:
    async with scene() as on:
        on.server.publish(OLD, NEW)
        on.clock.advance(UNKNOWN_KEY_S)
        assert await on.verify(NEW) == "user:42"
        assert await on.verify(OLD) == "user:42"
        assert on.server.requests == 2


async def test_a46_unknown_names_fetch_once_in_ten_seconds() -> None:
    async with scene() as on:
        on.clock.advance(UNKNOWN_KEY_S)
        for _ in range(20):
            assert await on.reason() == Reason.TOKEN_KEY_UNKNOWN
        assert on.server.requests == 2
        on.clock.advance(UNKNOWN_KEY_S)
        assert await on.reason() == Reason.TOKEN_KEY_UNKNOWN
        assert on.server.requests == 3


async def test_a46_all_who_wait_for_a_slow_source_wait_for_one_request() -> None:
    async with scene() as on:
        on.clock.advance(UNKNOWN_KEY_S)
        on.server.publish(OLD, NEW)
        on.server.gate.clear()
        on.server.asked.clear()
        async with asyncio.TaskGroup() as tasks:
            waiting = [tasks.create_task(on.verify(NEW)) for _ in range(50)]
            gone = tasks.create_task(on.verify(NEW))
            await on.server.asked.wait()
            gone.cancel()
            assert await on.verify(OLD) == "user:42"  # whom it doesn't concern, it doesn't hold up
            on.server.gate.set()
        assert {task.result() for task in waiting} == {"user:42"}
        assert on.server.requests == 2


@pytest.mark.parametrize(
    ("status", "body", "headers", "problem"),
    [
        (500, None, {}, "status_500"),
        (404, None, {}, "status_404"),
        (302, None, {"Location": "/elsewhere"}, "redirect"),
        (307, None, {"Location": "http://169.254.169.254/"}, "redirect"),
        (200, b"<html>", {}, "malformed"),
        (200, b"[]", {}, "malformed"),
        (200, b'{"keys": 7}', {}, "malformed"),
        (200, b'{"keys": []}', {}, "no_usable_key"),
        (200, b"[" * 100_000, {}, "malformed"),
        (200, b" " * (MAX_SET_BYTES + 1), {}, "too_large"),
        (200, None, {"Content-Encoding": "gzip"}, "encoded"),
    ],
)
async def test_a46_keys_go_on_when_their_source_gives_nonsense(
    status: int, body: bytes | None, headers: dict[str, str], problem: str
) -> None:
    async with scene() as on:
        on.server.status, on.server.headers = status, headers
        on.server.body = on.server.body if body is None else body
        await on.pass_time(REFRESH_S)
        assert on.jwks.state.problem == problem
        assert await on.verify(OLD) == "user:42"
        assert (on.server.requests, on.jwks.state.failures, on.jwks.state.age_s) == (2, 1, REFRESH_S)


async def test_a46_a_source_that_is_down_is_tried_again_and_its_keys_end_after_a_day() -> None:
    async with scene() as on:
        on.server.status = 503
        await on.pass_time(REFRESH_S)
        await on.pass_time(RETRY_S)
        assert on.jwks.state.failures == 2
        for _ in range(int(STALE_S / REFRESH_S) - 2):
            await on.pass_time(REFRESH_S)
        assert await on.verify(OLD) == "user:42"
        await on.pass_time(2 * REFRESH_S)
        with pytest.raises(KeysUnavailable):
            await on.verify(OLD)
        assert on.jwks.state.age_s == inf
        on.server.status = 200
        await on.pass_time(RETRY_S)
        assert await on.verify(OLD) == "user:42"
        told = [fact.reason for fact in on.observer.of(KeysRefused)]
        assert told == ["status_503", "too_old", "status_503"]


async def test_each_change_of_the_source_is_told_once() -> None:
    async with scene() as on:
        on.observer.clear()
        for status in (500, 500, 404, 200, 200):
            on.server.status = status
            await on.pass_time(REFRESH_S)
        assert on.observer.facts == [
            KeysRefused("jwks", "status_500"),
            KeysRefused("jwks", "status_404"),
            KeysTaken("jwks"),
        ]


async def test_a_defect_is_told_as_a_crash_and_the_keys_go_on() -> None:
    async with scene() as on:
        await on.session.close()  # no fetch expects that, as none expects a defect
        await on.pass_time(REFRESH_S)
        [crashed] = on.observer.of(Crashed)
        assert (crashed.kind, on.jwks.state.problem) == ("RuntimeError", "internal_error")
        assert ".py:" in crashed.where
        assert await on.verify(OLD) == "user:42"


async def test_a46_a_withdrawn_key_counts_no_longer_and_what_it_vouched_for_is_looked_at_again() -> None:
    async with scene() as on:
        revision = on.jwks.revision
        on.server.publish(OLD, NEW)
        await on.pass_time(REFRESH_S)
        assert on.jwks.revision == revision  # a key that came in takes nothing away
        on.server.publish(NEW)
        await on.pass_time(REFRESH_S)
        assert on.jwks.revision == revision + 1
        with pytest.raises(Unauthenticated):
            await on.verify(OLD)


async def test_a46_without_any_keys_the_caller_is_not_at_fault() -> None:
    async with scene(is_first_fetched=False) as on:
        on.server.status = 500
        assert on.jwks.state.age_s == inf
        with pytest.raises(KeysUnavailable) as caught:
            await on.verify(OLD)
        assert (caught.value.http_status, caught.value.retry_after_s) == (503, 10)
        on.server.status = 200
        on.clock.advance(UNKNOWN_KEY_S)
        assert await on.verify(OLD) == "user:42"


async def test_a46_nobody_listening_is_unreachable() -> None:
    async with issuer_server() as server:
        url = server.url
    assert await problem_of(url) == "unreachable"


async def test_a46_a_source_that_never_answers_is_given_up() -> None:
    async with issuer_server() as server:
        server.gate.clear()
        assert await problem_of(server.url, fetch_s=0.05) == "timeout"


async def problem_of(url: str, fetch_s: float = PATIENCE_S) -> str:
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
        jwks = Jwks(
            JwksTerms(url, ALGORITHMS, fetch_s),
            session=session,
            clock=FakeClock(),
            tasks=tasks,
            observer=RecordingObserver(),
            site_of=crash_site,
        )
        await jwks.refresh()
        return jwks.state.problem


async def test_closing_ends_a_fetch_under_way() -> None:
    async with scene(is_first_fetched=False) as on:
        on.server.gate.clear()
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(on.jwks.refresh())
            await on.server.asked.wait()
            await on.jwks.close()
        assert waiting.done()
