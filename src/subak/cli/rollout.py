"""`subak rollout`: raise a flag's percentage step by step, as long as the figures are good.

The commands change the state directory; the gateway that runs there carries the rollout forward, or takes it back.
"""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, Literal, ParamSpec, TypeVar

import msgspec
import rich_click as click

from subak.admission.rollout import RolloutStatus, read_status
from subak.cli.flags import actor, entries, flag_argument, flags_to_change, flags_to_read, percentage, settings_of
from subak.cli.options import config_option, debug_option, duration, json_option
from subak.cli.output import print_json
from subak.core.flag_state import FlagDocument, aborted, kept, paused, resumed, started
from subak.core.rollout_plan import (
    CRITERIA,
    Bounds,
    ChatBaseline,
    Criterion,
    Phase,
    Rollout,
    RolloutFigures,
    as_percentage,
)
from subak.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")

_LOOK_S: Final = 1.0
_FRESH_S: Final = 20.0
_STRETCHES: Final = ("last minute", "last 15 min", "this step")


def _steps(_ctx: click.Context, _param: click.Parameter, text: str) -> tuple[float, ...]:
    steps = tuple(percentage(step) for step in text.split(","))
    if list(steps) != sorted(set(steps)):
        raise click.BadParameter("expected ascending percentages such as 5,25,50,100")
    return steps


