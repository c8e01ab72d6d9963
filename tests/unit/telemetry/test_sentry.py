"""Reports of crashes, as a service that takes Sentry's envelopes gets them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import msgspec
import pytest

from subak.core.facts import Crashed, DescriptorsFreed
from subak.telemetry.sentry import QUEUE_REPORTS, REPEAT_AFTER_S, Dsn, SentryReporter, envelope, parse_dsn
from subak.testing import PATIENCE_S, End, FakeClock, Head, ScriptedUpstream, Stall

CRASHED = Crashed("KeyError", "hub.py:10 open")


def crash(number: int) -> Crashed:
    return Crashed("KeyError", f"hub.py:{number} open")


@asynccontextmanager
async def reporting(service: ScriptedUpstream, clock: FakeClock | None = None) -> AsyncIterator[SentryReporter]:
    """Run a reporter before a service."""
    dsn = parse_dsn(service.url.replace("://", "://thekey@") + "/42")
    async with aiohttp.ClientSession() as session:
        reporter = SentryReporter(dsn, session, clock or FakeClock(), release="subak@1.2.3")
        running = asyncio.get_running_loop().create_task(reporter.run())
        yield reporter
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def settled(reporter: SentryReporter, count: int) -> None:
    """Return once so many reports were sent or dropped."""
    async with asyncio.timeout(PATIENCE_S):
        while reporter.sent + reporter.dropped < count:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.002)


def test_a_dsn_says_where_reports_go() -> None:
    assert parse_dsn("https://abc@sentry.example/7") == Dsn("https://sentry.example/api/7/envelope/", "abc")
    assert parse_dsn("http://abc:secret@[::1]:9000/sub/path/7").envelope_url == (
        "http://[::1]:9000/sub/path/api/7/envelope/"
    )


@pytest.mark.parametrize("text", ["", "abc", "https://sentry.example/7", "https://abc@sentry.example/", "ftp://a@b/7"])
def test_what_is_no_dsn_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError, match="looks like https://KEY@HOST/PROJECT"):
        parse_dsn(text)


def test_a_report_names_kind_and_place() -> None:
    report = envelope(CRASHED, release="subak@1.2.3", event_id="0" * 32, at_ms=1_700_000_000_500)
    head, item, body, rest = report.split(b"\n")
    assert rest == b""
    assert msgspec.json.decode(head) == {"event_id": "0" * 32}
    assert msgspec.json.decode(item) == {"type": "event", "length": len(body), "content_type": "application/json"}
    event = msgspec.json.decode(body)
    assert (event["timestamp"], event["release"], event["level"]) == (1_700_000_000.5, "subak@1.2.3", "error")
    (exception,) = event["exception"]["values"]
    assert exception["type"] == "KeyError"
    assert "value" not in exception
    assert exception["stacktrace"]["frames"] == [
        {"filename": "hub.py", "function": "open", "lineno": 10, "in_app": True}
    ]
    assert event["fingerprint"] == ["1006a2ce4b3e"]


def test_a_crash_without_a_place_is_reported_too() -> None:
    body = envelope(Crashed("KeyError", "unknown"), release="x", event_id="0" * 32, at_ms=1).split(b"\n")[2]
    (exception,) = msgspec.json.decode(body)["exception"]["values"]
    assert exception["stacktrace"]["frames"][0]["lineno"] is None


async def test_a_crash_arrives_with_the_key() -> None:
    async with ScriptedUpstream([Head(200), End()]) as service, reporting(service) as reporter:
        reporter.notify(DescriptorsFreed())
        reporter.notify(CRASHED)
        await settled(reporter, 1)
        (request,) = service.requests
        assert (request.method, request.target) == ("POST", "/api/42/envelope/")
        assert "sentry_key=thekey" in request.headers["x-sentry-auth"]
        assert request.headers["content-type"] == "application/x-sentry-envelope"
        assert b'"type":"KeyError"' in request.body
        assert (reporter.sent, reporter.dropped) == (1, 0)


async def test_the_same_crash_is_reported_once_a_minute() -> None:
    clock = FakeClock()
    async with ScriptedUpstream([Head(200), End()]) as service, reporting(service, clock) as reporter:
        for _ in range(5):
            reporter.notify(CRASHED)
        reporter.notify(crash(99))
        await settled(reporter, 2)
        clock.advance(REPEAT_AFTER_S)
        reporter.notify(CRASHED)
        await settled(reporter, 3)
        assert (reporter.sent, reporter.dropped, service.questions) == (3, 0, 3)


async def test_a_service_that_has_enough_is_left_alone_for_as_long_as_it_says() -> None:
    clock = FakeClock()
    script = [Head(429, {"Retry-After": "30", "Content-Length": "0"}, framing="given"), End()]
    async with ScriptedUpstream(script) as service, reporting(service, clock) as reporter:
        reporter.notify(crash(1))
        await settled(reporter, 1)
        reporter.notify(crash(2))
        await settled(reporter, 2)
        assert service.questions == 1
        clock.advance(30)
        reporter.notify(crash(3))
        await settled(reporter, 3)
        assert (service.questions, reporter.sent, reporter.dropped) == (2, 0, 3)


async def test_a_service_that_is_gone_costs_reports_and_nothing_else() -> None:
    async with ScriptedUpstream([Head(200), End()]) as service:
        pass
    async with reporting(service) as reporter:
        reporter.notify(CRASHED)
        await settled(reporter, 1)
        assert (reporter.sent, reporter.dropped) == (0, 1)


async def test_a_service_that_is_slow_costs_what_finds_no_room() -> None:
    async with ScriptedUpstream([Stall()]) as service, reporting(service) as reporter:
        reporter.notify(crash(0))
        await service.wait_questions(1)
        for number in range(1, QUEUE_REPORTS + 6):
            reporter.notify(crash(number))
        assert (reporter.sent, reporter.dropped) == (0, 5)
