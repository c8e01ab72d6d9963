"""The changing parts of the operations page, as HTML: what is looked at goes in, rows and sentences come out.

No personal data is shown but who changed a flag, which operators have to see: of lists only how long they are.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from subak.admission.limiter import Figures
from subak.audit.operations import Operation
from subak.core.breaker import BreakerState
from subak.core.flag_state import FlagView
from subak.core.live import AuditState, Occupancy, UpstreamState
from subak.core.rollout_plan import Phase
from subak.telemetry.errors import ErrorsSnapshot
from subak.telemetry.stats import (
    ConnectionsSnapshot,
    Latency,
    PresentFigures,
    ReaderRow,
    Snapshot,
    StreamRow,
    WindowFigures,
)
from subak.web.markup import Markup, element, joined
from subak.web.tables import figure, figures, mood_of, rows
from subak.web.wording import NOTHING, counted, duration, milliseconds, moment, number, share, size

FIRST_TOKEN_MS: Final = 100.0
INTER_TOKEN_MS: Final = 50.0
"""The targets, which the charts have as lines."""
MAX_ERROR_RATE: Final = 0.01
MAX_LOOP_LAG_MS: Final = 250.0
MAX_SHARE: Final = 0.8


def state(snapshot: Snapshot, flag: FlagView) -> Markup:
    """In two words, what the instance does."""
    if snapshot.present.is_draining:
        return element("span", "Draining", class_="badge bad")
    if _is_off(flag):
        return element("span", "Streaming is off", class_="badge bad")
    return element("span", "Streaming", class_="badge good")


def attention(snapshot: Snapshot, flag: FlagView) -> Markup:
    """Give what an operator should look at, each with a link to where it is shown."""
    found = [*_about_traffic(flag, snapshot.present), *_about_latency(snapshot), *_about_room(snapshot.present)]
    if not found:
        return element("li", "Nothing needs attention.", class_="calm")
    return joined(element("li", element("a", text, href=f"#{place}")) for place, text in found)


def _about_traffic(flag: FlagView, present: PresentFigures) -> Iterable[tuple[str, str]]:
    if present.is_draining:
        yield "drain", "This instance is draining: it takes no new streams, and leaves when the last one has ended."
    if _is_off(flag):
        yield "flag", f"Streaming is {flag.effect}."
    if flag.rollout is not None and flag.rollout.phase is Phase.ROLLED_BACK:
        yield "rollout", f"The rollout was {flag.rollout.why}."
    for upstream in present.upstreams:
        if upstream.breaker is BreakerState.OPEN:
            yield "upstreams", f"{upstream.name} is asked nothing for now: it kept failing."
    if present.audit is not None and present.audit.trouble is not None:
        yield "audit", f"The audit trail can't be written: {present.audit.trouble}."


def _about_latency(snapshot: Snapshot) -> Iterable[tuple[str, str]]:
    minute = snapshot.last_minute
    streams = minute.streams
    for name, latency, limit_ms in (
        ("first token", streams.first_token, FIRST_TOKEN_MS),
        ("next token", streams.inter_token, INTER_TOKEN_MS),
    ):
        if latency.p95_ms is not None and latency.p95_ms > limit_ms:
            slow = f"took longer than {milliseconds(latency.p95_ms)} in the last minute; the target is "
            yield "latency", f"One {name} in twenty {slow}{milliseconds(limit_ms)}."
    if (minute.error_rate or 0) > MAX_ERROR_RATE:
        yield "limits", f"{share(minute.error_rate)} of the last minute’s questions failed."
    if (minute.loop_lag.max_ms or 0) > MAX_LOOP_LAG_MS:
        yield "latency", f"The event loop was late by {milliseconds(minute.loop_lag.max_ms)}: every token waits for it."
    if snapshot.last_quarter_hour.crashes:
        yield (
            "errors",
            f"{counted(snapshot.last_quarter_hour.crashes, 'unexpected exception')} in a quarter of an hour.",
        )


def _about_room(present: PresentFigures) -> Iterable[tuple[str, str]]:
    process = present.process
    for name, used, limit in (
        ("connections", present.connections.used, present.connections.limit),
        ("memory", process.resident_bytes, process.memory_limit_bytes),
        ("file descriptors", process.open_descriptors, process.max_descriptors),
    ):
        if used is not None and limit and used > MAX_SHARE * limit:
            yield "now", f"{share(used / limit)} of all {name} are taken."


def _is_off(flag: FlagView) -> bool:
    return flag.effect.startswith("off")


def tiles(snapshot: Snapshot) -> Markup:
    """Give the figures that one looks at first."""
    present, minute = snapshot.present, snapshot.last_minute
    streams, process = minute.streams, present.process
    return joined(
        [
            _tile("Streams", number(present.load.streams), counted(present.load.readers, "reader")),
            _tile(
                "First token, p95",
                milliseconds(streams.first_token.p95_ms),
                f"target {milliseconds(FIRST_TOKEN_MS)}",
                mood_of(streams.first_token.p95_ms, FIRST_TOKEN_MS),
            ),
            _tile(
                "Next token, p95",
                milliseconds(streams.inter_token.p95_ms),
                f"target {milliseconds(INTER_TOKEN_MS)}",
                mood_of(streams.inter_token.p95_ms, INTER_TOKEN_MS),
            ),
            _tile(
                "Failed questions",
                share(minute.error_rate),
                f"{number(minute.errors)} of {number(minute.requests)}",
                mood_of(minute.error_rate, MAX_ERROR_RATE),
            ),
            _tile("Got a first event", share(minute.connection_success), counted(minute.resumes, "resume")),
            _tile("Tokens a second", number(_token_rate(minute)), "read from upstreams"),
            _tile("Connections", number(present.connections.used), _of(present.connections)),
            _tile("Memory", size(process.resident_bytes), f"of {size(process.memory_limit_bytes)}"),
        ]
    )


def _token_rate(minute: WindowFigures) -> float | None:
    """Give tokens a second as they come: `tokens_per_s` counts those of streams that have ended."""
    return minute.streams.inter_token.count / minute.covers_s if minute.covers_s else None


def _of(occupancy: Occupancy) -> str:
    return "no limit" if occupancy.limit is None else f"of {number(occupancy.limit)}"


def _tile(name: str, figure: str, about: str, mood: str | None = None) -> Markup:
    told = element("dd", figure, element("span", about))
    return element("div", element("dt", name), told, class_=mood)


def latencies(snapshot: Snapshot) -> Markup:
    """Give how long everything took, in each window."""
    windows = (
        ("last minute", snapshot.last_minute),
        ("last quarter of an hour", snapshot.last_quarter_hour),
        ("since start", snapshot.since_start),
    )
    measured: list[tuple[str, str, Latency, float | None]] = []
    for name, window in windows:
        measured.append(("First token", name, window.streams.first_token, FIRST_TOKEN_MS))
    for name, window in windows:
        measured.append(("Next token", name, window.streams.inter_token, INTER_TOKEN_MS))
    measured += [
        ("Gateway’s share of the first token", "last minute", snapshot.last_minute.streams.gateway_share, None),
        (
            "First token, as browsers saw it",
            "last quarter of an hour",
            snapshot.last_quarter_hour.reports.first_token,
            None,
        ),
        ("Whole answer", "last quarter of an hour", snapshot.last_quarter_hour.streams.duration, None),
        ("/chat", "last quarter of an hour", snapshot.last_quarter_hour.chat.latency, None),
        ("Loop lag", "last minute", snapshot.last_minute.loop_lag, None),
    ]
    return rows((_latency(*each) for each in measured), NOTHING)


def _latency(name: str, window: str, latency: Latency, limit_ms: float | None) -> Sequence[str]:
    targeted = (latency.mean_ms, latency.p50_ms, latency.p95_ms)
    judged = [figure(milliseconds(ms), None if limit_ms is None else mood_of(ms, limit_ms)) for ms in targeted]
    greatest = figures(milliseconds(latency.p99_ms), milliseconds(latency.max_ms))
    return [name, window, *figures(milliseconds(limit_ms), number(latency.count)), *judged, *greatest]


def streams(connections: ConnectionsSnapshot) -> Markup:
    """Give the oldest streams under way."""
    return rows((_stream(each) for each in connections.streams), "No stream is under way.")


def _stream(stream: StreamRow) -> Sequence[str]:
    return [
        element("code", stream.stream),
        stream.route,
        stream.arm,
        stream.status,
        *figures(
            duration(stream.age_s),
            number(stream.tokens),
            size(stream.size_bytes),
            milliseconds(stream.first_token_ms),
            number(stream.readers),
        ),
    ]


def readers(connections: ConnectionsSnapshot) -> Markup:
    """Give the oldest responses under way."""
    return rows((_reader(each) for each in connections.readers), "No response is under way.")


def _reader(reader: ReaderRow) -> Sequence[str]:
    return [
        element("code", reader.stream),
        reader.route or "replay of an answer that has ended",
        "live" if reader.is_live else "catching up",
        *figures(
            duration(reader.age_s),
            number(reader.cursor),
            number(reader.lag_events),
            size(reader.lag_bytes),
            size(reader.buffered_bytes),
        ),
    ]


def shown_of(shown: int, count: int, what: str) -> str:
    """Say how many of all a table shows, where it isn't all."""
    return counted(count, what) if shown >= count else f"the oldest {number(shown)} of {counted(count, what)}"


