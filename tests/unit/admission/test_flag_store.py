"""Where flags are kept: one transaction a change, told once, and never half of it."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import pytest

from subak.admission.flag_store import FILE_NAME, MAX_HISTORY, SIGN_NAME, FlagsBusy, FlagStore, FlagsUnusable
from subak.core.flag_state import FlagDocument, RolloutConflict, aborted
from subak.core.rollout import STREAMING, Overrides
from subak.state import StateError
from tests.settings import child_environment, runs

NOW: Final = datetime(2026, 11, 23, 6, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FlagStore]:
    with closing(FlagStore.open(tmp_path, patience_s=1)) as store:
        yield store


def set_percentage(store: FlagStore, percentage: float, actor: str = "cli:somebody") -> FlagDocument:
    return store.change(
        STREAMING, lambda document: with_percentage(document, percentage), actor=actor, now=NOW, why="a test"
    )


def with_percentage(document: FlagDocument, percentage: float) -> FlagDocument:
    return FlagDocument(msgspec.structs.replace(document.overrides, percentage=percentage), document.rollout)


def test_what_was_changed_is_there_after_a_restart(store: FlagStore, tmp_path: Path) -> None:
    changed = set_percentage(store, 25)
    store.close()
    with closing(FlagStore.open(tmp_path, patience_s=1)) as again:
        assert again.documents() == {STREAMING: changed} == {STREAMING: FlagDocument(Overrides(percentage=25))}


def test_the_history_tells_who_when_from_and_to_newest_first(store: FlagStore) -> None:
    set_percentage(store, 25.0, actor="cli:one")
    set_percentage(store, 5.0, actor="admin")
    newest, oldest = store.history(STREAMING)
    assert (newest.number, newest.at, newest.key, newest.actor) == (2, NOW, STREAMING, "admin")
    assert (newest.changed_from, newest.changed_to) == ('{"percentage":25.0}', '{"percentage":5.0}')
    assert (newest.summary, newest.why) == ("percentage 25 % → 5 %", "a test")
    assert oldest.changed_from == '{"percentage":null}'
    assert store.history("ANOTHER") == []
    assert store.history(limit=1) == [newest]


def test_a_change_that_changes_nothing_leaves_no_trace(store: FlagStore) -> None:
    set_percentage(store, 25)
    set_percentage(store, 25)
    assert len(store.history()) == 1


def test_a_change_that_is_refused_leaves_what_was(store: FlagStore) -> None:
    set_percentage(store, 25)

    def refuse(document: FlagDocument) -> FlagDocument:
        raise ValueError(document)

    with pytest.raises(ValueError, match="25"):
        store.change(STREAMING, refuse, actor="admin", now=NOW)
    assert store.documents()[STREAMING].overrides.percentage == 25
    assert set_percentage(store, 30).overrides.percentage == 30


def test_the_history_is_bounded(store: FlagStore) -> None:
    row = (NOW.isoformat(), STREAMING, "admin", "switched off", "", "{}", "{}")
    with closing(sqlite3.connect(store.path)) as other:
        other.executemany("INSERT INTO history VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", [row] * MAX_HISTORY)
        other.commit()
    for percentage in (5, 25):
        set_percentage(store, percentage)
    entries = store.history(limit=MAX_HISTORY * 2)
    assert [entry.number for entry in entries] == list(range(MAX_HISTORY + 2, 2, -1))


def test_the_file_is_the_owners_alone(store: FlagStore) -> None:
    assert store.path.stat().st_mode & 0o777 == 0o600


def test_another_process_change_is_seen_and_ones_own_is_no_news(store: FlagStore, tmp_path: Path) -> None:
    set_percentage(store, 5)
    assert not store.has_news()
    in_another_process(tmp_path, "25")
    assert store.has_news()
    assert not store.has_news()
    assert store.documents()[STREAMING].overrides.percentage == 25


def in_another_process(state_dir: Path, percentage: str) -> None:
    command = (sys.executable, "-m", "subak", "flags", "set", "--percentage", percentage)
    subprocess.run(
        command, check=True, capture_output=True, timeout=30, env=child_environment(SUBAK_STATE_DIR=str(state_dir))
    )


def test_each_change_is_told_by_one_of_two_processes_and_never_again(store: FlagStore, tmp_path: Path) -> None:
    with closing(FlagStore.open(tmp_path, patience_s=1)) as other:
        set_percentage(store, 5)
        set_percentage(other, 25)
        assert [change.number for change in other.take_untold()] == [1, 2]
        assert store.take_untold() == []
        set_percentage(other, 50)
        assert [change.number for change in store.take_untold()] == [3]
    with closing(FlagStore.open(tmp_path, patience_s=1)) as restarted:
        assert restarted.take_untold() == []


ADDER: Final = """
import sys
from datetime import UTC, datetime
from pathlib import Path
import msgspec
from subak.admission.flag_store import FlagStore
from subak.core.flag_state import FlagDocument, RolloutConflict, aborted
from subak.core.rollout import STREAMING

