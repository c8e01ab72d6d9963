"""Whether an upstream can be reached: name, TCP, TLS, and what a RAG backend says of its own health. No question."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from itertools import pairwise
from typing import Final, NamedTuple

import aiohttp
import msgspec

from subak import __version__
from subak.clocks import SystemClock
from subak.core.json_errors import NOT_JSON
from subak.doctor.findings import Advice, Check, Finding, Status, failed, fine, warning
from subak.doctor.wiring import authority_of, upstream_urls
from subak.settings import Upstream as UpstreamSettings
from subak.upstream.http1 import parse_base_url, tls_context

HEALTH_S: Final = 10.0
MAX_HEALTH_BYTES: Final = 4096
SOON_EXPIRED_DAYS: Final = 14
SKEW_S: Final = 60.0
_DAY_S: Final = 86_400
_HEALTHY: Final = frozenset({"healthy", "ok", "up"})
_ITS_LOG: Final = "the backend's own log says more"


async def look_at_servers(upstream: UpstreamSettings) -> AsyncIterator[Finding]:
    """Look at each upstream that has a URL."""
    for url in upstream_urls(upstream):
        try:
            context = _context(upstream) if url.startswith("https:") else None
        except OSError as error:
            seen = f"{error.filename or 'a certificate or its key'}: {error.strerror or 'not PEM'}"
            yield failed(Check.UPSTREAM_CONNECT, seen, "`subak check` says which file it is, and why")
            return
        async for finding in _look_at_server(upstream, url, context):
            yield finding


async def _look_at_server(
    upstream: UpstreamSettings, url: str, context: ssl.SSLContext | None
) -> AsyncIterator[Finding]:
    connection = await look_at_connection(url, context, upstream.connect_timeout_s)
    yield connection
    if upstream.chosen_kind == "rag" and connection.status is not Status.FAILED:
        async for finding in _look_at_health(upstream, url, context):
            yield finding


async def look_at_connection(url: str, context: ssl.SSLContext | None, timeout_s: float) -> Finding:
    """Resolve, connect and, with a context, shake hands; nothing is sent."""
    authority = authority_of(url)
    try:
        async with asyncio.timeout(timeout_s):
            reached = await _reach(url, context)
    except OSError as error:  # TimeoutError is one
        advice = unreachable(error)
        return failed(Check.UPSTREAM_CONNECT, f"{authority}: {advice.detail}", advice.fix)
    seen = f"{authority}: " + ", ".join(f"{step} {ms:.1f} ms" for step, ms in reached.took_ms.items())
    figures = {f"{step}_ms": round(ms, 2) for step, ms in reached.took_ms.items()}
    if reached.days_left is None or reached.days_left > SOON_EXPIRED_DAYS:
        return fine(Check.UPSTREAM_CONNECT, seen, **figures)
    seen += f"; its certificate expires in {reached.days_left:.0f} days"
    return warning(Check.UPSTREAM_CONNECT, seen, "have it renewed", **figures)


def unreachable(error: OSError) -> Advice:
    """Say why there is no connection, and what to do."""
    match error:
        case TimeoutError():
            return Advice("no connection in time", "a firewall drops the packets, or the address is wrong")
        case ssl.SSLCertVerificationError():
            seen = f"its certificate isn't accepted: {error.verify_message}"
            return Advice(seen, "have it trusted: SUBAK_UPSTREAM__CA_FILE for an upstream, SSL_CERT_FILE for --url")
        case ssl.SSLError():
            why = getattr(error, "reason", None) or error.strerror  # only OpenSSL's own errors have a reason
            seen = f"the TLS handshake fails: {why}"
            return Advice(seen, "is it https at all? The URL may want http://")
        case socket.gaierror():
            return Advice(f"its name isn't resolved: {error.strerror}", "correct the host, or this machine's resolver")
        case ConnectionRefusedError():
            return Advice("nobody listens there", "start it, or correct the URL")
        case _:
            seen = error.strerror or "the connection breaks off"
            return Advice(seen, "correct the URL, or the way there: routes, firewall")


class _Reached(NamedTuple):
    """How long each step took, and for how long the certificate still holds."""

    took_ms: dict[str, float]
    days_left: float | None


async def _reach(url: str, context: ssl.SSLContext | None) -> _Reached:
    origin, _ = parse_base_url(url)
    now = SystemClock.monotonic
    times = [now()]
    await asyncio.get_running_loop().getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    times.append(now())
    _, writer = await asyncio.open_connection(origin.host, origin.port)
    try:
        times.append(now())
        if context is not None:
            await _shake_hands(writer, context, origin.host)
            times.append(now())
        certificate = writer.get_extra_info("peercert") or {}
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)  # the loop closes aborted sockets in its next round
    took_ms = [(end - start) * 1000 for start, end in pairwise(times)]
    steps = ("resolve", "connect", "tls")[: len(took_ms)]
    return _Reached(dict(zip(steps, took_ms, strict=True)), _days_left(certificate.get("notAfter")))


async def _shake_hands(writer: asyncio.StreamWriter, context: ssl.SSLContext, host: str) -> None:
    try:
        await writer.start_tls(context, server_hostname=host)
    except ConnectionError as error:  # hung up instead of an answer: what many servers without TLS do
        raise ssl.SSLError(ssl.SSL_ERROR_EOF, "the other side hangs up") from error


def _days_left(not_after: str | None) -> float | None:
    if not_after is None:
        return None
    return (ssl.cert_time_to_seconds(not_after) - datetime.now(UTC).timestamp()) / _DAY_S


def _context(upstream: UpstreamSettings) -> ssl.SSLContext:
    return tls_context(ca_file=upstream.ca_file, cert_file=upstream.client_cert_file, key_file=upstream.client_key_file)


async def _look_at_health(
    upstream: UpstreamSettings, url: str, context: ssl.SSLContext | None
) -> AsyncIterator[Finding]:
    what = f"{authority_of(url)}/health"
    now = SystemClock.monotonic
    timeout = aiohttp.ClientTimeout(total=HEALTH_S)
    started_at = now()
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=_headers(upstream), trust_env=False) as session,
            session.get(f"{url}/health", ssl=context or True, allow_redirects=False) as response,
        ):
            body = await response.content.read(MAX_HEALTH_BYTES)
    except (aiohttp.ClientError, OSError, UnicodeError) as error:
        yield warning(Check.UPSTREAM_HEALTH, f"{what}: {type(error).__name__}", _ITS_LOG)
        return
    yield judge_health(what, response.status, body, (now() - started_at) * 1000)
    skew = judge_date(what, response.headers.get("Date"), datetime.now(UTC))
    if skew is not None:
        yield skew


def _headers(upstream: UpstreamSettings) -> dict[str, str]:
    """Give what every request to this upstream bears.

    Raises:
        OSError, UnicodeError: the token's file can't be read.
    """
    headers = {"User-Agent": f"subak/{__version__}"}
    headers |= {name: secret.reveal() for name, secret in upstream.headers.items()}
    if upstream.key is not None:
        headers["Authorization"] = f"Bearer {upstream.key.reveal()}"
    if upstream.token_file is not None:
        headers["Authorization"] = f"Bearer {upstream.token_file.read_text('ascii').strip()}"
    return headers


def judge_health(what: str, status: int, body: bytes, took_ms: float) -> Finding:
    """Judge what a backend says of itself: `{"status": "healthy"}` (PROTOCOL §5)."""
    seen = f"{what} answers {status} in {took_ms:.0f} ms"
    figures = {"health_ms": round(took_ms, 2)}
    if status != HTTPStatus.OK:
        return warning(Check.UPSTREAM_HEALTH, seen, f"it should be 200; {_ITS_LOG}", **figures)
    if not _says_healthy(body):
        return warning(Check.UPSTREAM_HEALTH, f"{seen}, but doesn't say that it is healthy", _ITS_LOG, **figures)
    return fine(Check.UPSTREAM_HEALTH, seen, **figures)


def _says_healthy(body: bytes) -> bool:
    try:
        said = msgspec.json.decode(body, type=dict[str, object])
    except NOT_JSON:
        return False
    return str(said.get("status")).lower() in _HEALTHY


def judge_date(what: str, date: str | None, now: datetime) -> Finding | None:
    """Compare a response's `Date` with our wall clock; None without one that can be read."""
    try:
        theirs = parsedate_to_datetime(date or "")
    except (TypeError, ValueError, IndexError, OverflowError):  # what the parser of e-mail dates lets through
        return None
    aware = theirs if theirs.tzinfo is not None else theirs.replace(tzinfo=UTC)
    skew_s = round((now - aware).total_seconds())
    if abs(skew_s) <= SKEW_S:
        return fine(Check.CLOCK_SKEW, f"{what} has our time", skew_s=skew_s)
    seen = f"our clock is {abs(skew_s)} s {'ahead of' if skew_s > 0 else 'behind'} that of {what}"
    return warning(Check.CLOCK_SKEW, seen, "set the one that is wrong: timedatectl set-ntp true", skew_s=skew_s)