def limits(seen: Figures) -> Markup:
    """Give what each limit refused, and of how many callers it keeps count."""
    names = sorted(seen.keys.keys() | seen.denials.keys() | seen.overflows.keys())
    lines = (
        [
            name,
            *figures(*(number(counts.get(name, 0)) for counts in (seen.denials, seen.keys, seen.overflows))),
        ]
        for name in names
    )
    return rows(lines, "No limit has been asked yet.")


def refusals(snapshot: Snapshot) -> Markup:
    """Give what requests were refused for in the last quarter of an hour, the most frequent first."""
    lines = (
        [
            each.code,
            f"{each.method} {each.route}",
            str(each.status),
            each.reason or NOTHING,
            figure(number(each.count)),
        ]
        for each in snapshot.last_quarter_hour.refusals
    )
    return rows(lines, "Nothing was refused in the last quarter of an hour.")


def errors(seen: ErrorsSnapshot) -> Markup:
    """Give unexpected exceptions by what and where."""
    lines = (
        [
            each.kind,
            element("code", each.where),
            figure(number(each.count)),
            moment(each.first_at_ms),
            moment(each.last_at_ms),
            element("code", each.fingerprint),
        ]
        for each in seen.groups
    )
    return rows(lines, "No unexpected exception since the start.")


