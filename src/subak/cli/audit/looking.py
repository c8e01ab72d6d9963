"""`subak audit search`, `verify`, `prove`, `check-proof`, `export`: what reads the log, beside whoever writes it."""

import os
import sys
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
import rich_click as click

from subak.audit.inspection import MAX_ROWS, Claim, Found, Page, Search, shown_report
from subak.audit.inspection import confirm as confirm_question
from subak.audit.inspection import export as export_rows
from subak.audit.inspection import search as search_rows
from subak.audit.orders import BadOrder, Disclose
from subak.audit.proofs import MAX_PROOF_BYTES, NoProof, read_proof
from subak.audit.proofs import check_proof as check
from subak.audit.proofs import prove as prove_row
from subak.audit.store import LogReader
from subak.cli.audit.desk import carry_out
from subak.cli.audit.options import (
    FILE,
    anchor_option,
    gateway_option,
    log_option,
    out_option,
    own_anchors,
    past,
    settings_of,
    vkey_option,
)
from subak.cli.audit.progress import bar
from subak.cli.options import config_option, debug_option, json_option
from subak.cli.output import print_json
from subak.core.notes import Checkpoint
from subak.inspecting import first_key, judge, names_of, open_file, open_reader, read_anchor_files
from subak.settings import Settings

_COMMON: Final = frozenset({"v", "op", "time_ms", "mono_ms", "boot", "stream", "outcome"})
_STDIN: Final = "-"


@click.command("search")
@click.option(
    "--since", callback=past, metavar="TIME", help="From then on: 2026-12-01T08:00Z, or 24h for the last day."
)
@click.option("--until", callback=past, metavar="TIME", help="Before then.")
@click.option("--operation", default="", metavar="NAME", help="An operation, or all that begin so: stream.*")
@click.option("--outcome", default="", metavar="NAME", help="How it ended.")
@click.option("--stream", default="", metavar="ID", help="A stream's id, or the name that log lines give it.")
@click.option("--subject", default="", metavar="ID", help="A caller such as user:42, an anonymous stream, an address.")
@click.option("--address", default="", metavar="IP", help="An address, where the security of the service needs it.")
@click.option("--show-personal", is_flag=True, help="Show what is said about people, too. This is recorded.")
@click.option("--limit", type=click.IntRange(1, MAX_ROWS), default=100, show_default=True, help="At most this many.")
@click.option("--after", type=click.IntRange(0), metavar="SEQ", help="Go on where the page before ended.")
@click.option("--oldest-first", is_flag=True, help="The oldest first.")
@log_option
@gateway_option
@config_option
@json_option
@debug_option
def search(
    *,
    since: datetime | None,
    until: datetime | None,
    file: Path | None,
    gateway_url: str | None,
    config: str | None,
    as_json: bool,
    **wanted: str | int | bool | None,
) -> None:
    """Find rows, the newest first. A search for a person or an address is itself recorded, before it shows anything."""
    settings = settings_of(config)
    asked = msgspec.convert({"since": since, "until": until, **wanted}, Search)
    with closing(_open(settings, file)) as reader:
        page = _page(reader, asked, settings)
    if asked.is_personal:
        _tell(carry_out(Disclose("search", len(page.rows)), settings, gateway_url).by)
    if as_json:
        _write(msgspec.json.format(msgspec.json.encode(page)), None)
        return
    for row in page.rows:
        click.echo(_line(row))
    if page.next is not None:
        _tell(f"There is more: --after {page.next}")
    if not page.rows:
        _tell("Nothing was found.")


