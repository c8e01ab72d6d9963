"""A gateway whose event loop is busy: it says so, and answers are what they always are."""

import asyncio
import re
import time

import pytest

from subak.settings import load
from subak.testing import PATIENCE_S, ScriptedUpstream
from tests.integration.gateway import (
    ANSWER,
    QUIET,
    Running,
    ask,
    data_of,
    parse_frames,
    question_url,
    running,
    terminal_of,
    text_of,
)

pytestmark = pytest.mark.slow

WORK_S = 0.02


async def is_coalescing(gateway: Running) -> bool:
    """Ask as Prometheus does."""
    page = await ask(gateway.gateway.admin_url, "GET", "/metrics")
    found = re.search(rb"^subak_coalescing ([01])\.0$", page.body, re.MULTILINE)
    assert found is not None, page.body
    return found[1] == b"1"


def works(cpu_s: float) -> None:
    """Keep the loop's thread busy."""
    until_s = time.thread_time() + cpu_s
    while time.thread_time() < until_s:
        pass


async def until_it_is(gateway: Running, *, coalescing: bool) -> None:
    """Keep the loop busy until it coalesces, or doesn't."""
    async with asyncio.timeout(PATIENCE_S):
        while await is_coalescing(gateway) is not coalescing:
            works(WORK_S)
            await asyncio.sleep(0)


async def test_a_busy_loop_coalesces_until_the_setting_says_never() -> None:
    settings = {"SUBAK_ADMIN__METRICS_PUBLIC": "true"}
    async with ScriptedUpstream(ANSWER) as upstream, running(upstream, settings) as gateway:
        assert not await is_coalescing(gateway)
        await until_it_is(gateway, coalescing=True)
        frames = parse_frames((await ask(gateway.url, "GET", question_url())).body)
        assert text_of(frames) == "Ciao mondo"
        assert data_of(terminal_of(frames))["finish_reason"] == "stop"
        never = QUIET | settings | {"RAG_BACKEND_URL": upstream.url, "SUBAK_SERVER__COALESCE_US": "0"}
        state_dir = str(gateway.gateway.settings.state_dir)
        await gateway.gateway.reload(load(never | {"SUBAK_STATE_DIR": state_dir}, None, {}).settings)
        await until_it_is(gateway, coalescing=False)