def outcomes(snapshot: Snapshot) -> Markup:
    """Give how streams ended in the last quarter of an hour and since the start."""
    recent, ever = snapshot.last_quarter_hour.streams.outcomes, snapshot.since_start.streams.outcomes
    lines = ([name, *figures(number(recent.get(name, 0)), number(count))] for name, count in ever.items())
    return rows(lines, "No stream has ended yet.")


def upstreams(states: Sequence[UpstreamState]) -> Markup:
    """Give each upstream's breaker and connections."""
    return rows((_upstream(each) for each in states), "Answers come from this process: there is no upstream.")


def _upstream(upstream: UpstreamState) -> Sequence[str]:
    mood = "bad" if upstream.breaker is BreakerState.OPEN else None
    counts = (
        upstream.busy_connections,
        upstream.idle_connections,
        upstream.opened_connections,
        upstream.reused_connections,
    )
    return [
        upstream.name,
        element("td", upstream.breaker.replace("_", " "), class_=mood),
        *figures(*map(number, counts)),
    ]


def operations() -> Markup:
    """Give what may be searched for, for a list of suggestions."""
    return joined(element("option", value=operation) for operation in Operation)


def audit(trail: AuditState | None) -> Markup:
    """Give how the audit trail's writer stands."""
    if trail is None:
        return element("p", "There is no audit trail: audit.enabled is false.")
    told = (
        ("Rows", number(trail.rows), None),
        ("Waiting to be committed", number(trail.queued), None),
        ("Oldest of them", duration(trail.oldest_waiting_s), mood_of(trail.oldest_waiting_s, 10.0)),
        ("Lost", number(trail.lost), mood_of(trail.lost, 0)),
        ("Failed checkpoints", number(trail.failed_checkpoints), mood_of(trail.failed_checkpoints, 0)),
    )
    return element("dl", *(_tile(name, figure, "", mood) for name, figure, mood in told), class_="tiles small")