@click.command("verify")
@vkey_option
@anchor_option
@click.option("--with-keys", is_flag=True, help="Open every personal part, too, with the keys of the state directory.")
@log_option
@config_option
@json_option
@debug_option
@click.pass_context
def verify(
    ctx: click.RichContext,
    /,
    vkey: str,
    anchors: tuple[Path, ...],
    *,
    with_keys: bool,
    file: Path | None,
    config: str | None,
    as_json: bool,
) -> None:
    """Find out whether the log is whole.

    What was edited, deleted, inserted, reordered or cut off since it was sealed is found and named. That somebody went
    back to an older state shows only against checkpoints that left the host: give them with --anchor; the file of
    audit.anchor_file is taken by itself, but not for --log: a back-up is older than what was sealed since. Exit code 0
    means whole, 1 tampered with, 2 that it couldn't be tried.
    """
    settings = settings_of(config)
    taken = own_anchors(settings) if file is None else ()
    claim = Claim(vkey, read_anchor_files(*anchors, *taken), with_keys)
    with bar("Verifying") as on_progress:
        report = judge(settings, claim, on_progress, file=file)
    if as_json:
        _write(msgspec.json.format(msgspec.json.encode(shown_report(report))), None)
        ctx.exit(report.verdict)
    for finding in report.findings:
        click.echo(f"row {finding.seq}: {finding.flaw.value} ({finding.detail})")
    if report.finding_count > len(report.findings):
        click.echo(f"… and {report.finding_count - len(report.findings)} more")
    for warned in report.warnings:
        _tell(f"warning: {warned.doubt.value}" + (f" (row {warned.seq})" if warned.seq else ""))
    click.echo(
        f"{report.origin}: {'TAMPERED WITH' if report.verdict else 'whole'}; rows {report.base_size} to "
        f"{report.size - 1}, {report.checkpoints} checkpoints, {len(claim.anchors)} anchors"
    )
    ctx.exit(report.verdict)


@click.command("prove")
@click.argument("seq", type=click.IntRange(0))
@click.option("--size", type=click.IntRange(1), help="Prove it by the checkpoint over that many rows.")
@out_option
@log_option
@config_option
@debug_option
def prove(seq: int, *, size: int | None, out: Path | None, file: Path | None, config: str | None) -> None:
    """Print a proof that row SEQ stands in the log: JSON that `check-proof`, or anybody's own program, can check."""
    with closing(_open(settings_of(config), file)) as reader:
        proof = prove_row(reader, seq, size=size)
    _write(msgspec.json.format(msgspec.json.encode(proof)), out)


@click.command("check-proof")
@click.argument("proof", metavar="FILE", type=FILE)
@vkey_option
@anchor_option
@config_option
@json_option
@debug_option
def check_proof(proof: Path, *, vkey: str, anchors: tuple[Path, ...], config: str | None, as_json: bool) -> None:
    """Check a proof from FILE, or - for stdin. Needs nothing but the log's first public key. Exit code 1: it fails."""
    notes = read_anchor_files(*anchors)
    key, is_pinned = first_key(settings_of(config), vkey)
    found = read_proof(_read(proof))
    sealed = check(found, key)
    is_published = _is_published(sealed, notes)
    if as_json:
        shown = {"ok": True, "origin": sealed.origin, "seq": found.seq, "size": sealed.size}
        shown |= {"root": sealed.root.hex(), "is_pinned": is_pinned, "is_published": is_published}
        _write(msgspec.json.format(msgspec.json.encode(shown | {"core": msgspec.Raw(found.core.encode())})), None)
        return
    click.echo(f"Row {found.seq} stands in {sealed.origin}, sealed with {sealed.size} rows:")
    click.echo(found.core)
    if not is_pinned:
        _tell("warning: the key was taken from the state directory: give the noted one with --vkey")
    if not is_published:
        _tell(f"warning: no anchor of {sealed.size} rows was given: that the log was forked can't be seen")


