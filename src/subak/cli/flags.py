"""`subak flags`: for whom flags are on, and changing that.

It works on the state directory, whether a gateway runs there or not; one that runs takes a change up within a second.
What the environment permits is another matter: a command sees its own, and a running gateway has one of its own. So
they say what they looked at, and with `--gateway` ask the gateway instead.
"""

import os
import pwd
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import rich_click as click

from subak.admission.flag_store import FlagStore
from subak.cli.options import config_option, debug_option, json_option, load_settings
from subak.cli.output import print_json
from subak.cli.running import ask_gateway, ask_gateway_option
from subak.client.wire import printable
from subak.clocks import SystemClock
from subak.core.errors import InvalidField
from subak.core.flag_state import FlagChange, FlagDocument, FlagView, overridden, view_of
from subak.core.principal import ANONYMOUS, Caller, Principal
from subak.core.rollout import (
    KNOWN_FLAGS,
    NOTHING_SET,
    STREAMING,
    CallerList,
    FileRule,
    FlagDecision,
    Overrides,
    decide,
    normal_entry,
    parse_address,
    rules_for,
    share_of,
)
from subak.core.rollout_plan import as_percentage
from subak.settings import Given, Loaded, Settings, as_text

PATIENCE_S: Final = 5.0
_NONE: Final = "none"
_PERMISSION: Final = "features.sse_streaming"
_T = TypeVar("_T")


class _Views(msgspec.Struct, frozen=True):
    """What `GET /-/flags` answers."""

    flags: list[FlagView]


def _known(_ctx: click.Context, _param: click.Parameter, name: str) -> str:
    if name not in KNOWN_FLAGS:
        raise click.BadParameter(f"no such flag: {name}. Known: {', '.join(KNOWN_FLAGS)}")
    return name


flag_argument = click.argument("flag", metavar="[FLAG]", default=STREAMING, callback=_known)


