"""What to do about what went wrong: a sentence for each kind of failure that a setting cures."""

from collections.abc import Iterator, Mapping
from typing import Final

from subak.bench.load import NEVER_ASKED, UNFINISHED
from subak.bench.reading import NO_END, NOT_EVENTS, SILENT
from subak.bench.tally import Refused, Tally

_KEY: Final = (
    "set API_KEYS_INTERNAL=KEY at the gateway and give --header 'x-api-key: KEY' here (no caller's limit holds for an "
    "internal key), or set SUBAK_LIMITS__ENABLED=false for the time of the benchmark"
)
_BY_KIND: Final[Mapping[str, str]] = {
    "connect_refused": "Nobody listens at this URL: start the gateway, or correct host and port.",
    "dns": "The host's name isn't resolved: correct the URL, or this machine's resolver.",
    "tls_certificate": "The certificate isn't trusted here: SSL_CERT_FILE names further authorities.",
    "connect_failed": "No connection comes about: mostly too few open files (ulimit -n), or no free port. Ask at a "
    "lower rate, or give --keep-alive.",
    SILENT: "An answer said nothing for too long: look at the upstream, `subak doctor` measures it.",
    NO_END: "Responses ended cleanly without `done` or `error`: something in between cuts answers and hides it "
    "(docs/PROTOCOL.md, law 2). `subak doctor --url` looks at the line.",
    NOT_EVENTS: "The answer is no event stream: is it the URL of a gateway?",
    UNFINISHED: "These answers weren't over when the time was up, and were stopped: give a longer --finish.",
    NEVER_ASKED: "All places were taken until the end: the target is slower than the rate. That is a finding; for more "
    "places give a greater --streams.",
}


def advise(tally: Tally) -> Iterator[str]:
    """Give a sentence for each failure that somebody can do something about."""
    for kind, refused in tally.refusals.items():
        sentence = _about(refused)
        if sentence:
            yield f"{kind}: {sentence}"
    for kind, sentence in _BY_KIND.items():
        if kind in tally.errors:
            yield f"{kind}: {sentence}"
    if tally.lost or tally.duplicated or tally.reordered:
        yield (
            "Events were lost, doubled or out of order within one response. A gateway of ours never does that by "
            "itself: look at what stands between, and report it if nothing does."
        )


def _about(refused: Refused) -> str:
    told = refused.told
    match told.status:
        case 429:
            return _about_limits(refused)
        case 401:
            return "Credentials are missing or don't hold: --header 'x-api-key: …' or 'Authorization: Bearer …'."
        case 403 if told.code == "feature_flag_disabled":
            return "Streaming is off for this caller: ENABLE_SSE_STREAMING=true at the gateway, `subak flags show`."
        case 404 | 405:
            return "There is no such route: give a gateway's base URL; a RAG backend wants --method get."
        case 503 if told.code in {"too_many_streams", "memory_budget"}:
            return "The gateway is full: raise SUBAK_LIMITS__STREAMS_TOTAL or SUBAK_STREAM__MEMORY_BUDGET_BYTES."
        case 503:
            return f"The gateway takes no questions now: {told.message or 'see its log'}"
        case _:
            return told.message


def _about_limits(refused: Refused) -> str:
    """Explain a 429: a benchmark is one caller, and limits are by caller."""
    wait = refused.told.retry_after_s
    limit = "a limit" if refused.limit is None else f"its limit of {refused.limit}"
    until = "" if wait is None else f" The next question would have been let in after {wait:g} s."
    return (
        f"The gateway let this caller no further than {limit}, and a whole benchmark is one caller. To measure the "
        f"gateway instead of its limits, {_KEY}. The limits are SUBAK_LIMITS__CHAT questions a minute, and "
        f"SUBAK_LIMITS__STREAMS or __STREAMS_ANONYMOUS answers at the same time.{until}"
    )
