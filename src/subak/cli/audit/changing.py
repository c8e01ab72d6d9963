"""`subak audit erase`, `hold`, `prune`, `rotate-key`, `checkpoint`: what changes the log, by its one writer."""

from collections.abc import Mapping
from contextlib import closing
from datetime import datetime

import msgspec
import rich_click as click

from subak.audit.inspection import holds_in, would_prune
from subak.audit.orders import Erase, HoldOn, Order, Prune, Release, RotateKey, Seal
from subak.audit.verdict import DAY_MS
from subak.cli.audit.desk import carry_out
from subak.cli.audit.options import future, gateway_option, make_sure, settings_of, yes_option
from subak.cli.options import config_option, debug_option, json_option
from subak.cli.output import print_json
from subak.clocks import SystemClock
from subak.inspecting import open_reader


@click.command("erase")
@click.option("--subject", default="", metavar="ID", help="A caller such as user:42, an anonymous stream, an address.")
@click.option("--stream", default="", metavar="ID", help="One stream, by its id.")
@click.option(
    "--keep-evidence-because",
    default="",
    metavar="REASON",
    help="Leave rows of security and administration (Art. 17(3) GDPR); the reason is kept, and names no person.",
)
@yes_option
@gateway_option
@config_option
@json_option
@debug_option
def erase(
    subject: str,
    stream: str,
    keep_evidence_because: str,
    *,
    is_sure: bool,
    gateway_url: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    """Erase everything personal about one person or one stream (Art. 17 GDPR). The log still verifies afterwards."""
    if bool(subject) is bool(stream):
        raise click.UsageError("Give --subject or --stream.")
    make_sure(f"Erase everything personal about {subject or stream}? This can't be undone.", is_sure=is_sure)
    order = Erase(subject, stream, keep_evidence_because)
    result = _done(order, config, gateway_url, as_json=as_json)
    if as_json:
        return
    click.echo(f"{result['rows']} rows lost their personal part." if result["rows"] else "Nothing is kept about it.")
    if not result["is_scrubbed"]:
        _tell("A reader still holds former pages of the file, whose keys are gone; they go with the next checkpoint.")


@click.group("hold")
def hold() -> None:
    """Keep everything, whatever its term and whoever asks for an erasure: for a dispute or an investigation."""


@hold.command("add")
@click.option("--until", callback=future, required=True, metavar="TIME", help="Its end: 2027-01-31, or 90d from now.")
@click.option("--why", required=True, metavar="TEXT", help="Reason, kept in the log; it may name no person.")
@gateway_option
@config_option
@json_option
@debug_option
def add(until: datetime, why: str, *, gateway_url: str | None, config: str | None, as_json: bool) -> None:
    """Begin a hold."""
    result = _done(HoldOn(until, why), config, gateway_url, as_json=as_json)
    if not as_json:
        click.echo(f"Hold {result['seq']} keeps everything until {until:%Y-%m-%d %H:%M%z}.")


@hold.command("list")
@config_option
@json_option
@debug_option
def list_(config: str | None, *, as_json: bool) -> None:
    """Show the holds in force."""
    with closing(open_reader(settings_of(config))) as reader:
        found = list(holds_in(reader, now_ms=SystemClock.time_ms()))
    if as_json:
        print_json(msgspec.to_builtins(found))
        return
    for one in found:
        click.echo(f"{one.seq:>8}  until {one.until:%Y-%m-%d %H:%M}Z  {one.why}")
    if not found:
        _tell("Nothing is held.")


@hold.command("release")
@click.argument("seq", metavar="HOLD", type=click.IntRange(0))
@click.option("--why", required=True, metavar="TEXT", help="Reason, kept in the log; it may name no person.")
@gateway_option
@config_option
@json_option
@debug_option
def release(seq: int, *, why: str, gateway_url: str | None, config: str | None, as_json: bool) -> None:
    """Lift HOLD, the number that `hold list` shows, before its end."""
    _done(Release(seq, why), config, gateway_url, as_json=as_json)
    if not as_json:
        click.echo(f"Hold {seq} is lifted.")


@click.command("prune")
@click.option("--dry-run", "is_dry", is_flag=True, help="Say what would be deleted, and delete nothing.")
@gateway_option
@config_option
@json_option
@debug_option
@click.pass_context
def prune(
    ctx: click.RichContext, /, *, is_dry: bool, gateway_url: str | None, config: str | None, as_json: bool
) -> None:
    """Delete what is past its term now; a gateway does so by itself once an hour."""
    if not is_dry:
        result = _done(Prune(), config, gateway_url, as_json=as_json)
        if not as_json:
            click.echo(f"{result['rows']} rows were deleted; the oldest one kept is {result['size']}.")
        return
    settings = settings_of(config)
    with closing(open_reader(settings)) as reader:
        term_ms = settings.audit.retention_days * DAY_MS
        found = would_prune(reader, now_ms=SystemClock.time_ms(), term_ms=term_ms)
    if as_json:
        print_json(msgspec.to_builtins(found))
    else:
        click.echo(f"{found.rows} rows are past their term; the oldest one kept would be {found.size}.")
        for one in found.holds:
            click.echo(f"Hold {one.seq} keeps them until {one.until:%Y-%m-%d %H:%M}Z: {one.why}")
    ctx.exit(1 if found.holds else 0)


@click.command("rotate-key")
@gateway_option
@config_option
@json_option
@debug_option
def rotate_key(*, gateway_url: str | None, config: str | None, as_json: bool) -> None:
    """Let a new key seal from now on. The first key stays the one that `verify --vkey` wants."""
    result = _done(RotateKey(), config, gateway_url, as_json=as_json)
    if not as_json:
        click.echo(f"From row {result['seq']} on {result['vkey']} seals. Back up the key file again.")


@click.command("checkpoint")
@gateway_option
@config_option
@json_option
@debug_option
def checkpoint(*, gateway_url: str | None, config: str | None, as_json: bool) -> None:
    """Seal what is written and print the newest checkpoint: an anchor, once it is kept where no attacker comes."""
    result = _done(Seal(), config, gateway_url, as_json=as_json)
    if not as_json:
        click.echo(result["note"])


def _done(order: Order, config: str | None, gateway_url: str | None, *, as_json: bool) -> Mapping[str, object]:
    """Have it done, and say by whom."""
    done = carry_out(order, settings_of(config), gateway_url)
    if as_json:
        print_json({**done.result, "by": done.by})
    else:
        _tell(done.by)
    return done.result


def _tell(line: str) -> None:
    click.echo(line, err=True)
