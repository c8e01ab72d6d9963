"""Options that several commands share, and the settings that come out of them."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ParamSpec, TypeVar

import rich_click as click

from subak.cli.output import WANTS_JSON, WANTS_TRACEBACK
from subak.settings import Given, Loaded, Setting, Settings, as_text, catalogue, environment, load, locate
from subak.state import ADMIN_TOKEN_FILE

P = ParamSpec("P")
R = TypeVar("R")

config_option = click.option(
    "--config", metavar="FILE", help="Settings file; otherwise SUBAK_CONFIG, or subak.toml if there is one here."
)


def _keep_in_meta(ctx: click.Context, param: click.Parameter, value: bool) -> bool:  # noqa: FBT001 - click's signature
    ctx.meta[WANTS_JSON if param.name == "as_json" else WANTS_TRACEBACK] = value
    return value


json_option = click.option("--json", "as_json", is_flag=True, is_eager=True, callback=_keep_in_meta, help="Print JSON.")
json_logs_option = click.option(
    "--json", "as_json", is_flag=True, is_eager=True, callback=_keep_in_meta, help="Write every log line as JSON."
)
debug_option = click.option(
    "--debug",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_keep_in_meta,
    help="Show a traceback when something fails.",
)


header_option = click.option(
    "-H",
    "--header",
    "headers",
    metavar="'NAME: VALUE'",
    multiple=True,
    help="Send this header with every request; @FILE reads lines of them, so that no secret stands in the command.",
)


def read_headers(given: tuple[str, ...]) -> dict[str, str]:
    """Give the headers of `header_option` by name.

    Raises:
        click.BadParameter: a line is no header; it isn't quoted, for it may hold a secret.
        OSError: a file can't be read.
    """
    lines: list[str] = []
    for text in given:
        lines += Path(text[1:]).read_text(encoding="utf-8").splitlines() if text.startswith("@") else [text]
    named: dict[str, str] = {}
    for line in filter(str.strip, lines):
        name, colon, value = line.partition(":")
        if not colon or not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name) or not value.strip().isprintable():
            raise click.BadParameter("expected 'NAME: VALUE'", param_hint="--header")
        named[name] = value.strip()
    return named


_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)([smhdw])")
_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def seconds_of(text: str) -> float | None:
    """Read `90s`, `30m`, `24h`, `2d` or `1.5w`; None for anything else."""
    found = _DURATION.fullmatch(text.strip())
    return None if found is None else float(found[1]) * _UNITS_S[found[2]]


def duration(_ctx: click.Context, _param: click.Parameter, text: str) -> float:
    """Read an option's time in seconds. A call-back of options."""
    seconds = seconds_of(text)
    if seconds is None:
        raise click.BadParameter("expected a time such as 90s, 30m, 24h or 2d")
    return seconds


def base_url(_ctx: click.Context, _param: click.Parameter, url: str | None) -> str | None:
    """Check a base URL that was given; take a slash at its end away. A call-back of options and arguments."""
    if url is None:
        return None
    from subak.upstream.http1 import parse_base_url

    try:
        parse_base_url(url)
    except ValueError as error:
        raise click.BadParameter("expected http:// or https://, a host, no credentials, no ? and no #") from error
    return url.rstrip("/")


def admin_token(settings: Settings) -> str | None:
    """Give the token of these settings' admin listener, set or kept in the state directory; None without one.

    Raises:
        OSError: its file can't be read.
    """
    if settings.admin.token is not None:
        return settings.admin.token.reveal()
    path = settings.state_dir / ADMIN_TOKEN_FILE
    return path.read_text(encoding="ascii").strip() if path.exists() else None


def setting_flags(*keys: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """One flag a setting, described by the setting itself; they arrive as the keywords that `load_settings` takes."""

    def decorate(command: Callable[P, R]) -> Callable[P, R]:
        known = {setting.key: setting for setting in catalogue()}
        for key in reversed(keys):
            command = _flag(known[key])(command)
        return command

    return decorate


def _flag(setting: Setting) -> Callable[[Callable[P, R]], Callable[P, R]]:
    default = "" if setting.default is None else f" Default: {as_text(setting.default)}."
    return click.option(
        str(setting.notes.flag),
        setting.key.replace(".", "__"),
        metavar=str(setting.notes.flag).removeprefix("--").replace("-", "_").upper(),
        help=setting.sentence + default,
    )


gateway_flags = setting_flags("server.host", "server.port", "upstream.url", "knowledge.docs", "knowledge.pace_ms")
"""The flags of a command that runs a gateway, or looks at how one would run."""


def load_settings(config: str | None, flags: Mapping[str, str | None], *, forced: Mapping[str, Given]) -> Loaded:
    """The settings of this process: its environment, its file, these flags, and what the command itself decides.

    Raises:
        SettingsError: something is wrong with them.
    """
    named = {setting.key: setting.notes.flag for setting in catalogue()}
    given = {
        key: Given(text, f"flag {named[key]}")
        for key, text in ((name.replace("__", "."), text) for name, text in flags.items())
        if text is not None
    }
    env = environment()
    return load(env, locate(env, config), {**given, **forced})


def read_settings(config: str | None, flags: Mapping[str, str | None], *, forced: Mapping[str, Given]) -> Settings:
    """`load_settings` without the sources: what a command that runs reads at its start and on SIGHUP."""
    return load_settings(config, flags, forced=forced).settings


def json_logs(*, as_json: bool) -> Mapping[str, Given]:
    """What `--json` means to a command that runs until it is stopped."""
    return {"log.format": Given("json", "flag --json")} if as_json else {}
