"""The line to the reader: whether events come through a public URL one by one, and what holds them back if not.

The gateway sends three events, a second apart (`GET /livez/stream`). Whatever stands in between may only lengthen the
gaps, unless it keeps events back: then they arrive together. Asks as a browser would, compression included.
"""

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from itertools import pairwise
from typing import Final, NamedTuple

import aiohttp
import msgspec

from subak import __version__
from subak.clocks import SystemClock
from subak.core.json_errors import NOT_JSON
from subak.core.sse import SseDecoder, SseTooLarge
from subak.doctor.findings import Advice, Check, Finding, Status, failed, fine, warning
from subak.doctor.reach import judge_date, unreachable
from subak.doctor.wiring import authority_of, judge_scheme
from subak.web.health import PROBE_EVENTS, PROBE_GAP_S

SHORTEST_GAP_MS: Final = PROBE_GAP_S * 1000 / 2
"""A shorter gap between two events that were sent twice as far apart: something kept the first of them."""
LINE_S: Final = 20.0
MAX_BYTES: Final = 64 * 1024

STREAM_PATH: Final = "/livez/stream"
FEATURES_PATH: Final = "/v1/features"
READY_PATH: Final = "/readyz?verbose"
_SHOWN_HEADERS: Final = ("Server", "Via", "CF-RAY", "X-Cache", "Content-Type", "Content-Encoding")
_SHOWN_CHARS: Final = 80
_ADVICE: Final = {
    "nginx": 'nginx: proxy_buffering off; gzip off; proxy_http_version 1.1; proxy_set_header Connection ""; '
    "and no proxy_ignore_headers X-Accel-Buffering (deploy/nginx/subak.conf has it all)",
    "caddy": "Caddy: reverse_proxy … { flush_interval -1 }, and encode only for paths that aren't streams",
    "cloudflare": "Cloudflare: Response Buffering off for the zone, and no rule that compresses or caches these paths",
    "haproxy": "HAProxy: option http-no-delay, and no compression type text/event-stream",
}
"""What to set, by a word that such a proxy puts into `Server` or `Via`. HAProxy puts none."""


class Heard(NamedTuple):
    """What came back of the test. `headed_at`: when its head came; `arrivals_ms`: each event, from the request on."""

    headed_at: datetime
    status: int
    content_type: str
    version: str
    headers: Mapping[str, str]
    arrivals_ms: tuple[float, ...]
    is_whole: bool

    @property
    def gaps_ms(self) -> tuple[float, ...]:
        """The time between each event and the next."""
        return tuple(later - earlier for earlier, later in pairwise(self.arrivals_ms))

    @property
    def encoding(self) -> str:
        """How the body was compressed; empty when it wasn't."""
        encoding = self.headers.get("Content-Encoding", "").strip().lower()
        return "" if encoding == "identity" else encoding


async def look_at_line(base_url: str) -> AsyncIterator[Finding]:
    """Look at everything between a reader's URL and the gateway. `base_url`: without a slash at its end."""
    yield judge_scheme(Check.URL_SCHEME, base_url)
    timeout = aiohttp.ClientTimeout(total=LINE_S)
    headers = {"User-Agent": f"subak/{__version__}", "Accept-Encoding": "gzip"}
    async with aiohttp.ClientSession(timeout=timeout, headers=headers, trust_env=False) as session:
        try:
            yield await _look_at_gateway(session, base_url)
            for finding in await _look_at_advice(session, base_url):
                yield finding
            heard = await listen(session, base_url)
        except (aiohttp.ClientError, OSError) as error:
            advice = advice_on(error)
            yield failed(Check.URL_EVENTS, f"{authority_of(base_url)}: {advice.detail}", advice.fix)
            return
    yield judge_line(heard)
    skew = judge_date(authority_of(base_url), heard.headers.get("Date"), heard.headed_at)
    if skew is not None:
        yield skew


def advice_on(error: aiohttp.ClientError | OSError) -> Advice:
    """Say why there was no answer, and what to do."""
    match error:
        case aiohttp.ClientConnectorCertificateError(certificate_error=OSError() as cause):
            return unreachable(cause)
        case aiohttp.ClientConnectorError():
            return unreachable(error.os_error)
        case OSError():
            return unreachable(error)
        case _:
            seen = f"its answer can't be read ({type(error).__name__})"
            return Advice(seen, "is it an HTTP server, and is one behind the proxy?")


async def _look_at_gateway(session: aiohttp.ClientSession, base_url: str) -> Finding:
    async with session.get(base_url + FEATURES_PATH, allow_redirects=False) as response:
        body = await response.content.read(MAX_BYTES)
    return judge_gateway(response.status, body)


def judge_gateway(status: int, body: bytes) -> Finding:
    """Judge the answer of `GET /v1/features`: whether `/v1/` leads to a Subak, which resume and stop need."""
    if status == HTTPStatus.UNAUTHORIZED:
        return fine(Check.URL_GATEWAY, "a Subak that wants credentials")
    is_on = _sse_of(body) if status == HTTPStatus.OK else None
    if is_on is None:
        return warning(
            Check.URL_GATEWAY,
            f"{FEATURES_PATH} answers {status}, not as a Subak does",
            "have the proxies pass /v1/ on: readers resume and stop there",
        )
    if not is_on:
        return warning(Check.URL_GATEWAY, "a Subak whose streaming is off", "set ENABLE_SSE_STREAMING=true there")
    return fine(Check.URL_GATEWAY, "a Subak, streaming")


async def _look_at_advice(session: aiohttp.ClientSession, base_url: str) -> list[Finding]:
    """Ask the gateway what it noticed of its settings in the requests it got (see `web.advice`)."""
    async with session.get(base_url + READY_PATH, allow_redirects=False) as response:
        body = await response.content.read(MAX_BYTES)
    return judge_advice(body)


