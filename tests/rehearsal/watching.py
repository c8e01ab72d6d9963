"""What is watched meanwhile: the rollout by the product's own command, alerts and figures by Prometheus."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final, NamedTuple

import msgspec

from subak.core.rollout_plan import Rollout
from tests.integration.prometheus import Prometheus
from tests.rehearsal.deployment import Deployment
from tests.rehearsal.expect import Unmet, expect, expect_within

FIRING: Final = "firing"
_LOOK_S: Final = 1.0
_END_OF_DOCUMENT: Final = b"}\n"
_MS: Final = 1000.0
_PERCENT: Final = 100.0


class Change(msgspec.Struct, frozen=True):
    """A line of `subak flags history`; `to` is what differs then."""

    at: datetime
    actor: str
    summary: str
    why: str
    to: dict[str, object]


class _Shown(msgspec.Struct, frozen=True):
    """What `subak rollout status --json` prints."""

    rollout: Rollout | None


class Figures(NamedTuple):
    """What Prometheus says of a stretch of time; None where nothing was counted. Milliseconds and percent."""

    first_token_mean_ms: float | None
    first_token_p95_ms: float | None
    inter_token_mean_ms: float | None
    error_rate: float | None
    connection_success: float | None
    chat_mean_ms: float | None


class Following:
    """A rollout as `subak rollout status --watch` tells it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.seen: list[Rollout] = []
        self._process = process

    async def read(self) -> None:
        """Hear it to its end."""
        assert self._process.stdout is not None
        document = b""
        while line := await self._process.stdout.readline():
            document += line
            if line == _END_OF_DOCUMENT:
                rollout = msgspec.json.decode(document, type=_Shown).rollout
                self.seen += [] if rollout is None else [rollout]
                document = b""

    async def until(self, is_met: Callable[[Rollout], bool], what: str, timeout_s: float) -> Rollout:
        """Give the rollout once it has come so far.

        Raises:
            Unmet: it hasn't in time, or has ended otherwise.
        """
        await expect_within(
            timeout_s,
            lambda: any(map(is_met, self.seen)) or self._process.returncode is not None,
            lambda: f"{what}: it is {self._last()}",
        )
        found = next(filter(is_met, self.seen), None)
        if found is None:
            raise Unmet(f"{what}: it is {self._last()}")
        return found

    async def ended(self, timeout_s: float) -> int:
        """Give the exit code of the command.

        Raises:
            Unmet: it still watches.
        """
        await expect_within(
            timeout_s,
            lambda: self._process.returncode is not None,
            lambda: f"the rollout ends: it is {self._last()}",
        )
        assert self._process.returncode is not None
        return self._process.returncode

    def _last(self) -> str:
        return (
            f"{self.seen[-1].phase} at {self.seen[-1].percentage:g} %, {self.seen[-1].why}" if self.seen else "unknown"
        )


@asynccontextmanager
async def following(deployment: Deployment) -> AsyncIterator[Following]:
    """Watch the rollout until left."""
    process = await deployment.spawn("rollout", "status", "--watch", "--json")
    followed = Following(process)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(followed.read())
        try:
            yield followed
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def rollout_of(deployment: Deployment) -> Rollout:
    """Give the rollout as it is now."""
    shown = msgspec.json.decode(await deployment.subak("rollout", "status", "--json"), type=_Shown)
    expect(shown.rollout is not None, "there is a rollout")
    assert shown.rollout is not None
    return shown.rollout


async def history_of(deployment: Deployment) -> list[Change]:
    """Give all changes of the flag, oldest first."""
    said = await deployment.subak("flags", "history", "--limit", "200", "--json")
    return msgspec.json.decode(said, type=list[Change])[::-1]


class Alerts:
    """When which alert was first seen in which state, in the seconds of `now`."""

    def __init__(self, prometheus: Prometheus, now: Callable[[], float]) -> None:
        self.first_seen: dict[tuple[str, str], float] = {}
        self._prometheus = prometheus
        self._now = now

    async def watch(self) -> None:
        """Look once a second."""
        while True:
            for sample in await self._prometheus.query("ALERTS"):
                self.first_seen.setdefault((sample.metric["alertname"], sample.metric["alertstate"]), self._now())
            await asyncio.sleep(_LOOK_S)

    def firing(self) -> set[str]:
        """Give those that have fired."""
        return {name for name, state in self.first_seen if state == FIRING}


async def figures(prometheus: Prometheus, over_s: float) -> Figures:
    """Ask Prometheus about the last so many seconds."""
    window = f"[{max(2, round(over_s))}s]"

    async def number(expression: str, unit: float) -> float | None:
        samples = await prometheus.query(expression.replace("[W]", window))
        return float(samples[0].value[1]) * unit if samples and samples[0].value[1] != "NaN" else None

    def ratio(part: str, whole: str) -> str:
        return f"sum(rate(subak_{part}[W])) / sum(rate(subak_{whole}[W]))"

    def mean(of: str) -> str:
        return ratio(f"{of}_seconds_sum", f"{of}_seconds_count")

    p95 = "histogram_quantile(0.95, sum by (le) (rate(subak_first_token_seconds_bucket[W])))"
    return Figures(
        first_token_mean_ms=await number(mean("first_token"), _MS),
        first_token_p95_ms=await number(p95, _MS),
        inter_token_mean_ms=await number(mean("inter_token"), _MS),
        error_rate=await number(ratio("requests_failed_total", "requests_total"), _PERCENT),
        connection_success=await number(ratio("requests_delivered_total", "requests_total"), _PERCENT),
        chat_mean_ms=await number(mean("chat_duration"), _MS),
    )
