"""`subak audit` where no gateway runs: what it finds, proves, changes and puts back, and what it refuses."""

import json
import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from subak.audit.anchors import append_anchor
from subak.audit.opening import open_sqlite, open_writer
from subak.audit.records import Subject
from subak.audit.sqlite import SqliteStore
from subak.audit.sqlite_files import WriterLock
from subak.audit.writer import LogWriter
from subak.clocks import SystemClock
from subak.state import load_secret
from subak.testing import FakeClock
from tests.audit import ADDRESS, EMAIL, end_of, start_of, violation_of
from tests.trail import assert_verifies, entries_of
from tests.unit.cli.conftest import Run

ANN = Subject("principal", "user:ann")
BOB = Subject("principal", "user:bob")
STREAMS = [f"st_{number:028}" for number in range(6)]


class Log:
    """A log in the state directory of the command, with the checkpoints that left it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.anchors = folder.parent / "anchors"
        self.vkey = ""

    def open(self, clock: FakeClock | SystemClock | None = None) -> LogWriter:
        """Open it as a gateway would."""
        writer = open_writer(
            self.folder,
            clock or SystemClock(),
            open_store=open_sqlite(self.folder),
            digest_secret=load_secret(self.folder),
            publish=lambda note: append_anchor(self.anchors, note),
            on_keys_created=lambda _path, _vkey: None,
        )
        self.vkey = str(writer.keys.first_vkey)
        return writer

    def write(self) -> None:
        """Write three streams of each of two people, and a violation of each."""
        with closing(self.open()) as writer:
            for number, stream_id in enumerate(STREAMS):
                writer.write(start_of(ANN if number % 2 else BOB, stream_id))
                writer.write(end_of(stream_id))
            writer.write(violation_of(ANN))
            writer.write(violation_of(BOB, "2001:db8::7"))
            writer.seal()


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """A log of fifteen rows."""
    log = Log(tmp_path / ".subak")
    log.write()
    return log


def found(run: Run, *arguments: str) -> list[dict[str, object]]:
    """Give the rows that a search finds."""
    result = run("audit", "search", "--json", "--oldest-first", *arguments)
    assert result.exit_code == 0, result.output
    rows: list[dict[str, object]] = json.loads(result.stdout)["rows"]
    return rows


def seqs(run: Run, *arguments: str) -> list[object]:
    """Give the places of the rows that a search finds."""
    return [row["seq"] for row in found(run, *arguments)]


@pytest.mark.usefixtures("log")
def test_rows_are_found_by_operation_outcome_and_stream(run: Run) -> None:
    assert seqs(run, "--operation", "stream.start") == [1, 3, 5, 7, 9, 11]
    assert seqs(run, "--operation", "stream.chat") == list(range(1, 13))
    assert seqs(run, "--operation", "stream.*", "--outcome", "stop") == [2, 4, 6, 8, 10, 12]
    assert seqs(run, "--operation", "security.rate_limit_violation") == [13, 14]
    assert seqs(run, "--operation", "auth.auth_failure") == []
    assert seqs(run, "--stream", STREAMS[2]) == [5, 6]
    (name,) = {row["stream"] for row in found(run, "--stream", STREAMS[2])}
    assert seqs(run, "--stream", str(name)) == [5, 6]


@pytest.mark.usefixtures("log")
def test_rows_are_found_by_time(run: Run) -> None:
    assert len(seqs(run, "--since", "1h")) == 15
    assert seqs(run, "--until", "1h") == []
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    assert seqs(run, "--since", tomorrow) == []
    assert len(seqs(run, "--until", tomorrow)) == 15
    assert run("audit", "search", "--since", "yesterday").exit_code == 2


@pytest.mark.usefixtures("log")
def test_people_and_addresses_are_found_by_their_names_which_no_row_holds(run: Run) -> None:
    assert seqs(run, "--subject", "user:ann") == [3, 7, 11, 13]
    assert seqs(run, "--address", ADDRESS) == [13]
    assert seqs(run, "--address", "2001:0DB8:0:0::7") == [14]
    assert seqs(run, "--subject", "user:nobody") == []
    assert run("audit", "search", "--address", "somewhere").exit_code == 2


def test_who_looked_for_a_person_is_recorded_before_anything_is_shown(run: Run, log: Log) -> None:
    assert seqs(run, "--operation", "stream.*")
    assert entries_of(log.folder, "admin.action") == []
    result = run("audit", "search", "--subject", "user:ann")
    assert "no gateway writes the log: done here" in result.stderr
    (looked,) = entries_of(log.folder, "admin.action")
    assert (looked.said["action"], looked.said["count"]) == ("audit/search", 4)
    assert looked.personal is not None
    assert looked.personal.subject.startswith("cli:")


@pytest.mark.usefixtures("log")
def test_what_is_said_about_people_is_shown_to_who_asks_for_it(run: Run) -> None:
    plain = run("audit", "search", "--subject", "user:ann", "--json").stdout
    assert EMAIL not in plain
    assert "user:ann" not in plain
    shown = found(run, "--stream", STREAMS[1], "--show-personal")
    personal = shown[0]["personal"]
    assert isinstance(personal, dict)
    assert (personal["subject"], personal["email"]) == ("user:ann", EMAIL)
    text = run("audit", "search", "--operation", "security.*", "--show-personal").stdout
    assert ADDRESS in text


@pytest.mark.usefixtures("log")
def test_pages_follow_each_other(run: Run) -> None:
    first = json.loads(run("audit", "search", "--json", "--limit", "10").stdout)
    assert [row["seq"] for row in first["rows"]] == list(range(14, 4, -1))
    rest = json.loads(run("audit", "search", "--json", "--after", str(first["next"])).stdout)
    assert ([row["seq"] for row in rest["rows"]], rest["next"]) == ([4, 3, 2, 1, 0], None)
    result = run("audit", "search", "--limit", "2")
    assert len(result.stdout.splitlines()) == 2
    assert "--after 13" in result.stderr


@pytest.mark.usefixtures("log")
def test_an_unknown_operation_is_told_with_those_there_are(run: Run) -> None:
    result = run("audit", "search", "--operation", "stream.begin")
    assert result.exit_code == 2
    assert "stream.start" in result.stderr


def test_a_whole_log_verifies(run: Run, log: Log) -> None:
    result = run("audit", "verify", "--vkey", log.vkey, "--anchor", str(log.anchors), "--with-keys")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "whole; rows 0 to 14" in result.stdout
    told = json.loads(run("audit", "verify", "--json").stdout)
    assert (told["ok"], told["size"], told["findings"]) == (True, 15, [])
    assert {one["doubt"] for one in told["warnings"]} == {"no_anchor", "key_not_pinned"}


def test_a_log_that_was_tampered_with_doesnt(run: Run, log: Log) -> None:
    with closing(sqlite3.connect(log.folder / "audit.db")) as connection, connection:
        connection.execute("UPDATE audit_event SET core = replace(core, 'stop', 'nope') WHERE seq = 2")
    result = run("audit", "verify")
    assert result.exit_code == 1
    assert "rows aren't the ones that were sealed" in result.stdout
    assert "TAMPERED WITH" in result.stdout
    told = json.loads(run("audit", "verify", "--json").stdout)
    assert (told["ok"], "root_mismatch" in {one["flaw"] for one in told["findings"]}) == (False, True)


def test_the_gateways_own_anchor_file_is_taken_by_itself(run: Run, log: Log) -> None:
    result = run("audit", "verify", SUBAK_AUDIT__ANCHOR_FILE=str(log.anchors))
    assert "no anchor" not in result.stderr
    (log.folder / "audit.db").unlink()
    (log.folder / "audit.keys").rename(log.folder / "kept")
    log.open().close()
    forked = run("audit", "verify", SUBAK_AUDIT__ANCHOR_FILE=str(log.anchors))
    assert forked.exit_code == 1


def test_the_first_key_still_verifies_after_a_rotation(run: Run, log: Log) -> None:
    for _ in range(2):
        assert run("audit", "rotate-key").exit_code == 0
    result = run("audit", "verify", "--vkey", log.vkey, "--with-keys")
    assert result.exit_code == 0, result.output
    rotated = json.loads(run("audit", "rotate-key", "--json").stdout)["vkey"]
    assert run("audit", "verify", "--vkey", rotated).exit_code == 1


def test_a_proof_checks_and_a_changed_one_doesnt(run: Run, log: Log, tmp_path: Path) -> None:
    assert run("audit", "prove", "5", "--out", "proof.json").exit_code == 0
    path = tmp_path / "proof.json"
    assert path.stat().st_mode & 0o777 == 0o600
    result = run("audit", "check-proof", "proof.json", "--vkey", log.vkey, "--anchor", str(log.anchors))
    assert (result.exit_code, result.stderr) == (0, "")
    assert "Row 5 stands in" in result.stdout
    told = json.loads(run("audit", "check-proof", "proof.json", "--json").stdout)
    assert (told["seq"], told["is_pinned"], told["is_published"]) == (5, False, False)
    assert told["core"]["op"] == "stream.start"
    path.write_text(path.read_text(encoding="utf-8").replace("POST", "GET"), encoding="utf-8")
    assert run("audit", "check-proof", "proof.json", "--vkey", log.vkey).exit_code == 1
    path.write_text("no proof", encoding="utf-8")
    assert run("audit", "check-proof", "proof.json", "--vkey", log.vkey).exit_code == 1
    assert run("audit", "check-proof", "elsewhere.json", "--vkey", log.vkey).exit_code == 2
    assert run("audit", "prove", "99").exit_code == 1


def test_an_access_request_is_answered_and_recorded(run: Run, log: Log) -> None:
    result = run("audit", "export", "--subject", "user:ann", "--why", "a request of 3 March")
    rows = json.loads(result.stdout)["rows"]
    assert [row["seq"] for row in rows] == [3, 7, 11, 13]
    assert {row["personal"]["subject"] for row in rows} == {"user:ann"}
    assert rows[0]["core"]["op"] == "stream.start"
    (exported,) = entries_of(log.folder, "gdpr.export")
    assert exported.said == {"rows": 4, "why": "a request of 3 March"}
    assert run("audit", "export", "--subject", "user:ann", "--why", "a\nb").exit_code == 2


@pytest.mark.usefixtures("log")
def test_an_erasure_asks_first_and_leaves_nothing(run: Run) -> None:
    unsure = run("audit", "erase", "--subject", "user:ann")
    assert unsure.exit_code == 2
    assert "--yes" in unsure.stderr
    assert run("audit", "erase", "--yes").exit_code == 2
    result = run("audit", "erase", "--subject", "user:ann", "--yes")
    assert result.stdout == "4 rows lost their personal part.\n"
    assert json.loads(run("audit", "export", "--subject", "user:ann").stdout)["rows"] == []
    assert seqs(run, "--subject", "user:ann") == []
    assert len(seqs(run, "--subject", "user:bob")) == 4
    again = json.loads(run("audit", "erase", "--subject", "user:ann", "--yes", "--json").stdout)
    assert again["rows"] == 0
    assert run("audit", "verify", "--with-keys").exit_code == 0


def test_evidence_is_kept_with_a_reason_and_one_stream_is_erased_alone(run: Run, log: Log) -> None:
    result = run("audit", "erase", "--stream", STREAMS[0], "--yes", "--json")
    assert json.loads(result.stdout)["rows"] == 1
    because = ("--keep-evidence-because", "an attack is looked into")
    assert json.loads(run("audit", "erase", "--subject", "user:ann", *because, "--yes", "--json").stdout)["rows"] == 3
    assert seqs(run, "--subject", "user:ann") == [13]
    assert_verifies(log.folder)


def test_a_hold_keeps_everything_until_it_is_lifted(run: Run, log: Log) -> None:
    held = json.loads(run("audit", "hold", "add", "--until", "30d", "--why", "a dispute", "--json").stdout)["seq"]
    assert "a dispute" in run("audit", "hold", "list").stdout
    for arguments in (("erase", "--subject", "user:ann", "--yes"), ("prune",), ("prune", "--dry-run")):
        result = run("audit", *arguments)
        assert result.exit_code == 1
        assert "a dispute" in result.output
    assert run("audit", "hold", "release", "1", "--why", "over").exit_code == 2
    assert run("audit", "hold", "release", str(held), "--why", "over").exit_code == 0
    assert json.loads(run("audit", "hold", "list", "--json").stdout) == []
    assert run("audit", "erase", "--subject", "user:ann", "--yes").exit_code == 0
    assert run("audit", "hold", "add", "--until", "2020-01-01", "--why", "late").exit_code == 2
    assert_verifies(log.folder)


def test_a_dry_run_deletes_nothing_and_the_real_one_does_what_it_said(run: Run, tmp_path: Path) -> None:
    log = Log(tmp_path / ".subak")
    clock = FakeClock(time_ms=SystemClock.time_ms() - 100 * 86_400_000)
    with closing(log.open(clock)) as writer:
        for stream_id in STREAMS:
            writer.write(start_of(ANN, stream_id))
            clock.advance(1)
            writer.seal()
    log.write()
    told = json.loads(run("audit", "prune", "--dry-run", "--json").stdout)
    assert (told["is_dry_run"], told["rows"]) == (True, 6)
    done = json.loads(run("audit", "prune", "--json").stdout)
    assert (done["rows"], done["size"]) == (told["rows"], told["size"])
    (who,) = entries_of(log.folder, "admin.action")
    assert who.said["action"] == "audit/prune"
    assert run("audit", "verify", "--vkey", log.vkey).exit_code == 0


def test_a_checkpoint_is_an_anchor(run: Run, log: Log, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text(run("audit", "checkpoint").stdout, encoding="utf-8")
    result = run("audit", "verify", "--vkey", log.vkey, "--anchor", "mine")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "1 anchors" in result.stdout


def test_a_copy_is_whole_though_the_log_was_sealed_again_since(
    run: Run, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUBAK_AUDIT__ANCHOR_FILE", str(tmp_path / "anchors"))
    assert run("audit", "backup", "copy.db").exit_code == 0
    run("audit", "erase", "--subject", "user:ann", "--yes")
    (tmp_path / "anchors").write_text(run("audit", "checkpoint").stdout, encoding="utf-8")
    assert run("audit", "verify", "--vkey", log.vkey, "--log", "copy.db").exit_code == 0
    assert run("audit", "verify", "--vkey", log.vkey, "--log", "copy.db", "--anchor", "anchors").exit_code == 1
    assert "1 anchors" in run("audit", "verify", "--vkey", log.vkey).stdout


def test_a_back_up_is_recorded_before_it_is_made(run: Run, log: Log) -> None:
    told = json.loads(run("audit", "backup", "copy.db", "--json").stdout)
    assert (told["rows"], told["recorded"]) == (16, True)
    assert run("audit", "backup", "other.db", "--keys", "keys").exit_code == 0
    entries = entries_of(log.folder, "log.backup")
    assert [entry.said for entry in entries] == [{"size": 15, "mode": "log"}, {"size": 16, "mode": "log_and_keys"}]
    assert "log.backup" in run("audit", "search", "--log", "copy.db").stdout
    assert run("audit", "verify", "--vkey", log.vkey).exit_code == 0


def test_a_back_up_that_can_not_be_recorded_is_made_without_the_keys_alone(
    run: Run, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUBAK_ADMIN__ENABLED", "false")
    with closing(WriterLock(log.folder / "audit.db.lock")):
        result = run("audit", "backup", "copy.db")
        assert result.exit_code == 0
        assert "isn't recorded in the log: A gateway writes the log" in result.stderr
        assert run("audit", "backup", "other.db", "--keys", "keys").exit_code == 2
    assert Path("copy.db").exists()
    assert not Path("other.db").exists()
    assert not Path("keys").exists()


def test_an_old_copy_put_back_forgets_again_and_says_so(run: Run, log: Log) -> None:
    assert run("audit", "backup", "copy.db").exit_code == 0
    assert run("audit", "verify", "--log", "copy.db").exit_code == 0
    assert run("audit", "backup", "copy.db").exit_code == 2
    run("audit", "erase", "--subject", "user:ann", "--yes")
    assert run("audit", "restore", "copy.db").exit_code == 2
    told = json.loads(run("audit", "restore", "copy.db", "--why", "the disk failed", "--yes", "--json").stdout)
    assert (told["seq"], told["erased_again"], told["knows_all_erasures"]) == (16, 4, True)
    assert told["lost_rows"] > 0
    assert Path(told["replaced"]).exists()
    assert json.loads(run("audit", "export", "--subject", "user:ann").stdout)["rows"] == []
    assert len(seqs(run, "--subject", "user:bob")) == 4
    result = run("audit", "verify", "--vkey", log.vkey, "--anchor", str(log.anchors), "--with-keys")
    assert result.exit_code == 0, result.output
    assert "put back from a back-up" in result.stderr
    assert entries_of(log.folder, "log.restore")[0].said["why"] == "the disk failed"


def test_a_lost_machine_comes_back_from_the_copies_of_log_and_keys(run: Run, log: Log, tmp_path: Path) -> None:
    assert run("audit", "backup", "copy.db", "--keys", "keys").exit_code == 0
    log.folder.rename(tmp_path / "lost")
    assert run("audit", "restore", "copy.db", "--yes").exit_code == 2
    options = ("--keys", "keys", "--anchor", str(log.anchors), "--yes")
    result = run("audit", "restore", "copy.db", *options)
    assert result.exit_code == 0, result.output
    assert "register of requests" in result.stderr
    assert len(seqs(run, "--subject", "user:ann")) == 4
    assert seqs(run, "--stream", STREAMS[2]) == [5, 6]
    assert run("audit", "verify", "--vkey", log.vkey, "--anchor", str(log.anchors), "--with-keys").exit_code == 0


def test_a_store_put_back_by_other_means_says_so(run: Run, log: Log) -> None:
    file = log.folder / "audit.db"
    snapshot = file.read_bytes()
    run("audit", "erase", "--subject", "user:ann", "--yes", SUBAK_AUDIT__ANCHOR_FILE=str(log.anchors))
    for path in log.folder.glob("audit.db-*"):
        path.unlink()
    file.write_bytes(snapshot)
    assert run("audit", "verify", "--anchor", str(log.anchors)).exit_code == 1
    told = json.loads(run("audit", "restore", "--anchor", str(log.anchors), "--yes", "--json").stdout)
    assert (told["erased_again"], told["lost_rows"] > 0, told["replaced"]) == (4, True, None)
    assert run("audit", "verify", "--anchor", str(log.anchors), "--with-keys").exit_code == 0


def test_what_cannot_be_put_back_replaces_nothing(run: Run, log: Log, tmp_path: Path) -> None:
    run("audit", "backup", "old.db")
    (tmp_path / "broken.db").write_bytes(b"x" * 4096)
    run("audit", "backup", "changed.db")
    with closing(sqlite3.connect(tmp_path / "changed.db")) as connection, connection:
        connection.execute("DELETE FROM audit_event WHERE seq = 4")
    other = Log(tmp_path / "other")
    other.write()
    run("audit", "backup", "other.db", SUBAK_STATE_DIR="other")
    run("audit", "rotate-key")
    before = (log.folder / "audit.db").read_bytes()
    for name, said, code in (
        ("broken.db", "not a database", 1),
        ("changed.db", "isn't whole", 1),
        ("other.db", "the keys belong to", 1),
        ("old.db", "sealing key was changed", 2),
        ("none.db", "there is no audit log", 2),
    ):
        result = run("audit", "restore", name, "--yes")
        assert (result.exit_code, said in result.stderr) == (code, True), result.output
    assert (log.folder / "audit.db").read_bytes() == before
    assert_verifies(log.folder)


EVERY_COMMAND = (
    ("search",),
    ("verify",),
    ("prove", "1"),
    ("export", "--subject", "user:ann"),
    ("erase", "--subject", "user:ann", "--yes"),
    ("hold", "list"),
    ("prune",),
    ("prune", "--dry-run"),
    ("rotate-key",),
    ("checkpoint",),
    ("backup", "copy.db"),
    ("restore", "--yes"),
)


@pytest.mark.parametrize("command", EVERY_COMMAND, ids=" ".join)
def test_a_wrong_directory_is_told_and_nothing_is_made_there(
    run: Run, tmp_path: Path, command: tuple[str, ...]
) -> None:
    result = run("audit", *command, SUBAK_STATE_DIR="nowhere")
    assert result.exit_code == 2
    assert "SUBAK_STATE_DIR" in result.stderr
    assert not (tmp_path / "nowhere").exists()


def test_without_keys_the_log_is_still_searched_verified_and_proven(run: Run, log: Log) -> None:
    (log.folder / "audit.keys").unlink()
    assert len(seqs(run)) == 15
    assert run("audit", "prove", "3").exit_code == 0
    assert run("audit", "verify", "--vkey", log.vkey).exit_code == 0
    for command in (("verify",), ("search", "--subject", "user:ann"), ("checkpoint",)):
        result = run("audit", *command)
        assert result.exit_code == 2
        assert "audit.keys: there is no key file" in result.stderr
    assert not (log.folder / "audit.keys").exists()


def test_a_damaged_file_is_told(run: Run, log: Log) -> None:
    (log.folder / "audit.db").write_bytes(b"\x00" * 8192)
    assert run("audit", "verify", "--vkey", log.vkey).exit_code == 1
    result = run("audit", "search", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["ok"] is False
    assert "back-up" in json.loads(result.stdout)["message"]


def test_readable_keys_of_others_and_wrong_ones_are_refused(run: Run, log: Log, tmp_path: Path) -> None:
    (log.folder / "audit.keys").chmod(0o644)
    result = run("audit", "search", "--subject", "user:ann")
    assert (result.exit_code, "chmod 600" in result.stderr) == (2, True)
    Log(tmp_path / "other").write()
    (log.folder / "audit.keys").unlink()
    (tmp_path / "other" / "audit.keys").rename(log.folder / "audit.keys")
    result = run("audit", "search", "--subject", "user:ann")
    assert (result.exit_code, "belong to the log" in result.stderr) == (2, True)


@pytest.mark.usefixtures("log")
def test_anchors_and_keys_that_are_none_are_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("", encoding="utf-8")
    for arguments in (("--anchor", "empty"), ("--anchor", "none"), ("--vkey", "abc")):
        assert run("audit", "verify", *arguments).exit_code == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a directory away")
def test_root_makes_no_files_in_the_directory_of_the_gateways_account(run: Run, log: Log) -> None:
    run("audit", "backup", "copy.db")
    os.chown(log.folder, 4711, 4711)
    for command in (("rotate-key",), ("search", "--subject", "user:ann"), ("restore", "copy.db", "--yes")):
        result = run("audit", *command)
        assert (result.exit_code, "belongs to uid 4711" in result.stderr) == (2, True)
    assert len(seqs(run)) == 16
    assert list(log.folder.glob("*.replaced-*")) == []


def test_a_writer_that_is_no_gateway_is_told_of(run: Run, log: Log) -> None:
    origin = json.loads(run("audit", "verify", "--json").stdout)["origin"]
    token = {"SUBAK_ADMIN__TOKEN": "an-admin-token-of-32-characters-x", "SUBAK_ADMIN__PORT": "9"}
    with closing(SqliteStore(log.folder / "audit.db", origin)):
        result = run("audit", "checkpoint", **token)
        assert result.exit_code == 2
        assert "another process writes this audit log" in result.stderr
        assert "No gateway could be asked at http://127.0.0.1:9" in result.stderr
        assert "turn it on" in run("audit", "checkpoint", **token, SUBAK_ADMIN__ENABLED="false").stderr
        assert "--gateway" in run("audit", "checkpoint", SUBAK_ADMIN__PORT="0").stderr
        assert "admin.token" in run("audit", "checkpoint").stderr
        assert "another process" in run("audit", "restore", "--yes", **token).stderr
        assert len(seqs(run)) == 15
        assert run("audit", "verify").exit_code == 0