def add_caller(document):
    allow = (*document.overrides.allow, f"user:{len(document.overrides.allow)}")
    return FlagDocument(msgspec.structs.replace(document.overrides, allow=allow))

store = FlagStore.open(Path(sys.argv[1]), patience_s=20)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(25):
    store.change(STREAMING, add_caller, actor="adder", now=datetime.now(UTC))
"""


def test_of_changes_by_two_processes_at_once_none_is_lost(store: FlagStore, tmp_path: Path) -> None:
    command = (sys.executable, "-c", ADDER, str(tmp_path))
    adders = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=child_environment())
        for _ in range(2)
    ]
    for adder in adders:
        assert adder.stdout is not None
        assert adder.stdout.readline() == b"ready\n"
    for adder in adders:
        assert adder.stdin is not None
        adder.stdin.write(b"go\n")
        adder.stdin.flush()
    for adder in adders:
        adder.communicate(timeout=30)
    assert [adder.returncode for adder in adders] == [0, 0]
    assert store.documents()[STREAMING].overrides.allow == tuple(f"user:{number}" for number in range(50))
    assert [change.number for change in store.history()] == list(range(50, 0, -1))


def test_while_another_process_writes_a_change_gives_up_and_readers_do_not(tmp_path: Path) -> None:
    with closing(FlagStore.open(tmp_path, patience_s=0)) as store, closing(sqlite3.connect(store.path)) as writer:
        set_percentage(store, 5)
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(FlagsBusy):
            set_percentage(store, 25)
        assert not store.has_news()
        assert store.documents()[STREAMING].overrides.percentage == 5
        writer.execute("ROLLBACK")
        assert set_percentage(store, 25).overrides.percentage == 25


def test_a_document_of_a_newer_version_is_not_guessed_at(store: FlagStore) -> None:
    with closing(sqlite3.connect(store.path)) as other:
        other.execute("""INSERT INTO flag VALUES ('ENABLE_SSE_STREAMING', '{"overrides": {"colour": "red"}}')""")
        other.commit()
    with pytest.raises(FlagsUnusable):
        store.documents()


def test_what_is_no_database_is_told_with_its_path(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("x" * 4096, encoding="utf-8")
    with pytest.raises(StateError, match=rf"{FILE_NAME}: file is not a database. Restore it"):
        FlagStore.open(tmp_path, patience_s=0)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as newer:
        newer.execute("PRAGMA user_version = 99")
    with pytest.raises(StateError, match="newer version of Subak"):
        FlagStore.open(tmp_path, patience_s=0)


def test_a_directory_that_can_not_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="SUBAK_STATE_DIR"):
        FlagStore.open(tmp_path / "file" / "state", patience_s=0)


def test_looking_makes_nothing(tmp_path: Path) -> None:
    with closing(FlagStore.peek(tmp_path, patience_s=0)) as store:
        assert store.documents() == {}
        assert store.history() == []
    assert list(tmp_path.iterdir()) == []


def test_a_back_up_that_was_put_in_its_place_is_noticed(store: FlagStore, tmp_path: Path) -> None:
    assert not store.is_replaced()
    (tmp_path / "back-up").mkdir()
    FlagStore.open(tmp_path / "back-up", patience_s=1).close()
    (tmp_path / "back-up" / FILE_NAME).replace(store.path)
    assert store.is_replaced()


WRITER: Final = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from subak.admission.flag_store import FlagStore
from subak.core.flag_state import FlagDocument, RolloutConflict, aborted
from subak.core.rollout import STREAMING, Overrides

store = FlagStore.open(Path(sys.argv[1]), patience_s=20)
number = 0
while True:
    number += 1
    wanted = Overrides(percentage=float(number % 100), allow=(f"user:{number % 100}",) * 50)
    store.change(STREAMING, lambda _: FlagDocument(wanted), actor="writer", now=datetime.now(UTC))
    print(number, flush=True)
"""


