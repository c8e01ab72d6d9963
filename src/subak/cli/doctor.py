"""`subak doctor`: what stands between a reader and an answer, and what to do about each thing.

`subak check` looks at settings and files and asks nobody; this asks the upstream one question and, with `--url`,
measures what the proxies in front do to a stream.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict

import rich_click as click

from subak.cli.options import base_url, config_option, debug_option, gateway_flags, json_option, load_settings
from subak.cli.output import print_json
from subak.doctor.findings import Check, Finding, Status, fine
from subak.doctor.machine import (
    installation_date,
    judge_monotonic_clock,
    judge_wall_clock,
    look_at_interpreter,
    look_at_loop,
    look_at_parts,
    monotonic_resolution_s,
    read_clocks,
)
from subak.settings import Given, Settings, SettingsError

_COLOURS = {Status.OK: "green", Status.WARNING: "yellow", Status.FAILED: "red"}


@click.command("doctor")
@click.option(
    "--url",
    metavar="URL",
    callback=base_url,
    help="Base URL as readers see it, through all proxies: tests whether events come through one by one.",
)
@click.option("--no-question", is_flag=True, help="Don't ask the upstream; otherwise it is asked one short question.")
@gateway_flags
@config_option
@json_option
@debug_option
@click.pass_context
def command(
    ctx: click.RichContext,
    /,
    config: str | None,
    *,
    url: str | None,
    no_question: bool,
    as_json: bool,
    **flags: str | None,
) -> None:
    """Find what keeps answers from readers: this machine, the upstream, the proxies in front.

    Takes the settings and flags of `subak serve`, and changes nothing. To measure the first token it asks the upstream
    one short question, which costs what a question costs there; --no-question leaves that out. Exit code 0 means that
    nothing failed; warnings don't count.
    """
    findings = _examine(config, flags, url=url, may_ask=not no_question)
    is_ok = all(each.status is not Status.FAILED for each in findings)
    if as_json:
        print_json({"ok": is_ok, "findings": [_as_document(each) for each in findings]})
    else:
        _print_table(findings, is_line_tested=url is not None)
    ctx.exit(0 if is_ok else 1)


def _examine(config: str | None, flags: dict[str, str | None], *, url: str | None, may_ask: bool) -> list[Finding]:
    from rich.console import Console

    before = read_clocks()
    settings, about_settings = _settings(config, flags)
    parts = list(look_at_parts())
    findings = [look_at_interpreter(), *parts, look_at_loop(settings.server.loop if settings else "auto")]
    findings.append(about_settings)
    if all(each.status is not Status.FAILED for each in parts):
        with Console(stderr=True).status("Looking at the upstream and the line …"):
            findings += _examine_way(settings, url, may_ask=may_ask)
    after = read_clocks()
    findings.append(judge_wall_clock(before, after, installation_date()))
    findings.append(judge_monotonic_clock(before, after, monotonic_resolution_s()))
    return findings


def _settings(config: str | None, flags: dict[str, str | None]) -> tuple[Settings | None, Finding]:
    """Give the settings, if they can be used, and what is wrong with them, all at once."""
    nothing: dict[str, Given] = {}
    try:
        loaded = load_settings(config, flags, forced=nothing)
    except SettingsError as error:
        if all(problem.source.startswith("flag ") for problem in error.problems):
            raise
        seen = f"{len(error.problems)} wrong; what depends on them wasn't looked at"
        notes = tuple(map(str, error.problems))
        return None, Finding(Check.SETTINGS, Status.FAILED, seen, "correct them:", notes=notes)
    given = sum(source != "default" for source in loaded.sources.values())
    return loaded.settings, fine(Check.SETTINGS, f"{given} set, the others at their defaults")


def _examine_way(settings: Settings | None, url: str | None, *, may_ask: bool) -> list[Finding]:
    """Look at everything that needs the compiled parts."""
    return [
        *(_look_at_place(settings) if settings else ()),
        *asyncio.run(_collect(_ask_around(settings, url, may_ask=may_ask))),
    ]


def _look_at_place(settings: Settings) -> Iterator[Finding]:
    from subak.doctor.directory import look_at_state
    from subak.doctor.gateway import look_at_open_files, look_at_streaming
    from subak.doctor.wiring import look_at_wiring

    yield look_at_open_files(settings.server.max_connections)
    yield from look_at_state(settings.state_dir)
    yield look_at_streaming(settings)
    yield from look_at_wiring(settings)


async def _ask_around(settings: Settings | None, url: str | None, *, may_ask: bool) -> AsyncIterator[Finding]:
    from subak.doctor.answer import look_at_answer
    from subak.doctor.line import look_at_line
    from subak.doctor.reach import look_at_servers

    if settings is not None:
        async for finding in look_at_servers(settings.upstream):
            yield finding
        for finding in await look_at_answer(settings, may_ask=may_ask):
            yield finding
    if url is not None:
        async for finding in look_at_line(url):
            yield finding


async def _collect(findings: AsyncIterator[Finding]) -> list[Finding]:
    return [finding async for finding in findings]


def _as_document(finding: Finding) -> dict[str, object]:
    document = asdict(finding)
    return {"name": document.pop("check"), **document}


def _print_table(findings: list[Finding], *, is_line_tested: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2), pad_edge=False)
    for finding in findings:
        text = Text(finding.detail)
        for line in (*([f"fix: {finding.fix}"] if finding.fix else []), *(f"  {note}" for note in finding.notes)):
            text.append(f"\n{line}")
        table.add_row(Text(finding.status, style=_COLOURS[finding.status]), Text(finding.check), text)
    console = Console()
    console.print(table)
    if not is_line_tested:
        console.print("The line to the readers wasn't tested: give the URL that they use with --url.")