def entries(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    """Check what an option for a list of callers was given."""
    try:
        return tuple(normal_entry(text) for text in given)
    except ValueError as error:
        raise click.BadParameter(f"expected {error}") from error


def _one_caller(_ctx: click.Context, _param: click.Parameter, text: str | None) -> Caller | None:
    """Read a principal or an address: all that is known of the caller is that."""
    if text is None:
        return None
    if (address := parse_address(text)) is not None:
        return Caller(ANONYMOUS, str(address))
    with suppress(ValueError):
        entry = normal_entry(text)
        if not CallerList([entry]).has_networks:
            return Caller(Principal(entry), "")
    raise click.BadParameter("expected a principal such as user:42, or an address such as 192.0.2.7")


def percentage(text: str) -> float:
    """Read `25`, `0.5` or `0.5%`.

    Raises:
        click.BadParameter: it is no percentage.
    """
    try:
        value = float(text.strip().removesuffix("%"))
        share_of(value)
    except (ValueError, InvalidField) as error:
        raise click.BadParameter("expected a number from 0 to 100 with at most three decimals") from error
    return value


def _time(text: str) -> datetime:
    """Read `2026-12-01` or `2026-12-01T08:00+08:00`; without an offset it is UTC."""
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise click.BadParameter("expected a time such as 2026-12-01T08:00Z, UTC without an offset") from error
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


def _or_none(read: Callable[[str], _T]) -> Callable[[click.Context, click.Parameter, str | None], _T | str | None]:
    """Read an option's value, or keep `none`, which unsets."""

    def callback(_ctx: click.Context, _param: click.Parameter, text: str | None) -> _T | str | None:
        return text if text is None or text == _NONE else read(text)

    return callback


def actor() -> str:
    """Who does it, for the history: the account that runs the command."""
    user = os.getuid()
    try:
        return f"cli:{pwd.getpwuid(user).pw_name}"
    except KeyError:
        return f"cli:uid {user}"


def settings_of(config: str | None) -> Settings:
    """The settings that this command sees: where the state directory is, and what the environment permits."""
    return _loaded(config).settings


def _loaded(config: str | None) -> Loaded:
    nothing: Mapping[str, Given] = {}
    return load_settings(config, {}, forced=nothing)


@contextmanager
def flags_to_read(settings: Settings) -> Iterator[FlagStore]:
    """Open the flags of the state directory, to look.

    Raises:
        StateError: they can't be read, or were lost.
    """
    with closing(FlagStore.peek(settings.state_dir, patience_s=PATIENCE_S)) as store:
        store.check()
        yield store


@contextmanager
def flags_to_change(settings: Settings) -> Iterator[FlagStore]:
    """Open the flags of the state directory; make it where there is none."""
    with closing(FlagStore.open(settings.state_dir, patience_s=PATIENCE_S)) as store:
        yield store


@click.group("flags")
def command() -> None:
    """Show and change for whom flags are on."""


@dataclass(frozen=True, slots=True)
class _Looked:
    """What was looked at: this state directory and this process' settings, or a gateway."""

    at: Mapping[str, str]
    said: str


def _looked_here(loaded: Loaded) -> _Looked:
    state_dir, source = str(loaded.settings.state_dir.absolute()), loaded.sources[_PERMISSION]
    value = as_text(loaded.settings.features.sse_streaming)
    word = "isn't set here" if source == "default" else f"is {value} by {source}"
    return _Looked(
        {"state_dir": state_dir, "permission_from": source},
        f"State directory: {state_dir}\n"
        f"{STREAMING} {word}. A running gateway goes by its own environment: --gateway URL asks it.",
    )


def _looked_at_gateway(url: str) -> _Looked:
    return _Looked({"gateway": url}, f"Asked the gateway at {url}")


@command.command("list")
@ask_gateway_option
@config_option
@json_option
@debug_option
def list_flags(gateway_url: str | None, config: str | None, *, as_json: bool) -> None:
    """Show every flag and for whom it is on."""
    loaded = _loaded(config)
    if gateway_url is None:
        looked = _looked_here(loaded)
        with flags_to_read(loaded.settings) as store:
            views = [_view(key, store.documents(), loaded.settings) for key in KNOWN_FLAGS]
    else:
        looked = _looked_at_gateway(gateway_url)
        views = ask_gateway(gateway_url, "/-/flags", loaded.settings, _Views).flags
    if as_json:
        print_json({**looked.at, "flags": msgspec.to_builtins(views)})
        return
    for view in views:
        click.echo(printable(f"{view.key}  {view.effect}"))
    click.echo(looked.said, err=True)


@command.command("show")
@flag_argument
@click.option(
    "--for", "who", metavar="WHO", callback=_one_caller, help="Say whether user:42 or 192.0.2.7 is in, and why."
)
@ask_gateway_option
@config_option
@json_option
@debug_option
def show(flag: str, gateway_url: str | None, config: str | None, *, who: Caller | None, as_json: bool) -> None:
    """Show all that is set of a flag, or with --for what holds for one caller."""
    loaded = _loaded(config)
    if gateway_url is not None:
        if who is not None:
            raise click.UsageError("--for looks at the state directory and the settings here: leave out --gateway.")
        view = ask_gateway(gateway_url, f"/-/flags/{flag}", loaded.settings, FlagView)
        _print_view(view, _looked_at_gateway(gateway_url), as_json=as_json)
        return
    with flags_to_read(loaded.settings) as store:
        view = _view(flag, store.documents(), loaded.settings)
    if who is None:
        _print_view(view, _looked_here(loaded), as_json=as_json)
        return
    _print_decision(_decision(view, loaded.settings, who), as_json=as_json)
    if not as_json:
        click.echo(_looked_here(loaded).said, err=True)


@command.command("set")
@flag_argument
@click.option("--off", "switch", flag_value="off", help="Off for everybody; a running rollout is paused.")
@click.option("--on", "switch", flag_value="on", help="Take --off back; whom that lets in, the other settings say.")
@click.option(
    "--percentage",
    metavar="NUMBER",
    callback=_or_none(percentage),
    help="Share of the callers, 0 to 100 in steps of 0.001; `none` for everybody.",
)
@click.option(
    "--allow", metavar="WHO", multiple=True, callback=entries, help="Add user:42 or 10.0.0.0/8 to the allow list."
)
@click.option("--deny", metavar="WHO", multiple=True, callback=entries, help="Add it to the deny list, which wins.")
@click.option("--forget", metavar="WHO", multiple=True, callback=entries, help="Take it from both lists.")
@click.option("--not-before", metavar="TIME", callback=_or_none(_time), help="Off until then; `none` unsets it.")
@click.option("--not-after", metavar="TIME", callback=_or_none(_time), help="Off from then on; `none` unsets it.")
@click.option("--clear", is_flag=True, help="Forget all that was set before; the other options come after that.")
@config_option
@json_option
@debug_option
def set_flag(
    flag: str,
    config: str | None,
    *,
    clear: bool,
    as_json: bool,
    **wanted: str | float | datetime | tuple[str, ...] | None,
) -> None:
    """Change a flag. It only narrows what the environment permits, and holds across restarts."""
    if not clear and not any(value not in (None, ()) for value in wanted.values()):
        raise click.UsageError("Nothing to change: give at least one option.")
    loaded = _loaded(config)
    change = partial(_changed, clear=clear, wanted=wanted)
    with flags_to_change(loaded.settings) as store:
        if not (clear or wanted["percentage"] is not None or wanted["switch"] == "off"):
            store.check()  # of lost flags the rest says who is let in or kept out besides, and all others would be in
        store.change(flag, change, actor=actor(), now=datetime.now(UTC))
        view = _view(flag, store.documents(), loaded.settings)
    _print_view(view, _looked_here(loaded), as_json=as_json)


@command.command("history")
@flag_argument
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="How many changes, newest first.")
@config_option
@json_option
@debug_option
def history(flag: str, config: str | None, *, limit: int, as_json: bool) -> None:
    """Show who changed a flag, when, from what and to what."""
    settings = settings_of(config)
    with flags_to_read(settings) as store:
        changes = store.history(flag, limit=limit)
    if as_json:
        print_json([_change_document(change) for change in changes])
        return
    if not changes:
        click.echo("Nothing was ever changed.")
    for change in changes:
        why = f"  ({change.why})" if change.why else ""
        click.echo(printable(f"{change.at:%Y-%m-%d %H:%M:%SZ}  {change.actor}  {change.summary}{why}"))


