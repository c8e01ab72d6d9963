"""`subak audit backup` and `restore`."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import rich_click as click

from subak.audit.backups import (
    Former,
    Restored,
    back_up,
    back_up_keys,
    look_at_former,
    put_back_file,
    put_back_keys,
    put_back_rows,
    resume,
)
from subak.audit.errors import StoreDamaged, StoreUnavailable
from subak.audit.inspection import Claim
from subak.audit.keys import KEY_FILE, AuditKeys, KeyFileError
from subak.audit.operations import SENTENCE
from subak.audit.orders import Disclose
from subak.audit.sqlite import LOG_FILE, SqliteReader
from subak.audit.writer import certified_key
from subak.cli.audit.desk import carry_out, check_owner, open_log
from subak.cli.audit.failures import GatewayRefused
from subak.cli.audit.options import (
    FILE,
    anchor_option,
    gateway_option,
    make_sure,
    own_anchors,
    settings_of,
    yes_option,
)
from subak.cli.audit.progress import bar
from subak.cli.options import config_option, debug_option, json_option
from subak.cli.output import print_json
from subak.core.notes import Checkpoint
from subak.inspecting import NoLog, judge, open_file, open_reader, read_anchor_files, read_keys, store_of
from subak.settings import Settings
from subak.state import SECRET_FILE, StateError


@click.command("backup")
@click.argument("target", metavar="FILE", type=FILE)
@click.option(
    "--keys",
    "keys",
    type=FILE,
    metavar="FOLDER",
    help="Copy the keys to this new folder, too. Keep it apart from FILE, and not for long: it undoes erasures.",
)
@gateway_option
@config_option
@json_option
@debug_option
def backup(target: Path, *, keys: Path | None, gateway_url: str | None, config: str | None, as_json: bool) -> None:
    """Copy the log as it is now to FILE, one SQLite file, beside whoever writes it.

    Without the keys nothing personal in it can be read. It holds nothing of what was erased before. That it is copied
    is recorded first. Where that can't be done the log is copied all the same, and a line says so; the keys aren't.
    """
    settings = settings_of(config)
    recorded = _record_backup(settings, gateway_url, with_keys=keys is not None)
    with closing(open_reader(settings)) as reader:
        rows = back_up(reader, target)
    copied = [] if keys is None else back_up_keys(settings.state_dir, keys, SECRET_FILE)
    if as_json:
        print_json({"file": str(target), "rows": rows, "keys": [str(path) for path in copied], "recorded": recorded})
        return
    click.echo(f"{target}: {rows} rows.")
    if keys is None:
        click.echo("The keys are not in it. Keep a copy of audit.keys and digest.key apart from it.", err=True)
    else:
        click.echo(f"{keys}: {len(copied)} files. Who has them and the log can read everything in it.", err=True)


def _record_backup(settings: Settings, gateway_url: str | None, *, with_keys: bool) -> bool:
    """Write into the log that it is copied; give whether that could be done.

    A back-up without keys must not hang on it: the log is wanted most when something is wrong with who writes it.

    Raises:
        GatewayRefused, StateError, KeyFileError, StoreUnavailable: it couldn't, and the keys would be copied, too.
    """
    with closing(open_reader(settings)) as reader:
        size = reader.end()
    try:
        done = carry_out(Disclose("backup_with_keys" if with_keys else "backup", size), settings, gateway_url)
    except (GatewayRefused, StateError, KeyFileError, StoreUnavailable, StoreDamaged) as error:
        if with_keys:
            raise
        click.echo(f"subak: this back-up isn't recorded in the log: {error}", err=True)
        return False
    click.echo(f"Recorded as row {done.result['seq']}, {done.by}", err=True)
    return True


@click.command("restore")
@click.argument("source", metavar="[FILE]", type=FILE, required=False)
@click.option(
    "--keys", "keys", type=FILE, metavar="FOLDER", help="Put back keys from here, where they are missing, first."
)
@anchor_option
@click.option("--why", default="", metavar="TEXT", help="Reason, kept in the log; it may name no person.")
@yes_option
@config_option
@json_option
@debug_option
def restore(
    source: Path | None,
    *,
    keys: Path | None,
    anchors: tuple[Path, ...],
    why: str,
    is_sure: bool,
    config: str | None,
    as_json: bool,
) -> None:
    """Put the log back from FILE, which `backup` made; the gateway must be stopped.

    Without FILE the store itself was put back by other means: a snapshot, PostgreSQL's own tools. Either way what was
    erased or held since is so again, and the log says that it was put back and how many rows are gone. Checkpoints
    given with --anchor tell how far it once was. The log that was there is kept under another name.
    """
    if why and not SENTENCE.takes(why):
        raise click.BadParameter(f"expected {SENTENCE.about}", param_hint="--why")
    settings = settings_of(config)
    notes = read_anchor_files(*anchors, *own_anchors(settings))
    make_sure("Put the log back? Rows written after the copy are lost.", is_sure=is_sure)
    if settings.state_dir.exists():
        check_owner(settings.state_dir)
    if keys is not None:
        put_back_keys(keys, settings.state_dir, SECRET_FILE)
    origin = read_keys(settings).origin
    put_back = _in_place(settings) if source is None else _from_file(settings, source)
    size = max([put_back.former.size, *(one.size for one in _published(notes, origin))])
    with closing(open_log(settings)) as writer:
        restored = resume(writer, put_back.former._replace(size=size), why=why)
    _say(restored, put_back, as_json=as_json)


class _PutBack(NamedTuple):
    former: Former
    replaced: Path | None


def _from_file(settings: Settings, source: Path) -> _PutBack:
    """Check the copy, look at what it replaces, replace it."""
    with closing(open_file(source)) as copy:
        keys = read_keys(settings)
        if copy.origin != keys.origin:
            raise StoreDamaged(f"{source}: it is the log {copy.origin}, and the keys belong to {keys.origin}.")
        with bar("Verifying the copy") as on_progress:
            report = judge(settings, Claim(), on_progress, file=source)
        if report.finding_count:
            raise StoreDamaged(f"{source}: the copy itself isn't whole: run `subak audit verify --log {source}`.")
        _check_key(copy, keys, source)
        if settings.audit.store == "sqlite":
            former = _former(settings, copy.end())
            suffix = f".replaced-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
            return _PutBack(former, put_back_file(copy, settings.state_dir, suffix=suffix))
        with closing(store_of(settings)(keys.origin)) as store:
            put_back_rows(copy, store)
        return _PutBack(Former(copy.end(), (), is_readable=False), None)


def _check_key(copy: SqliteReader, keys: AuditKeys, source: Path) -> None:
    """Find out before anything is replaced whether the log could go on."""
    sealing = certified_key(copy, keys.first_vkey)
    ours = {keys.sealing.vkey, *([] if keys.successor is None else [keys.successor.vkey])}
    if sealing not in ours:
        raise KeyFileError(
            f"{source}: the sealing key was changed after this copy was made, and the old one is gone. Take a later "
            f"copy; or move {KEY_FILE} away and put back the one of that time with --keys."
        )


def _in_place(settings: Settings) -> _PutBack:
    with closing(open_reader(settings)) as reader:
        return _PutBack(Former(reader.end(), (), is_readable=False), None)


def _former(settings: Settings, copied_size: int) -> Former:
    """Look at the log that is about to be replaced, if there is one that can be opened."""
    try:
        with closing(open_file(settings.state_dir / LOG_FILE)) as reader:
            return look_at_former(reader, copied_size)
    except (NoLog, StoreDamaged, StoreUnavailable):
        return Former(copied_size, (), is_readable=False)


def _published(notes: tuple[str, ...], origin: str) -> Iterator[Checkpoint]:
    for note in notes:
        found = Checkpoint.parse(note.partition("\n\n")[0] + "\n")
        if found.origin == origin:
            yield found


def _say(restored: Restored, put_back: _PutBack, *, as_json: bool) -> None:
    replaced = put_back.replaced
    if as_json:
        told = {"seq": restored.seq, "lost_rows": restored.lost, "erased_again": restored.erased}
        replaced_text = None if replaced is None else str(replaced)
        print_json(told | {"replaced": replaced_text, "knows_all_erasures": put_back.former.is_readable})
        return
    click.echo(f"Put back; row {restored.seq} says so. {restored.lost} rows of before are gone, as far as is known.")
    click.echo(f"{restored.erased} rows were erased again.")
    if not put_back.former.is_readable:
        click.echo(
            "subak: the log that was there couldn't be read. People whose keys were destroyed are erased again; if the "
            "keys were put back, too, or single streams of a caller were erased, carry that out again from your "
            "register of requests; and begin again the holds that you know of.",
            err=True,
        )
    if replaced is not None:
        click.echo(f"The log that was there is now {replaced}: delete it once nobody needs it.", err=True)
