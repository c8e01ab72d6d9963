"""The course of a rehearsal: the phases of docs/deployment.md in order, each with what is expected of it.

    flag off ─ permitted, for nobody ─ allow list ─ 5 ─ 25 ─ 50 ─ 100 % ─ a bad release, taken back by itself
    ─ mended, resumed ─ 100 %, finished ─ watched ─ the quick way back ─ ENABLE_SSE_STREAMING=false

Callers ask all the time, and `/chat` is compared all the time. Steps are held for seconds where they would be for days.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final

import msgspec

from subak.core.rollout_plan import Phase, Rollout
from tests.integration.gateway import CHAT_STREAM
from tests.rehearsal.arms import Arms, Stretch, check_same, check_share, check_stays_in
from tests.rehearsal.chat import JSON, QUESTIONS, ask_chat, asked
from tests.rehearsal.deployment import Deployment
from tests.rehearsal.expect import Unmet, expect, expect_to_see, expect_within
from tests.rehearsal.load import CALLERS, TESTER, TESTERS, TOKEN_S, Asked, Load
from tests.rehearsal.watching import (
    FIRING,
    Alerts,
    Change,
    Figures,
    Following,
    figures,
    following,
    history_of,
    rollout_of,
)
from tests.tokens import bearer

STEPS: Final = (0.0, 5.0, 25.0, 50.0, 100.0)
HOLD: Final = "15s"
MIN_REQUESTS: Final = 40
CHAT_BOUNDS: Final = (50.0, 200.0)
"""By how many percent `/chat` may be slower to go on, and from when on to go back: it takes some 40 ms here, of which a
busy machine makes half as long again."""
FIRST_TOKEN_BOUNDS: Final = (100.0, 200.0)
INTER_TOKEN_MS: Final = 50.0
LENIENCE: Final = 10.0
"""By what all bounds of time are multiplied on a machine that others use, where that is asked for."""
SMOKER: Final = "tester-smoke"
"""Asks until it is told 429."""
WATCHER: Final = "watcher"
"""Is in when everybody is."""
LOOK_S: Final = 15.0
"""How long figures are collected where nothing else says when a phase is over: every caller asks once meanwhile."""
BEFORE_THE_FAULT_S: Final = 5.0
"""How long 100 % are looked at before the fault: the rollout must not have finished."""
STEP_S: Final = 90.0
ROLL_BACK_S: Final = 60.0
HEAL_S: Final = 90.0
ALERT_S: Final = 180.0
IN_FORCE_S: Final = 5.0
IN_A_ROW: Final = 20
ALERT: Final = "SubakTooManyErrors"
OF_THE_FAULT: Final = frozenset(
    {ALERT, "SubakErrors", "SubakConnectionSuccessLow", "SubakConnectionSuccessTooLow", "SubakUpstreamLeftAlone"}
)
"""Alerts that a bad release may raise; any other one is a false alarm, or something that nobody has thought of."""
OF_A_BUSY_MACHINE: Final = frozenset({"SubakFirstTokenSlow", "SubakFirstTokenTooSlow", "SubakLoopLag"})


@dataclass
class Done:
    """A phase. `facts`: what was measured, in sentences; `figures`: what Prometheus says, where all of it counts."""

    name: str
    did: str
    stretch: Stretch
    compared: int
    facts: list[str] = field(default_factory=list)
    figures: Figures | None = None


@dataclass
class Injected:
    """What became of the bad release, in seconds since the load began."""

    at_s: float
    rolled_back_s: float = 0.0
    why: str = ""
    mended_s: float = 0.0
    healed_s: float = 0.0
    resumed_from: float = 0.0
    went: Sequence[float] = ()


class Course:
    """One rehearsal."""

    def __init__(
        self, deployment: Deployment, load: Load, alerts: Alerts, say: Callable[[str], None], *, is_lenient: bool
    ) -> None:
        """`is_lenient`: bounds of time are wider, for a machine that others use."""
        self.is_lenient = is_lenient
        self.done: list[Done] = []
        self.injected: Injected | None = None
        self.percentages: list[tuple[float, float]] = []
        """For how many the flag is on, and from when on; known when all is done."""
        self._deployment = deployment
        self._load = load
        self._alerts = alerts
        self._say = say
        self._arms: dict[float, Arms] = {}
        self._began_at = datetime.now(UTC).timestamp() - load.now_s

    async def run(self) -> None:
        """Go through it all.

        Raises:
            Unmet: something isn't as it is expected; what was done so far has been said.
        """
        await self._flag_off()
        await self._permitted()
        await self._first_climb()
        await self._bad_release()
        await self._second_climb()
        await self._watched()
        await self._quick_way_back()
        await self._off_for_good()
        await self._afterwards()

    async def _flag_off(self) -> None:
        async with self._phase("flag off", "`subak check`, back-up, smoke, load") as done:
            await self._subak("check")
            await self._subak("audit", "backup", "before.db")
            await self._subak("audit", "verify", "--log", "before.db")
            await self._subak("flags", "show", "--json")
            done.facts.append(await self._smoke("off"))
            await self._pass(LOOK_S)
            self._expect_all_refused(done)

    async def _permitted(self) -> None:
        async with self._phase("permitted, for nobody", "`flags set --percentage 0`, restart with the flag on") as done:
            await self._subak("flags", "set", "--percentage", "0")
            done.facts.append(await self._restart(is_permitted=True))
            began_s = self._load.now_s
            await self._pass(LOOK_S)
            self._expect_all_refused(done, since_s=began_s)

    async def _first_climb(self) -> None:
        await self._start_rollout()
        async with following(self._deployment) as rollout:
            await self._climb(rollout, 0, meanwhile=self._smoke_as_a_tester)
            for step in range(1, len(STEPS) - 1):
                await self._climb(rollout, step)
            async with self._phase("100 %", "for a few seconds: all who ask are let in"):
                since_s = await self._reached(rollout, len(STEPS) - 1)
                await self._pass(BEFORE_THE_FAULT_S)
            self.injected = Injected(self._load.now_s)
            self._deployment.break_streams()
            code = await rollout.ended(ROLL_BACK_S)
            expect(code == 1, f"`subak rollout status --watch` ends with 1 after a roll-back: {code}")
        self._arms[STEPS[-1]] = arms = Arms.of(Stretch(since_s, self.injected.at_s).wholly(self._load.asked))
        expect(
            arms.let_in and not arms.refused,
            f"all are let in at 100 %: {len(arms.let_in)} were, {len(arms.refused)} weren't",
        )

    async def _bad_release(self) -> None:
        injected = self.injected
        assert injected is not None
        async with self._phase("bad release", "streams break; the rollout goes back by itself", injected.at_s) as done:
            await self._until_back_at(STEPS[-3])
            first = next(change for change in await self._since(injected.at_s) if change.actor == "rollout")
            injected.rolled_back_s, injected.why = self._seconds(first.at), first.why
            self._deployment.mend_streams()
            injected.mended_s = self._load.now_s
            await self._healed()
            injected.healed_s = self._load.now_s
            injected.went = [value for at_s, value in await self._changed_percentages() if at_s >= injected.at_s]
            expect(
                injected.went == sorted(injected.went, reverse=True),
                f"while the release is bad it only goes back: it went to {injected.went}",
            )
            done.facts += [
                f"rolled back {injected.rolled_back_s - injected.at_s:.1f} s after the first broken stream",
                f"whole answers again {injected.healed_s - injected.mended_s:.1f} s after it was mended",
            ]

    async def _second_climb(self) -> None:
        assert self.injected is not None
        await self._subak("rollout", "resume")
        at = await rollout_of(self._deployment)
        self.injected.resumed_from = at.percentage
        async with following(self._deployment) as rollout:
            for step in range(at.step, len(STEPS)):
                await self._climb(rollout, step)
            code = await rollout.ended(STEP_S)
            expect(code == 0, f"`subak rollout status --watch` ends with 0 when it has finished: {code}")

    async def _watched(self) -> None:
        injected = self.injected
        assert injected is not None
        async with self._phase("watched at 100 %", f"until {ALERT} has paged, and a look at all figures") as done:
            began_s = self._load.now_s
            await expect_within(ALERT_S, lambda: ALERT in self._alerts.firing(), lambda: f"{ALERT} fires")
            await self._pass(max(0.0, LOOK_S - (self._load.now_s - began_s)))
            check_share(Arms.of(Stretch(began_s, self._load.now_s).of(self._load.asked)), 100.0, CALLERS)
            done.figures = await figures(self._deployment.prometheus, self._load.now_s - began_s)
            self._expect_success(done.figures)
            paged_s = self._alerts.first_seen[ALERT, FIRING]
            done.facts.append(f"{ALERT} fired {paged_s - injected.at_s:.0f} s after the fault")

    async def _quick_way_back(self) -> None:
        async with self._phase("the quick way back", "`flags set --off`, then `--on`") as done:
            before_s = self._load.now_s
            await self._subak("flags", "set", "--off")
            await self._until_told(HTTPStatus.FORBIDDEN)
            done.facts.append(f"refused {self._load.now_s - before_s:.1f} s after the command was begun")
            await self._subak("flags", "set", "--on")
            await self._until_told(HTTPStatus.OK)

    async def _off_for_good(self) -> None:
        async with self._phase(
            "ENABLE_SSE_STREAMING=false", "a restart while answers stream; `flags set --on`"
        ) as done:
            done.facts.append(await self._restart(is_permitted=False))
            self.percentages = [*await self._changed_percentages(), (done.stretch.from_s, 0.0)]
            began_s = self._load.now_s
            await self._subak("flags", "set", "--on")
            done.facts.append(await self._smoke("off"))
            await self._pass(LOOK_S)
            self._expect_all_refused(done, since_s=began_s)

    async def _afterwards(self) -> None:
        async with self._phase("afterwards", "`audit checkpoint`, `audit verify`, every start has its end") as done:
            (made,) = self._deployment.logged("audit_keys_made")
            await self._subak("audit", "checkpoint")
            said = await self._subak("audit", "verify", "--vkey", str(made["vkey"]))
            done.facts.append(said.strip().partition(": ")[2])
            started, ended = await self._streams("stream.start"), await self._streams("stream.end")
            expect(started == ended, f"every stream that began has ended: {len(started)} and {len(ended)}")
            served = sum(each.status == HTTPStatus.OK for each in self._load.asked)
            expect(len(started) >= served, f"every stream is in the trail: {len(started)} of {served}")
            done.facts.append(f"{len(started)} streams are in the trail, each with start and end")

    @asynccontextmanager
    async def _phase(self, name: str, did: str, from_s: float | None = None) -> AsyncIterator[Done]:
        """Note what is done, and say how it ended. In every phase all get an answer, and `/chat`'s is right.

        Raises:
            Unmet: something isn't as expected.
        """
        began_s = self._load.now_s if from_s is None else from_s
        compared = self._load.compared
        before = compared.count
        done = Done(name, did, Stretch(began_s, began_s), 0)
        try:
            yield done
            if done.stretch.to_s == began_s:
                done.stretch = Stretch(began_s, self._load.now_s)
            done.compared = compared.count - before
            self._expect_answers(done.stretch)
            crashes = msgspec.json.decode(await self._deployment.admin("/-/errors"), type=_Crashes)
            expect(crashes.total == 0, f"the gateway meets nothing unexpected: {crashes.total} exceptions")
            self._expect_no_other_alert()
        except (Unmet, AssertionError, TimeoutError) as error:
            self._say(f"{name:<28} {self._load.now_s - began_s:6.1f} s  FAILED")
            raise Unmet(f"{name}: {error}") from error
        self.done.append(done)
        self._say(f"{name:<28} {self._load.now_s - began_s:6.1f} s  ok  {self._in_short(done)}")

    def _in_short(self, done: Done) -> str:
        count = len(done.stretch.of(self._load.asked))
        share = Arms.of(done.stretch.wholly(self._load.asked)).share
        return "; ".join((f"{count} questions, {share:.1f} % of the callers in", *done.facts))

    async def _climb(
        self, rollout: Following, step: int, meanwhile: Callable[[], Awaitable[str]] | None = None
    ) -> None:
        """Go along with a step, up to the next one, and look at who was in; `meanwhile` gives one more fact."""
        percentage = STEPS[step]
        name = f"{percentage:g} %" if percentage else "allow list"
        again = " again" if percentage in self._arms else ""
        since_s = await self._reached(rollout, step)
        async with self._phase(f"{name}{again}", f"held for {HOLD} with good figures", since_s) as done:
            done.facts += [] if meanwhile is None else [await meanwhile()]
            passed = await rollout.until(
                lambda now: now.step > step or now.phase is Phase.FINISHED, f"{name} is passed", STEP_S
            )
            done.stretch = Stretch(since_s, self._seconds(passed.step_since))
            self._look_at(done.stretch.wholly(self._load.asked), percentage)
            done.facts += ["the same callers as before"] if again else []

    def _look_at(self, several: Sequence[Asked], percentage: float) -> None:
        """Expect the right share of callers on the streaming arm, and everybody who was there before."""
        arms = Arms.of(several)
        check_share(arms, percentage, CALLERS)
        refused = Arms.of(several, TESTER).refused
        expect(not refused, f"testers are let in at every step: {sorted(refused)} weren't")
        for lower, earlier in self._arms.items():
            if lower < percentage:
                check_stays_in(earlier, arms)
        check_same(self._arms.setdefault(percentage, arms), arms)

    async def _reached(self, rollout: Following, step: int) -> float:
        """Wait until the rollout is at a step; give since when."""

        def is_there(now: Rollout) -> bool:
            return now.step == step and now.phase is Phase.RUNNING

        return self._seconds((await rollout.until(is_there, f"step {step + 1} begins", STEP_S)).step_since)

    async def _subak(self, *arguments: str) -> str:
        return await self._deployment.subak(*arguments)

    async def _start_rollout(self) -> None:
        allowed = [word for number in range(TESTERS) for word in ("--allow", f"user:{TESTER}-{number + 1}")]
        steps = ",".join(f"{step:g}" for step in STEPS)
        await self._subak(
            *("rollout", "start", *allowed, "--allow", f"user:{SMOKER}", "--steps", steps, "--hold", HOLD),
            *("--min-requests", str(MIN_REQUESTS), *time_bounds(is_lenient=self.is_lenient)),
        )

    async def _smoke_as_a_tester(self) -> str:
        authorization = bearer(SMOKER, TOKEN_S)["Authorization"]
        return await self._smoke("on", "--header", f"Authorization: {authorization}", "--limit")

    async def _smoke(self, wanted: str, *more: str) -> str:
        """Run the smoke test through the proxy; give its result."""
        deployment = self._deployment
        said = await self._subak(
            *("smoke", deployment.proxy.url, "--expect", wanted, "--admin", deployment.admin_url, "--json", *more)
        )
        report = msgspec.json.decode(said, type=_Smoked)
        return f"smoke: {report.counts['ok']} checks ok, {report.counts['not_checked']} not possible"

    async def _restart(self, *, is_permitted: bool) -> str:
        """Restart the gateway, which has a gap: callers hold their questions. Answers that stream must end whole."""
        async with self._load.held():
            open_ones, began_s, before = self._load.streaming, self._load.now_s, len(self._load.asked)
            await self._deployment.gateway.stop()
            await self._deployment.start_gateway(is_permitted=is_permitted)
            gap_s = self._load.now_s - began_s
            await expect_within(STEP_S, lambda: not self._load.open_count, lambda: "open answers end at a restart")
            cut = [each for each in self._load.asked[before:] if each.is_let_in and not each.is_whole]
            expect(not cut, f"answers under way end whole at a restart: {cut[:2]}")
        whole = f", {open_ones} open answers ended whole: their readers came back" if open_ones else ""
        return f"restarted in {gap_s:.1f} s{whole}"

    async def _pass(self, seconds: float) -> None:
        """Let the load go on for so long."""
        await asyncio.sleep(seconds)

    async def _until_back_at(self, percentage: float) -> None:
        async def is_back() -> bool:
            return (await rollout_of(self._deployment)).percentage <= percentage

        await expect_to_see(ROLL_BACK_S, is_back, f"the rollout goes back to {percentage:g} %")

    async def _healed(self) -> None:
        """Wait until the last streams were whole: the gateway leaves a failing upstream alone for a while."""

        def is_whole_again() -> bool:
            last = [each.is_whole for each in self._load.asked if each.is_let_in][-IN_A_ROW:]
            return len(last) == IN_A_ROW and all(last)

        await expect_within(HEAL_S, is_whole_again, lambda: f"{IN_A_ROW} streams in a row are whole once it is mended")

    async def _until_told(self, wanted: HTTPStatus) -> None:
        """Wait until somebody who isn't on the allow list gets this status."""
        case = asked(QUESTIONS[0])._replace(headers=[*bearer(WATCHER, TOKEN_S).items(), JSON])

        async def is_told() -> bool:
            return (await ask_chat(self._deployment.proxy.url, case, CHAT_STREAM)).status == wanted

        await expect_to_see(IN_FORCE_S, is_told, f"the flag is in force: a caller is told {wanted}")

    async def _since(self, at_s: float) -> Sequence[Change]:
        return [change for change in await history_of(self._deployment) if self._seconds(change.at) >= at_s]

    async def _changed_percentages(self) -> list[tuple[float, float]]:
        return [
            (self._seconds(change.at), msgspec.convert(change.to["percentage"], float))
            for change in await history_of(self._deployment)
            if "percentage" in change.to
        ]

    async def _streams(self, operation: str) -> set[str]:
        said = await self._subak("audit", "search", "--operation", operation, "--limit", "10000", "--json")
        return {row.stream for row in msgspec.json.decode(said, type=_Searched).rows}

    def _expect_all_refused(self, done: Done, since_s: float = 0.0) -> None:
        arms = Arms.of(Stretch(max(since_s, done.stretch.from_s), self._load.now_s).of(self._load.asked), "")
        expect(not arms.let_in, f"nobody is let in: {len(arms.let_in)} callers were")
        expect(len(arms.refused) >= CALLERS, f"everybody has asked: {len(arms.refused)} of {CALLERS + TESTERS}")

    def _expect_answers(self, stretch: Stretch) -> None:
        unanswered = [each for each in stretch.of(self._load.asked) if not each.is_answered]
        expect(not unanswered, f"every question is answered: {len(unanswered)} weren't, first {unanswered[:2]}")
        compared = self._load.compared
        expect(not compared.difference_count, f"/chat says what the backend says: {compared.differences}")

    def _expect_no_other_alert(self) -> None:
        of_the_machine = OF_A_BUSY_MACHINE if self.is_lenient else frozenset()
        known = of_the_machine if self.injected is None else OF_THE_FAULT | of_the_machine
        others = sorted(self._alerts.firing() - known)
        expect(not others, f"no alert fires without its reason: {', '.join(others)} did")

    def _expect_success(self, seen: Figures) -> None:
        """Expect the criteria of docs/checklist.md."""
        factor = LENIENCE if self.is_lenient else 1.0
        for name, figure, bound, is_lower_better in (
            ("first token, mean, ms", seen.first_token_mean_ms, factor * FIRST_TOKEN_BOUNDS[0], True),
            ("inter-token, mean, ms", seen.inter_token_mean_ms, factor * INTER_TOKEN_MS, True),
            ("error rate, %", seen.error_rate, 1.0, True),
            ("connection success, %", seen.connection_success, 95.0, False),
        ):
            is_met = figure is not None and (figure < bound if is_lower_better else figure > bound)
            expect(is_met, f"{name} {'<' if is_lower_better else '>'} {bound:g}: it is {figure}")

    def _seconds(self, at: datetime) -> float:
        """Give a time of the gateway's in seconds since the load began."""
        return at.timestamp() - self._began_at


def time_bounds(*, is_lenient: bool) -> Sequence[str]:
    """Give the options of `rollout start` that set bounds of time; on a machine of one's own most are as they come."""
    if not is_lenient:
        return _options("chat-slowdown", *CHAT_BOUNDS)
    return (
        *_options("first-token", *(LENIENCE * each for each in FIRST_TOKEN_BOUNDS)),
        *("--good-inter-token", f"{LENIENCE * INTER_TOKEN_MS:g}"),
        *_options("chat-slowdown", *(LENIENCE * each for each in CHAT_BOUNDS)),
    )


def _options(criterion: str, good: float, bad: float) -> Sequence[str]:
    return (f"--good-{criterion}", f"{good:g}", f"--bad-{criterion}", f"{bad:g}")


class _Smoked(msgspec.Struct):
    counts: dict[str, int]


class _Crashes(msgspec.Struct):
    total: int


class _Row(msgspec.Struct):
    stream: str


class _Searched(msgspec.Struct):
    rows: list[_Row]
