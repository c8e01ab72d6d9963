"""Options that the audit commands share."""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import rich_click as click

from subak.cli.options import load_settings, seconds_of
from subak.settings import Given, Settings


def past(_ctx: click.Context, _param: click.Parameter, text: str | None) -> datetime | None:
    """Read `2026-12-01T08:00Z`, UTC without an offset; or `90m`, `24h`, `7d`, `2w` before now."""
    return None if text is None else _moment(text, -1)


def future(_ctx: click.Context, _param: click.Parameter, text: str) -> datetime:
    """Read a time likewise, where what is counted from now comes after it."""
    return _moment(text, 1)


def _moment(text: str, sign: int) -> datetime:
    try:
        if (seconds := seconds_of(text)) is not None:
            return datetime.now(UTC) + sign * timedelta(seconds=seconds)
        time = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError) as error:
        raise click.BadParameter("expected a time such as 2026-12-01T08:00Z, or 24h") from error
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


FILE: Final = click.Path(path_type=Path)

log_option = click.option(
    "--log", "file", type=FILE, metavar="FILE", help="Look into this log file, such as a back-up, instead."
)
vkey_option = click.option(
    "--vkey",
    metavar="KEY",
    default="",
    help="The log's first public key, as it was noted at the first start. Without it the one beside the log is taken.",
)
anchor_option = click.option(
    "--anchor",
    "anchors",
    type=FILE,
    metavar="FILE",
    multiple=True,
    help="Checkpoints that left the host; may be given several times.",
)
gateway_option = click.option(
    "--gateway",
    "gateway_url",
    metavar="URL",
    help="Admin listener of the gateway that writes the log. Default: admin.host and admin.port.",
)
yes_option = click.option("--yes", "is_sure", is_flag=True, help="Don't ask.")
out_option = click.option(
    "--out", "out", type=FILE, metavar="FILE", help="Write to this new file, readable by you alone, not to stdout."
)


def settings_of(config: str | None) -> Settings:
    """The settings that a command sees."""
    nothing: dict[str, Given] = {}
    return load_settings(config, {}, forced=nothing).settings


def own_anchors(settings: Settings) -> Iterator[Path]:
    """The gateway's own anchor file, if it has one."""
    path = settings.audit.anchor_file
    if path is not None and path.exists():
        yield path


def make_sure(question: str, *, is_sure: bool) -> None:
    """Ask, unless `--yes` was given; nobody is asked without a terminal.

    Raises:
        click.UsageError, click.Abort: it isn't sure.
    """
    if is_sure:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("This can't be undone: give --yes.")
    click.confirm(question, abort=True, err=True)
