"""`subak smoke`: after a deploy, ask a few questions and check everything that readers rely on.

`subak doctor` looks for what is wrong where the gateway runs; this asks from outside, as readers do. The report goes to
stdout, what it is about to ask to stderr.
"""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import rich_click as click

from subak.cli.options import (
    admin_token,
    base_url,
    config_option,
    debug_option,
    header_option,
    json_option,
    load_settings,
    read_headers,
)
from subak.cli.output import print_json

if TYPE_CHECKING:  # `subak smoke --help` needs no HTTP client
    from subak.smoke.findings import Finding, Report
    from subak.smoke.run import Place

DEFAULT_QUESTION = "What is a KITAS?"
_COLOURS = {"ok": "green", "failed": "red", "not_checked": "yellow"}


@click.command("smoke")
@click.argument("url", metavar="URL", callback=base_url)
@click.option(
    "--expect",
    type=click.Choice(["on", "off"]),
    help="What streaming has to be for this caller; off: that it is refused and /chat answers. Otherwise as it is.",
)
@header_option
@click.option(
    "-q",
    "--question",
    metavar="TEXT",
    default=DEFAULT_QUESTION,
    show_default=True,
    help="Ask this; proxies may log it.",
)
@click.option(
    "--admin", metavar="URL", callback=base_url, help="The admin listener: for the audit trail, metrics and the flag."
)
@click.option(
    "--admin-token",
    "token_file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with its token; otherwise SUBAK_ADMIN__TOKEN, or admin.token of the state directory.",
)
@click.option("--limit", "with_limit", is_flag=True, help="Ask until 429 comes; each answer is stopped at once.")
@click.option("--strict", is_flag=True, help="What wasn't checked counts as failed.")
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(1, 3600),
    default=60.0,
    show_default=True,
    help="How long an answer may take.",
)
@config_option
@json_option
@debug_option
@click.pass_context
def command(
    ctx: click.RichContext,
    /,
    url: str,
    *,
    expect: Literal["on", "off"] | None,
    headers: tuple[str, ...],
    question: str,
    admin: str | None,
    token_file: Path | None,
    with_limit: bool,
    strict: bool,
    timeout: float,
    config: str | None,
    as_json: bool,
) -> None:
    """After a deploy: ask a few questions, and check everything that readers rely on.

    URL is the one that readers use, through all proxies. It asks 4 questions at most: by GET, by POST, one that is
    stopped at once, and one of /chat. --limit asks as many more as the caller's limit leaves, each stopped at once,
    and leaves this caller limited: name one of its own by --header. What can't be looked at is told as not checked.
    Exit code 0: nothing failed; 1: something did; 2: wrong usage.
    """
    from subak.smoke.course import Wants
    from subak.smoke.findings import Status
    from subak.smoke.run import Place, run

    if with_limit and expect == "off":
        raise click.UsageError("--limit needs streams, and --expect off says that there are none")
    if token_file is not None and admin is None:
        raise click.UsageError("--admin-token goes with --admin")
    desk = None if admin is None else _admin(admin, token_file, config)
    wants = Wants(question, expect, with_limit=with_limit)
    public = Place(url, read_headers(headers))
    report = asyncio.run(run(public, desk, wants, answer_s=timeout, say=_say))
    is_ok = not report.count(Status.FAILED) and not (strict and report.count(Status.NOT_CHECKED))
    if as_json:
        print_json(_as_document(report, is_ok=is_ok))
    else:
        _print_table(report)
    ctx.exit(0 if is_ok else 1)


def _admin(url: str, token_file: Path | None, config: str | None) -> "Place":
    from subak.smoke.run import Place

    if token_file is not None:
        token = token_file.read_text(encoding="utf-8").strip() or None
    else:
        token = admin_token(load_settings(config, {}, forced={}).settings)
    if token is None or not token.isascii() or not token.isprintable():
        raise click.UsageError("there is no admin token: give its file by --admin-token, or set SUBAK_ADMIN__TOKEN")
    return Place(url, {"Authorization": f"Bearer {token}"})


def _say(text: str) -> None:
    click.echo(f"subak smoke: {text}", err=True)


def _as_document(report: "Report", *, is_ok: bool) -> dict[str, object]:
    from subak.smoke.findings import Status

    return {
        "ok": is_ok,
        "url": report.url,
        "streaming": report.is_streaming,
        "questions": report.questions,
        "counts": {status.value: report.count(status) for status in Status},
        "checks": [_check_document(finding) for finding in report.findings],
    }


def _check_document(finding: "Finding") -> dict[str, object]:
    document = asdict(finding)
    return {"name": document.pop("check"), **document}


def _print_table(report: "Report") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from subak.smoke.findings import Status

    table = Table.grid(padding=(0, 2), pad_edge=False)
    for finding in report.findings:
        text = Text(finding.detail)
        for label, line in (("expected", finding.expected), ("fix", finding.fix)):
            if line:
                text.append(f"\n{label}: {line}")
        word = finding.status.replace("_", " ")
        table.add_row(Text(word, style=_COLOURS[finding.status]), Text(finding.check), text)
    console = Console()
    console.print(table)
    told = ", ".join(f"{report.count(status)} {status.replace('_', ' ')}" for status in Status)
    asked = "one question" if report.questions == 1 else f"{report.questions} questions"
    console.print(f"{told}; {asked} asked.", highlight=False)