def _changed(
    document: FlagDocument, *, clear: bool, wanted: Mapping[str, str | float | datetime | tuple[str, ...] | None]
) -> FlagDocument:
    before = NOTHING_SET if clear else document.overrides
    plain = {
        name: None if value == _NONE else value
        for name, value in wanted.items()
        if name in {"percentage", "not_before", "not_after"} and value is not None
    }
    allow, deny, forget = (frozenset(_strings(wanted[name])) for name in ("allow", "deny", "forget"))
    after = msgspec.structs.replace(
        before,
        is_off={"off": True, "on": False}.get(str(wanted["switch"]), before.is_off),
        allow=tuple((set(before.allow) | allow) - deny - forget),
        deny=tuple((set(before.deny) | deny) - (allow - deny) - forget),
        **plain,
    )
    return overridden(document, after, datetime.now(UTC))


def _strings(value: str | float | datetime | tuple[str, ...] | None) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else ()


def _view(flag: str, documents: Mapping[str, FlagDocument], settings: Settings) -> FlagView:
    said = _file_says(flag, settings.features.flags_file)
    return view_of(
        flag,
        documents.get(flag, FlagDocument()),
        is_permitted=settings.features.sse_streaming,
        file=said.rule,
        is_targeted=said.evaluate is not None,
    )


def _decision(view: FlagView, settings: Settings, caller: Caller) -> FlagDecision:
    said = _file_says(view.key, settings.features.flags_file)
    rules = rules_for(view.key, view.overrides, is_permitted=view.is_permitted, file=said.rule)
    targeting = None if said.evaluate is None else partial(said.evaluate, caller)
    return decide(rules, caller, SystemClock.time_ms(), targeting)


@dataclass(frozen=True, slots=True)
class _FileSays:
    """What the flags file says of a flag to everybody, and how it looks at one caller, if it does."""

    rule: FileRule
    evaluate: Callable[[Caller], FlagDecision] | None = None


def _file_says(flag: str, path: Path | None) -> _FileSays:
    if path is None:
        return _FileSays(FileRule())
    from subak.admission.openfeature import FlagsFileError, context_of, read_flags_file

    try:
        file = read_flags_file(path)
    except FlagsFileError as error:
        click.echo(f"subak: the flags file can't be used: {error}", err=True)
        return _FileSays(FileRule(is_off=True, arm="off"))
    if flag not in file.targeted:
        return _FileSays(file.rule(flag))
    return _FileSays(file.rule(flag), lambda caller: file.evaluate(flag, context_of(caller)))


def _print_decision(decision: FlagDecision, *, as_json: bool) -> None:
    if as_json:
        print_json(msgspec.to_builtins(decision))
        return
    click.echo(f"{'in' if decision.is_on else 'out'}: {decision.reason.replace('_', ' ')}")


def _print_view(view: FlagView, looked: _Looked, *, as_json: bool) -> None:
    if as_json:
        print_json({**looked.at, **msgspec.to_builtins(view)})
        return
    click.echo(printable(f"{view.key}  {view.effect}"))
    for name, value in _lines(view):
        click.echo(printable(f"  {name:<12} {value}"))
    click.echo(looked.said, err=True)


def _lines(view: FlagView) -> Iterator[tuple[str, str]]:
    overrides = view.overrides
    yield "environment", "permits it" if view.is_permitted else "doesn't permit it"
    yield "switch", "off" if overrides.is_off else "on"
    yield "percentage", _shown(overrides)
    yield "allow", ", ".join(overrides.allow) or "nobody"
    yield "deny", ", ".join(overrides.deny) or "nobody"
    if overrides.not_before is not None:
        yield "not before", overrides.not_before.isoformat()
    if overrides.not_after is not None:
        yield "not after", overrides.not_after.isoformat()
    if view.rollout is not None:
        yield "rollout", f"{view.rollout.phase.replace('_', ' ')}; subak rollout status tells more"


def _shown(overrides: Overrides) -> str:
    value = overrides.percentage
    return "unset, everybody" if value is None else as_percentage(value)


def _change_document(change: FlagChange) -> dict[str, object]:
    return {
        "number": change.number,
        "at": change.at.isoformat(),
        "flag": change.key,
        "actor": change.actor,
        "summary": change.summary,
        "why": change.why,
        "from": msgspec.json.decode(change.changed_from),
        "to": msgspec.json.decode(change.changed_to),
    }
