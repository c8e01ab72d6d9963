"""`subak keys`: API keys for callers. The gateway keeps digests; a key's text is shown once, when it is made."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import msgspec
import rich_click as click

from subak.admission.api_keys import ApiKey, KeyRefused, KeyStore, now_utc
from subak.cli.options import config_option, debug_option, json_option, load_settings, seconds_of
from subak.cli.output import print_json
from subak.clocks import SystemClock
from subak.settings import Given

_NEVER = "never"
_MIN_LIFE = timedelta(minutes=1)
_MAX_LIFE = timedelta(days=3650)


def _lifetime(_ctx: click.Context, _param: click.Parameter, text: str | None) -> timedelta | None:
    """Read `12h` or `30d`; a number alone is of days."""
    if text is None:
        return None
    seconds = seconds_of(f"{text}d" if text.isdecimal() else text)
    if seconds is None or not _MIN_LIFE.total_seconds() <= seconds <= _MAX_LIFE.total_seconds():
        raise click.BadParameter("expected a time from 1m to 3650d, such as 12h or 30d; a number alone is of days")
    return timedelta(seconds=seconds)


@click.group("keys")
def command() -> None:
    """Make, list and revoke API keys. Running gateways take a change within about a second."""


@command.command("create")
@click.argument("name")
@click.option(
    "--user", metavar="ID", help="Id of the user whom the key stands for. Default: the key is a caller itself."
)
@click.option(
    "--expires", metavar="TIME", callback=_lifetime, help="Time until it ends: 12h, 30d, or days. Default: never."
)
@config_option
@json_option
@debug_option
def create(name: str, user: str | None, expires: timedelta | None, config: str | None, *, as_json: bool) -> None:
    """Make a key called NAME and show it, this once."""
    now = _now()
    expires_at = None if expires is None else now + expires
    with _refusals_told():
        key, text = _store(config).create(name, now=now, user=user, expires_at=expires_at)
    if as_json:
        print_json({**_described(key, now), "key": text})
        return
    click.echo(text)
    click.echo("This is shown once. Send it as `Authorization: Bearer …` or `x-api-key: …`.", err=True)


@command.command("list")
@config_option
@json_option
@debug_option
def list_(config: str | None, *, as_json: bool) -> None:
    """Show all keys, without their texts."""
    now = _now()
    keys = _store(config).kept()
    if as_json:
        print_json([_described(key, now) for key in keys])
        return
    if not keys:
        click.echo("There are no API keys. `subak keys create NAME` makes one.", err=True)
        return
    rows = [("ID", "STATUS", "CREATED", "EXPIRES", "USER", "NAME"), *(_row(key, now) for key in keys)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@command.command("revoke")
@click.argument("key")
@config_option
@json_option
@debug_option
def revoke(key: str, config: str | None, *, as_json: bool) -> None:
    """Revoke a key, by its id or its NAME."""
    now = _now()
    with _refusals_told():
        revoked = _store(config).revoke(key, now=now)
    if as_json:
        print_json(_described(revoked, now))
    else:
        click.echo(f"{revoked.id} ({revoked.name}) is revoked.")


def _store(config: str | None) -> KeyStore:
    nothing: dict[str, Given] = {}
    return KeyStore(load_settings(config, {}, forced=nothing).settings.state_dir)


def _now() -> datetime:
    return now_utc(SystemClock.time_ms())


@contextmanager
def _refusals_told() -> Iterator[None]:
    try:
        yield
    except KeyRefused as error:
        raise click.ClickException(str(error)) from error


def _described(key: ApiKey, now: datetime) -> dict[str, object]:
    """What may be shown of a key: everything but its digest."""
    shown: dict[str, object] = msgspec.to_builtins(key)
    del shown["digest"]
    return {**shown, "status": key.status(now)}


def _row(key: ApiKey, now: datetime) -> tuple[str, ...]:
    expires = _NEVER if key.expires_at is None else _day(key.expires_at)
    return key.id, key.status(now), _day(key.created_at), expires, key.user or "-", key.name


def _day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M")