@pytest.mark.parametrize("killed_after", range(runs(fast=2, default=4, soak=100)))
def test_a_writer_that_is_killed_leaves_a_whole_state(tmp_path: Path, killed_after: int) -> None:
    writer = subprocess.Popen(
        (sys.executable, "-c", WRITER, str(tmp_path)), stdout=subprocess.PIPE, env=child_environment()
    )
    with writer, closing(FlagStore.open(tmp_path, patience_s=20)) as store:
        assert writer.stdout is not None
        for _ in range(1 + killed_after * 7):
            assert writer.stdout.readline()
        writer.kill()
        writer.wait(30)
        overrides = store.documents()[STREAMING].overrides
        newest = store.history(limit=1)[0]
        assert overrides.allow == (f"user:{overrides.percentage:.0f}",) * 50
        assert f'"percentage":{overrides.percentage}' in newest.changed_to
        assert set_percentage(store, 33.3).overrides.percentage == 33.3


def test_a_fresh_directory_and_one_whose_flags_were_never_set_have_lost_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        with closing(FlagStore.open(tmp_path, patience_s=1)) as store:
            store.check()
            store.change(STREAMING, lambda document: document, actor="admin", now=NOW)
    (tmp_path / FILE_NAME).unlink()
    with closing(FlagStore.open(tmp_path, patience_s=1)) as store:
        store.check()


@pytest.mark.parametrize("content", [None, b""])
def test_flags_that_were_set_and_are_gone_are_not_taken_for_everybody(tmp_path: Path, content: bytes | None) -> None:
    with closing(FlagStore.open(tmp_path, patience_s=1)) as store:
        set_percentage(store, 5)
    (tmp_path / FILE_NAME).unlink()
    if content is not None:
        (tmp_path / FILE_NAME).write_bytes(content)
    for way in (FlagStore.peek, FlagStore.open):
        with (
            closing(way(tmp_path, patience_s=1)) as store,
            pytest.raises(StateError, match=r"flags\.db: flags were set here .* are lost\. Restore it"),
        ):
            store.check()


def test_flags_of_before_the_sign_are_known_once_they_were_read(tmp_path: Path) -> None:
    with closing(FlagStore.open(tmp_path, patience_s=1)) as store:
        set_percentage(store, 5)
        (tmp_path / SIGN_NAME).unlink()
        store.check()
    assert (tmp_path / SIGN_NAME).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("percentage", [None, 5.0])
def test_what_is_said_anew_of_lost_flags_holds(tmp_path: Path, percentage: float | None) -> None:
    (tmp_path / SIGN_NAME).touch()
    anew = FlagDocument(Overrides(percentage=percentage))
    with closing(FlagStore.open(tmp_path, patience_s=1)) as store:
        with pytest.raises(RolloutConflict):
            store.change(STREAMING, lambda document: aborted(document, NOW), actor="admin", now=NOW)
        with pytest.raises(StateError):
            store.check()
        store.change(STREAMING, lambda _: anew, actor="admin", now=NOW)
        store.check()
        assert [change.actor for change in store.history()] == ["admin"]
