"""Whether the process lives, whether it wants traffic, and whether events get through. Never logged, never limited."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Literal

import msgspec
from aiohttp import HttpVersion11, web

from subak.core.envelope import encode_heartbeat
from subak.core.live import KeySourceState
from subak.relay.hub import Hub
from subak.web.advice import Advice, advice_on_keys
from subak.web.problems import json_response, status_problem
from subak.web.send import STREAM_HEADERS, EventStreamResponse

PROBE_EVENTS: Final = 3
PROBE_GAP_S: Final = 1.0
"""How far apart a probe's events are sent."""
MAX_PROBES: Final = 16
"""Probes at one time; further ones get 503. Each takes two seconds."""


class Health(msgspec.Struct, frozen=True):
    """How the process is; all but `status` only with `?verbose`."""

    status: Literal["ok", "draining"]
    live_streams: int | msgspec.UnsetType = msgspec.UNSET
    readers: int | msgspec.UnsetType = msgspec.UNSET
    advice: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET


class HealthRoutes:
    """`/livez`, `/livez/stream` and `/readyz`."""

    def __init__(self, hub: Hub, advice: Advice, key_sources: Callable[[], Sequence[KeySourceState]]) -> None:
        self._hub = hub
        self._advice = advice
        self._key_sources = key_sources
        self._probes = 0

    async def live(self, request: web.Request) -> web.Response:
        """The event loop runs: 200."""
        del request
        return json_response(Health("ok"))

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Three heartbeats, a second apart, then a clean end: for `subak doctor`, which measures the gaps.

        It is no stream: it asks nothing, has no id, and can't be resumed.
        """
        if self._probes >= MAX_PROBES:
            return status_problem(503, headers={"Retry-After": "2"})
        self._probes += 1
        try:
            return await self._send_probe(request)
        finally:
            self._probes -= 1

    async def ready(self, request: web.Request) -> web.Response:
        """New streams are welcome: 200; 503 while draining. `?verbose` tells more, wrong settings included."""
        health, status = (Health("draining"), 503) if self._hub.is_draining else (Health("ok"), 200)
        if "verbose" in request.query:
            advice = (*self._advice.texts.values(), *advice_on_keys(self._key_sources()))
            health = Health(health.status, self._hub.live_count, self._hub.reader_count, advice)
        return json_response(health, status=status)

    async def _send_probe(self, request: web.Request) -> web.StreamResponse:
        response = EventStreamResponse(headers=STREAM_HEADERS)
        if request.version < HttpVersion11:
            response.force_close()
        try:
            await response.prepare(request)
            await response.write(b": ok\n" + self._heartbeat(1))
            for number in range(2, PROBE_EVENTS + 1):
                await asyncio.sleep(PROBE_GAP_S)
                await response.write(self._heartbeat(number))
        except ConnectionError:  # the client has gone
            return response
        return response

    def _heartbeat(self, number: int) -> bytes:
        return encode_heartbeat(number, self._hub.clock.time_ms())