def judge_advice(body: bytes) -> list[Finding]:
    """Judge the answer of `GET /readyz?verbose`: each piece of advice is a warning."""
    try:
        told = msgspec.json.decode(body, type=_Ready).advice
    except NOT_JSON:
        return []
    parts = [text.partition(". ") for text in told]
    return [warning(Check.URL_ADVICE, noticed, fix) for noticed, _, fix in parts]


class _Ready(msgspec.Struct):
    advice: tuple[str, ...] = ()


def _sse_of(body: bytes) -> bool | None:
    try:
        return msgspec.json.decode(body, type=dict[str, bool]).get("sse")
    except NOT_JSON:
        return None


async def listen(session: aiohttp.ClientSession, base_url: str) -> Heard:
    """Have the three events sent, and note when each came. Raises: aiohttp.ClientError, OSError."""
    now = SystemClock.monotonic
    asked_at = now()
    arrivals_ms: list[float] = []
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
    async with session.get(base_url + STREAM_PATH, headers=headers, allow_redirects=False) as response:
        headed_at = datetime.now(UTC)
        is_whole = response.status == HTTPStatus.OK
        try:
            async for count in _events(response):
                arrivals_ms += [(now() - asked_at) * 1000] * count
        except (aiohttp.ClientError, TimeoutError, SseTooLarge):
            is_whole = False
    version = "" if response.version is None else f"HTTP/{response.version.major}.{response.version.minor}"
    return Heard(
        headed_at, response.status, response.content_type, version, response.headers, tuple(arrivals_ms), is_whole
    )


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[int]:
    """Give how many events each read completed.

    Raises:
        aiohttp.ClientError, TimeoutError, SseTooLarge: it broke off, never ended, or is something else.
    """
    decoder = SseDecoder(max_line_bytes=MAX_BYTES, max_event_bytes=MAX_BYTES)
    size_bytes = 0
    async for chunk in response.content.iter_any():
        size_bytes += len(chunk)
        if size_bytes > MAX_BYTES:
            raise SseTooLarge("MAX_BYTES", MAX_BYTES)
        yield len(decoder.feed(chunk))


def judge_line(heard: Heard) -> Finding:
    """Judge what came back of the test."""
    if heard.status != HTTPStatus.OK or heard.content_type != "text/event-stream":
        return _untested(heard)
    if len(heard.arrivals_ms) < PROBE_EVENTS or not heard.is_whole:
        seen = f"{len(heard.arrivals_ms)} of {PROBE_EVENTS} events came, then the line was cut or fell silent"
        return _failed_line(
            heard, seen, "something in between ends responses early or swallows them: its log says more"
        )
    gaps = " and ".join(f"{gap:.0f}" for gap in heard.gaps_ms)
    if min(heard.gaps_ms) < SHORTEST_GAP_MS:
        seen = f"events sent {PROBE_GAP_S * 1000:.0f} ms apart came {gaps} ms apart: something holds them back"
        fix = "take the buffering out of whatever stands between the reader and Subak:"
        return _failed_line(heard, seen, fix, *advice_for(heard.headers))
    seen = f"events come one by one, {gaps} ms apart ({heard.version})"
    if heard.encoding:
        seen += f", but compressed by {heard.encoding}"
        fix = "leave text/event-stream uncompressed: some compressors hold events back"
        return Finding(Check.URL_EVENTS, Status.WARNING, seen, fix, notes=_seen_of(heard), figures=_figures(heard))
    return fine(Check.URL_EVENTS, seen, **_figures(heard))


def _failed_line(heard: Heard, seen: str, fix: str, *advice: str) -> Finding:
    notes = (*_seen_of(heard), *advice)
    return Finding(Check.URL_EVENTS, Status.FAILED, seen, fix, notes=notes, figures=_figures(heard))


def _untested(heard: Heard) -> Finding:
    seen = f"{STREAM_PATH} answers {heard.status}"
    match heard.status:
        case HTTPStatus.OK:
            fix = "something else than a Subak answers: have the proxies pass this path on"
        case HTTPStatus.SERVICE_UNAVAILABLE:
            fix = "too many of these tests are under way, or the gateway is down: try again"
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            fix = "a login stands before it: let this path through, it shows nothing"
        case status if status in range(300, 400):
            fix = "give the URL to which it redirects: nobody follows redirects of streams"
        case _:
            fix = "have the proxies pass this path on to Subak, by the rules that hold for its other paths"
    return _failed_line(heard, seen, fix)


def advice_for(headers: Mapping[str, str]) -> tuple[str, ...]:
    """Give what to set, for the proxies that show in the headers first; one hides those behind it."""
    shown = " ".join([headers.get("Server", ""), headers.get("Via", ""), "cloudflare" if "CF-RAY" in headers else ""])
    return tuple(sorted(_ADVICE.values(), key=lambda text: text.partition(":")[0].lower() not in shown.lower()))


def _seen_of(heard: Heard) -> tuple[str, ...]:
    """Give what the answer's head tells of those who passed it on: printable, bounded."""
    shown = [heard.version]
    for name in _SHOWN_HEADERS:
        value = heard.headers.get(name, "")[:_SHOWN_CHARS]
        if value and value.isprintable():
            shown.append(f"{name}: {value}")
    return ("seen: " + ", ".join(shown),)


def _figures(heard: Heard) -> dict[str, float]:
    figures = {f"event_{number}_ms": round(at, 1) for number, at in enumerate(heard.arrivals_ms, 1)}
    return figures | {f"gap_{number}_ms": round(gap, 1) for number, gap in enumerate(heard.gaps_ms, 1)}