def _criterion_options(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command two options for each row of the table of criteria."""
    for criterion in reversed(CRITERIA):
        side = "below" if criterion.is_lower_better else "above"
        past = "above" if criterion.is_lower_better else "below"
        bad = "no bound" if criterion.bad is None else f"{criterion.bad:g} {criterion.unit}"
        command = click.option(
            f"--bad-{criterion.name}",
            metavar="NUMBER",
            type=float,
            help=f"Roll back when {criterion.about} is {past} this. Default: {bad}.",
        )(command)
        command = click.option(
            f"--good-{criterion.name}",
            metavar="NUMBER",
            type=float,
            help=f"Raise while {criterion.about} is {side} this. Default: {criterion.good:g} {criterion.unit}.",
        )(command)
    return command


@click.group("rollout")
def command() -> None:
    """Raise a flag's percentage step by step, as long as the figures are good."""


@command.command("start")
@flag_argument
@click.option(
    "--allow", metavar="WHO", multiple=True, callback=entries, help="Let user:42 or 10.0.0.0/8 in from the beginning."
)
@click.option(
    "--steps",
    metavar="PERCENTAGES",
    callback=_steps,
    default="5,25,50,100",
    show_default=True,
    help="The steps. With 0 as the first one it begins with the allow list alone.",
)
@click.option(
    "--hold", metavar="TIME", callback=duration, default="24h", show_default=True, help="How long a step must hold."
)
@click.option(
    "--min-requests",
    metavar="NUMBER",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="No verdict under so many requests.",
)
@click.option(
    "--on-failure",
    type=click.Choice(("last-good", "zero")),
    default="last-good",
    show_default=True,
    help="Where it rolls back to: the step before, or 0 %.",
)
@click.option(
    "--chat-baseline",
    metavar="MS",
    type=click.FloatRange(min=0, min_open=True),
    help="What /chat takes on average. Default: its mean since the gateway started, when that is of enough requests.",
)
@_criterion_options
@config_option
@json_option
@debug_option
def start(
    flag: str,
    config: str | None,
    *,
    allow: tuple[str, ...],
    steps: tuple[float, ...],
    hold: float,
    min_requests: int,
    on_failure: Literal["last-good", "zero"],
    chat_baseline: float | None,
    as_json: bool,
    **bounds: float | None,
) -> None:
    """Begin a rollout at its first step.

    The gateway raises the percentage after --hold while every figure of the step is good, and rolls back when one is
    bad. The time to the first token is the gateway's: it includes what the upstream takes to think.
    """
    now = datetime.now(UTC)
    plan = Rollout(
        steps=steps,
        hold_s=hold,
        started_at=now,
        step_since=now,
        why="started",
        min_requests=min_requests,
        on_failure=on_failure,
        bounds=dict(_given_bounds(bounds)),
        chat_baseline=None if chat_baseline is None else ChatBaseline(chat_baseline),
    )
    settings = settings_of(config)
    if not settings.features.sse_streaming:
        click.echo("subak: ENABLE_SSE_STREAMING isn't true here: nobody is let in until the gateway's is.", err=True)
    _apply(flag, settings, partial(started, plan=plan, allow=allow), as_json=as_json)


@command.command("pause")
@flag_argument
@config_option
@json_option
@debug_option
def pause(flag: str, config: str | None, *, as_json: bool) -> None:
    """Stay at the present step. It is still watched, and rolled back when a figure is bad."""
    _apply(flag, settings_of(config), partial(paused, now=datetime.now(UTC)), as_json=as_json)


@command.command("resume")
@flag_argument
@config_option
@json_option
@debug_option
def resume(flag: str, config: str | None, *, as_json: bool) -> None:
    """Go on after a pause or a roll-back: the step begins anew."""
    _apply(flag, settings_of(config), partial(resumed, now=datetime.now(UTC)), as_json=as_json)


@command.command("abort")
@flag_argument
@click.option("--keep", is_flag=True, help="Leave the percentage as it is.")
@config_option
@json_option
@debug_option
def abort(flag: str, config: str | None, *, keep: bool, as_json: bool) -> None:
    """End the rollout at 0 %: only the allow list stays in."""
    _apply(flag, settings_of(config), partial(kept if keep else aborted, now=datetime.now(UTC)), as_json=as_json)


@command.command("status")
@flag_argument
@click.option("--watch", is_flag=True, help="Print it again whenever it changes, until the rollout has ended.")
@config_option
@json_option
@debug_option
@click.pass_context
def status(ctx: click.RichContext, /, flag: str, config: str | None, *, watch: bool, as_json: bool) -> None:
    """Show where the rollout stands, and its figures.

    With --watch the exit code is 0 when it has finished, 1 when it was rolled back or aborted.
    """
    settings = settings_of(config)
    if not watch:
        _print(flag, *_look(flag, settings), as_json=as_json)
        return
    ctx.exit(_watch(flag, settings, as_json=as_json))


def _given_bounds(options: dict[str, float | None]) -> Iterator[tuple[str, Bounds]]:
    for criterion in CRITERIA:
        name = criterion.name.replace("-", "_")
        own = Bounds(options[f"good_{name}"], options[f"bad_{name}"])
        if own != Bounds():
            yield criterion.name, own


def _apply(flag: str, settings: Settings, change: Callable[[FlagDocument], FlagDocument], *, as_json: bool) -> None:
    with flags_to_change(settings) as store:
        store.check()  # lost flags are said anew first: a rollout knows nothing of whom they kept out
        document = store.change(flag, change, actor=actor(), now=datetime.now(UTC))
    _print(flag, document.rollout, None, as_json=as_json)


def _look(flag: str, settings: Settings) -> tuple[Rollout | None, RolloutStatus | None]:
    with flags_to_read(settings) as store:
        rollout = store.documents().get(flag, FlagDocument()).rollout
    found = read_status(settings.state_dir)
    is_of_this = (
        rollout is not None and found is not None and found.key == flag and found.step_since == rollout.step_since
    )
    return rollout, found if is_of_this else None


def _watch(flag: str, settings: Settings, *, as_json: bool) -> int:
    seen: object = None
    never = threading.Event()
    while True:
        rollout, found = _look(flag, settings)
        shown = (rollout, found and found.verdict)
        if shown != seen:
            _print(flag, rollout, found, as_json=as_json)
            seen = shown
        if rollout is None or rollout.phase.is_over or rollout.phase is Phase.ROLLED_BACK:
            return 0 if rollout is not None and rollout.phase is Phase.FINISHED else 1
        never.wait(_LOOK_S)


def _print(flag: str, rollout: Rollout | None, found: RolloutStatus | None, *, as_json: bool) -> None:
    if as_json:
        print_json({"flag": flag, "rollout": msgspec.to_builtins(rollout), "status": msgspec.to_builtins(found)})
        return
    if rollout is None:
        click.echo(f"{flag}: there was no rollout yet.")
        return
    for line in _lines(flag, rollout, found):
        click.echo(line)


def _lines(flag: str, rollout: Rollout, found: RolloutStatus | None) -> Iterator[str]:
    phase = rollout.phase.replace("_", " ")
    place = f"step {rollout.step + 1} of {len(rollout.steps)}" if rollout.step >= 0 else "before its first step"
    yield f"{flag}: {phase} at {as_percentage(rollout.percentage)}, {place}: {rollout.why}"
    if rollout.phase.is_over:
        return
    if rollout.phase is Phase.RUNNING:
        until = rollout.step_since + timedelta(seconds=rollout.hold_s)
        yield f"  since {rollout.step_since:%Y-%m-%d %H:%M:%SZ}, holds until {until:%Y-%m-%d %H:%M:%SZ}"
    if found is None:
        yield "  No figures yet: they come within seconds while a gateway runs on this state directory."
        return
    if (datetime.now(UTC) - found.at).total_seconds() > _FRESH_S:
        yield f"  No gateway has looked at it since {found.at:%Y-%m-%d %H:%M:%SZ}."
        return
    verdict = found.verdict
    yield f"  {verdict.outcome.replace('_', ' ')}{': ' if verdict.why else ''}{verdict.why}"
    yield f"  {'':<20}{''.join(f'{each:>14}' for each in (*_STRETCHES, 'good', 'bad'))}"
    yield f"  {'requests':<20}{''.join(f'{each.requests:>14}' for each in found.figures)}"
    for criterion in CRITERIA:
        yield _row(criterion, rollout, found.figures)


def _row(criterion: Criterion, rollout: Rollout, figures: tuple[RolloutFigures, ...]) -> str:
    good, bad = rollout.bounds_of(criterion)
    signs = "<>" if criterion.is_lower_better else "><"
    cells = [_cell(criterion.measure(each, rollout.chat_baseline), criterion.unit) for each in figures]
    limits = [f"{signs[0]} {good:g}", "–" if bad is None else f"{signs[1]} {bad:g}"]
    return f"  {criterion.name:<20}{''.join(f'{each:>14}' for each in (*cells, *limits))}"


def _cell(value: float | None, unit: str) -> str:
    return "–" if value is None else f"{value:.1f} {unit}"