@click.command("confirm")
@click.argument("seq", type=click.IntRange(0))
@click.argument("question", metavar="FILE", type=FILE)
@log_option
@gateway_option
@config_option
@json_option
@debug_option
@click.pass_context
def confirm(
    ctx: click.RichContext,
    /,
    seq: int,
    question: Path,
    *,
    file: Path | None,
    gateway_url: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    """Tell whether row SEQ was written for the question in FILE, or - for stdin. Exit code 1: for another, or none.

    No question is stored, so it must be the same letter for letter; a line end after it doesn't count. That it was
    compared is recorded first.
    """
    settings = settings_of(config)
    text = _question_in(question)
    with closing(_open(settings, file)) as reader, names_of(settings, reader.origin) as names:
        is_it = confirm_question(reader, seq, text, names)
    _tell(carry_out(Disclose("search", 1), settings, gateway_url).by)
    if as_json:
        print_json({"ok": True, "seq": seq, "is_question": is_it})
    else:
        click.echo(f"Row {seq} was written for {'this' if is_it else 'another'} question.")
    ctx.exit(0 if is_it else 1)


@click.command("export")
@click.option(
    "--subject", required=True, metavar="ID", help="A caller such as user:42, an anonymous stream, an address."
)
@click.option("--why", default="", metavar="TEXT", help="Reason, kept in the log; it may name no person.")
@out_option
@gateway_option
@config_option
@debug_option
def export(subject: str, *, why: str, out: Path | None, gateway_url: str | None, config: str | None) -> None:
    """Give everything that is kept about one person, as JSON: the answer to an access request (Art. 15 GDPR).

    That it was given is recorded first.
    """
    settings = settings_of(config)
    with closing(open_reader(settings)) as reader, names_of(settings, reader.origin) as names:
        rows = list(export_rows(reader, subject, names))
    done = carry_out(Disclose("export", len(rows), why), settings, gateway_url)
    _write(msgspec.json.format(msgspec.json.encode({"subject": subject, "rows": rows})), out)
    _tell(f"{len(rows)} rows; recorded as row {done.result['seq']}, {done.by}")


def _open(settings: Settings, file: Path | None) -> LogReader:
    return open_reader(settings) if file is None else open_file(file)


def _page(reader: LogReader, asked: Search, settings: Settings) -> Page:
    if not asked.needs_names:
        return search_rows(reader, asked, None)
    with names_of(settings, reader.origin) as names:
        return search_rows(reader, asked, names)


def _is_published(sealed: Checkpoint, notes: tuple[str, ...]) -> bool:
    """Whether an anchor is this very checkpoint. Raises: NoProof: one of the same size is another."""
    published = [Checkpoint.parse(note.partition("\n\n")[0] + "\n") for note in notes]
    same = [one for one in published if (one.origin, one.size) == (sealed.origin, sealed.size)]
    if any(one.root != sealed.root for one in same):
        raise NoProof(f"The log is forked: another root was published for {sealed.size} rows.")
    return bool(same)


def _line(row: Found) -> str:
    said = {name: value for name, value in msgspec.json.decode(row.core).items() if name not in _COMMON}
    if row.stream is not None:
        said["stream"] = row.stream
    if row.personal is not None:
        said |= msgspec.to_builtins(row.personal)
    if row.unreadable:
        said["personal"] = row.unreadable
    about = " ".join(f"{name}={value}" for name, value in said.items())
    return f"{row.seq:>8}  {row.time:%Y-%m-%d %H:%M:%S}Z  {row.operation:<29} {row.outcome or '-':<12} {about}".rstrip()


def _question_in(path: Path) -> str:
    """Raises: BadOrder: it is no text."""
    try:
        return _read(path).decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise BadOrder("$.FILE", "a question, as text in UTF-8") from None


def _read(path: Path) -> bytes:
    if str(path) == _STDIN:
        return sys.stdin.buffer.read(MAX_PROOF_BYTES + 1)
    with path.open("rb") as file:
        return file.read(MAX_PROOF_BYTES + 1)


def _write(content: bytes, out: Path | None) -> None:
    if out is None:
        click.echo(content.decode())
        return
    with os.fdopen(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content + b"\n")


def _tell(line: str) -> None:
    click.echo(line, err=True)
