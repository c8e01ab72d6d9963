"""Log lines pushed to a double of Loki, over real sockets; and to a real one where `SUBAK_TEST_LOKI_URL` names it."""

import asyncio
import json
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
import pytest
from aiohttp import web

from subak.clocks import SystemClock
from subak.telemetry.loki import FLUSH_S, MAX_LINE_BYTES, MAX_QUEUED_BYTES, LokiPush, LokiTarget
from subak.testing import PATIENCE_S
from tests.integration.gateway import ONE_LOOP, eventually, process
from tests.push_double import PushDouble, push_double
from tests.settings import LOKI_URL

pytestmark = ONE_LOOP


def pushing(target: LokiTarget) -> LokiPush:
    """Give a sink that waits no longer than it must."""
    return LokiPush(target, SystemClock(), lambda: 0.0)


@contextmanager
def silent_port() -> Iterator[socket.socket]:
    """Give a socket at whose port nobody listens, and nobody else can."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound


def url_of(bound: socket.socket) -> str:
    return f"http://127.0.0.1:{bound.getsockname()[1]}"


async def test_lines_arrive_in_order_with_one_label_and_credentials() -> None:
    async with push_double(PushDouble(authorization="Basic MTIzNDU6dGhlLWtleQ==")) as double:
        async with pushing(LokiTarget(double.url + "/", "12345", "the-key")) as sink:
            for number in range(500):
                sink.write(f"line {number}\n")
        assert double.lines == [f"line {number}" for number in range(500)]
        assert double.labels == {(("service_name", "subak"),)}
        assert (sink.pushed, sink.dropped, double.refusals) == (500, 0, [])


async def test_a_key_alone_is_a_bearer_token_and_none_is_none() -> None:
    assert LokiTarget("http://x", key="k").headers["Authorization"] == "Bearer k"
    assert "Authorization" not in LokiTarget("http://x").headers


async def test_a_line_in_two_writes_is_one_line() -> None:
    async with push_double(PushDouble()) as double:
        async with pushing(LokiTarget(double.url)) as sink:
            for part in ("one", "\n", "two", " three", "\n", "four"):
                sink.write(part)
        assert double.lines == ["one", "two three"]


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_what_is_not_taken_now_is_sent_again_and_nothing_overtakes_it(status: int) -> None:
    busy = [web.Response(status=status, headers={"Retry-After": "0"}) for _ in range(3)]
    async with push_double(PushDouble(busy)) as double:
        async with pushing(LokiTarget(double.url)) as sink:
            sink.write("first\n")
            await eventually(lambda: double.requests >= 2, lambda: f"{double.requests} requests")
            sink.write("second\n")
            await eventually(lambda: sink.pushed == 2, lambda: f"{sink.pushed} pushed")
        assert double.lines == ["first", "second"]
        assert (sink.retries, sink.dropped) == (3, 0)


async def test_what_is_refused_for_good_is_counted_and_does_not_hold_up_the_rest() -> None:
    async with push_double(PushDouble([web.Response(status=400)])) as double:
        async with pushing(LokiTarget(double.url)) as sink:
            sink.write("bad\n")
            await eventually(lambda: sink.dropped == 1, lambda: f"{sink.dropped} dropped")
            sink.write("good\n")
        assert double.lines == ["good"]


async def test_a_redirect_is_not_followed() -> None:
    async with push_double(PushDouble()) as elsewhere:
        moved = web.Response(status=307, headers={"Location": f"{elsewhere.url}/loki/api/v1/push"})
        async with push_double(PushDouble([moved])) as double, pushing(LokiTarget(double.url, key="secret")) as sink:
            sink.write("line\n")
            await eventually(lambda: sink.dropped == 1, lambda: f"{sink.dropped} dropped")
        assert elsewhere.requests == 0


async def test_without_loki_memory_is_bounded_losses_are_counted_and_leaving_takes_five_seconds_at_most() -> None:
    line = "x" * 1000 + "\n"
    with silent_port() as nobody:
        async with asyncio.timeout(FLUSH_S + PATIENCE_S), pushing(LokiTarget(url_of(nobody))) as sink:
            for _ in range(2 * MAX_QUEUED_BYTES // 1000):
                sink.write(line)
            assert MAX_QUEUED_BYTES // 1000 <= sink.dropped <= MAX_QUEUED_BYTES // 1000 + 10
    assert sink.dropped == 2 * MAX_QUEUED_BYTES // 1000
    assert FLUSH_S == 5


async def test_an_outage_is_bridged() -> None:
    with silent_port() as nobody:
        async with pushing(LokiTarget(url_of(nobody))) as sink:
            sink.write("during the outage\n")
            await eventually(lambda: sink.retries > 0, lambda: "nothing was tried")
            double = PushDouble()
            app = web.Application()
            app.router.add_post("/loki/api/v1/push", double.push)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            await web.SockSite(runner, nobody).start()
            await eventually(lambda: sink.pushed == 1, lambda: f"{sink.pushed} pushed")
            assert double.lines == ["during the outage"]
            await runner.cleanup()


async def test_a_line_that_is_too_long_is_cut() -> None:
    async with push_double(PushDouble()) as double:
        async with pushing(LokiTarget(double.url)) as sink:
            sink.write("é" * MAX_LINE_BYTES + "\n")
        (line,) = double.lines
        assert len(line.encode()) <= MAX_LINE_BYTES + 3
        assert line.endswith("é…")


async def test_a_gateway_pushes_its_lines_and_flushes_when_it_leaves() -> None:
    async with push_double(PushDouble()) as double:
        environment = {"GRAFANA_LOKI_URL": double.url, "GRAFANA_LOKI_USER": "1", "GRAFANA_API_KEY": "k"}
        async with process("serve", **environment) as subak:
            await subak.url()
            subak.signal(signal.SIGTERM)
            code, out, _ = await subak.ended()
        assert code == 0
        pushed = [json.loads(line)["event"] for line in double.lines]
        assert pushed == [json.loads(line)["event"] for line in out.splitlines()]
        assert pushed[0] == "process_started"
        assert "drain_ended" in pushed


@pytest.mark.skipif(not LOKI_URL, reason="SUBAK_TEST_LOKI_URL names no Loki")
async def test_a_real_loki_takes_the_lines() -> None:
    mark = f"subak-test-{time.time_ns()}"
    async with pushing(LokiTarget(LOKI_URL)) as sink:
        sink.write(f'{{"event":"{mark}"}}\n')
    assert (sink.pushed, sink.dropped) == (1, 0)
    query = {"query": f'{{service_name="subak"}} |= "{mark}"'}
    async with aiohttp.ClientSession() as session, asyncio.timeout(20):
        while True:
            async with session.get(f"{LOKI_URL}/loki/api/v1/query_range", params=query) as answer:
                if mark in await answer.text():
                    return
            await asyncio.sleep(0.5)
