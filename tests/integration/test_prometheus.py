"""A real Prometheus gets from a live gateway what docs/operations.md and the alerts ask it for."""

import asyncio
import re
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest

from subak.telemetry.metrics import CATALOGUE, Kind
from subak.testing import FakeClock, ScriptedUpstream
from tests.integration.gateway import CHAT, ONE_LOOP, STARTING_S, Running, get, post, question_url, running, scripted
from tests.integration.prometheus import RULES, Prometheus, prometheus
from tests.issuer import AUDIENCE, ISSUER, IssuerServer, issuer_server, rsa_key

PAGE: Final = Path(__file__).parents[2] / "docs" / "operations.md"
AUDITED: Final = {"SUBAK_AUDIT__ENABLED": "true", "SUBAK_ADMIN__METRICS_PUBLIC": "true"}

pytestmark = [ONE_LOOP, pytest.mark.real, pytest.mark.slow]


async def use(gateway: Running) -> None:
    """Bring a figure into everything: answers, a resume, a stop, a refusal, `/chat`."""
    answer = await get(gateway, question_url())
    stream_id = answer.header("Subak-Stream-Id")
    await get(gateway, f"/v1/streams/{stream_id}/events", Last_Event_ID=f"{stream_id}.2")
    await post(gateway, f"/v1/streams/{stream_id}/stop")
    await get(gateway, "/v1/streams/nobody")
    await post(gateway, CHAT, {"query": "x"})


def queries_of_the_page() -> list[str]:
    """Give the queries in the page's block of code."""
    block = re.search(r"```\n(histogram_quantile.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    return [line.partition("#")[0].strip() for line in block[1].splitlines()]


async def expressions_of_the_rules(server: Prometheus) -> dict[str, str]:
    """Give the alerts' expressions by name, as Prometheus has read them."""
    return {rule.name: rule.query for rule in await server.alerts()}


def running_with_keys(upstream: ScriptedUpstream, issuer: IssuerServer) -> AbstractAsyncContextManager[Running]:
    """Run an audited gateway that has fetched an issuer's keys."""
    issuer.publish(rsa_key())
    tokens = {"SUBAK_AUTH__JWKS_URL": issuer.url, "SUBAK_AUTH__ISSUER": ISSUER, "SUBAK_AUTH__AUDIENCE": AUDIENCE}
    return running(upstream, AUDITED | tokens, clock=standing_still())


def standing_still() -> FakeClock:
    """Give a clock for a gateway whose figures mustn't tell how fast this machine is."""
    return FakeClock(time_ms=time.time_ns() // 1_000_000)


async def nothing_fires(server: Prometheus, expressions: Mapping[str, str]) -> None:
    """Return once no alert's condition holds: one of them does for a moment where the machine stops for a scrape."""
    firing: list[str] = []
    try:
        async with asyncio.timeout(STARTING_S):
            while firing := [name for name, query in expressions.items() if await server.query(query)]:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(firing) from None


async def test_every_metric_is_scraped_every_query_has_data_and_no_alert_fires() -> None:
    async with scripted() as upstream, issuer_server() as issuer, running_with_keys(upstream, issuer) as gateway:
        await use(gateway)
        async with prometheus(urlsplit(gateway.gateway.admin_url).netloc) as server:
            await server.has_data("up == 1")
            await use(gateway)
            for query in queries_of_the_page():
                await server.has_data(query)
            for metric in CATALOGUE:
                suffix = "_count" if metric.kind in {Kind.HISTOGRAM, Kind.SUMMARY} else ""
                await server.has_data(metric.name + suffix)
            expressions = await expressions_of_the_rules(server)
            assert sorted(expressions) == sorted(re.findall(r"- alert: (\w+)", _rules()))
            await nothing_fires(server, expressions)


async def test_an_alert_fires_when_its_condition_is_met() -> None:
    async with scripted() as upstream, running(upstream, AUDITED, clock=standing_still()) as gateway:
        await use(gateway)
        async with prometheus(urlsplit(gateway.gateway.admin_url).netloc) as server:
            expressions = await expressions_of_the_rules(server)
            await server.has_data("up == 1")
            gateway.gateway.watching.stats.note_loop_lag(0.5)
            (sample,) = await server.has_data(expressions["SubakLoopLag"])
            assert float(sample.value[1]) == 0.5


def _rules() -> str:
    return (RULES / "alerts.yml").read_text(encoding="utf-8")
