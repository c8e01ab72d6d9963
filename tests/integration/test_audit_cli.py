"""`subak audit` beside a running gateway: it looks by itself, and has the gateway do what changes the log."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from click.testing import CliRunner

from subak.audit.keys import load_keys
from subak.audit.records import Subject
from subak.audit.rows import Finder, Pseudonyms
from subak.audit.subjects import SUBJECT_FOLDER, SubjectKeyReader
from subak.cli import cli
from subak.core.facts import CheckpointSealed
from subak.state import load_secret
from tests.audit import holding
from tests.integration.gateway import ONE_LOOP, Running, get, process, question_url, running, scripted
from tests.integration.test_audit_trail import AUDITED, EMAIL, QUESTION, audited, bearer
from tests.postgres import Postgres, postgres
from tests.trail import assert_verifies, entries_of, trail_of

pytestmark = ONE_LOOP

ANN: Final = "user:ann"
LOOKS: Final = 2


class Ran(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> dict[str, object]:
        """What it printed as JSON, having done what it was told."""
        assert self.code == 0, self.out + self.err
        found: dict[str, object] = json.loads(self.out)
        return found


async def subak(gateway: Running, *arguments: str, **environment: str) -> Ran:
    """Run `subak audit …` on the gateway's state directory, on a thread of this process."""
    return await run_here(*arguments, **(variables_of(gateway) | environment))


async def subak_apart(gateway: Running, *arguments: str) -> Ran:
    """Run it as a process of its own."""
    async with process("audit", *arguments, **variables_of(gateway)) as started:
        return Ran(*await started.ended())


async def run_here(*arguments: str, **environment: str) -> Ran:
    result = await asyncio.to_thread(CliRunner().invoke, cli, ["audit", *arguments], env=environment, prog_name="subak")
    return Ran(result.exit_code, result.stdout, result.stderr)


def variables_of(gateway: Running) -> dict[str, str]:
    return {"SUBAK_STATE_DIR": str(gateway.gateway.settings.state_dir), "SUBAK_ADMIN__PORT": port_of(gateway)}


def port_of(gateway: Running) -> str:
    """Give the port for operators."""
    return gateway.gateway.admin_url.rpartition(":")[2]


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Running]:
    """A gateway that has answered two questions of Ann and one of Bob, all of it sealed."""
    async with scripted() as upstream, audited(upstream, tmp_path / "state") as gateway:
        await ask_as(gateway, "ann", "ann", "bob")
        await subak(gateway, "checkpoint")
        yield gateway


async def ask_as(gateway: Running, *users: str) -> None:
    """Ask a question as each of these users."""
    for user in users:
        answer = await get(gateway, question_url(QUESTION), **bearer(user, email=EMAIL))
        assert answer.status == HTTPStatus.OK


async def test_what_changes_the_log_is_done_by_the_gateway_and_said_so(gateway: Running) -> None:
    by = f"carried out by the gateway at {gateway.gateway.admin_url}"
    held = (await subak(gateway, "hold", "add", "--until", "1d", "--why", "a dispute", "--json")).told
    assert held["by"] == by
    refused = await subak(gateway, "erase", "--subject", ANN, "--yes")
    assert (refused.code, "a dispute" in refused.err) == (1, True)
    assert (await subak(gateway, "prune")).code == 1
    assert "a dispute" in (await subak(gateway, "hold", "list")).out
    released = await subak(gateway, "hold", "release", str(held["seq"]), "--why", "over")
    assert (released.code, by in released.err) == (0, True)
    assert (await subak(gateway, "erase", "--subject", ANN, "--yes", "--json")).told["rows"] == 5
    assert (await subak(gateway, "prune", "--json")).told["rows"] == 0
    rotated = (await subak(gateway, "rotate-key", "--json")).told
    assert str(rotated["vkey"]).startswith(load_keys(gateway.gateway.settings.state_dir).origin)
    vkey = str(load_keys(gateway.gateway.settings.state_dir).first_vkey)
    verified = await subak(gateway, "verify", "--vkey", vkey, "--with-keys")
    assert verified.code == 0, verified
    entries = entries_of(gateway.gateway.settings.state_dir, "admin.action")
    assert {entry.personal and entry.personal.subject.startswith("cli.") for entry in entries} == {True}


async def test_who_looks_for_a_person_is_recorded_by_the_gateway(gateway: Running) -> None:
    found = await subak(gateway, "search", "--subject", ANN, "--json")
    assert len(found.told["rows"]) == 5  # type: ignore[arg-type]  # a list
    assert "carried out by the gateway" in found.err
    exported = await subak(gateway, "export", "--subject", ANN)
    assert len(exported.told["rows"]) == 5  # type: ignore[arg-type]  # a list
    state_dir = gateway.gateway.settings.state_dir
    assert entries_of(state_dir, "gdpr.export")[0].said == {"rows": 5}
    assert {"action": "audit/search", "count": 5} in [entry.said for entry in entries_of(state_dir, "admin.action")]


async def test_nothing_is_shown_that_cant_be_recorded(gateway: Running) -> None:
    for arguments in (("search", "--subject", ANN, "--show-personal"), ("export", "--subject", ANN)):
        refused = await subak(gateway, *arguments, SUBAK_ADMIN__PORT="9")
        assert (refused.code, refused.out) == (2, "")
        assert "No gateway could be asked" in refused.err


async def test_a_question_that_somebody_shows_is_confirmed_or_not_and_that_is_recorded(
    gateway: Running, tmp_path: Path
) -> None:
    state_dir = gateway.gateway.settings.state_dir
    operations = [row.operation for row in trail_of(state_dir)]
    start, end = operations.index("stream.start"), operations.index("stream.end")
    path = tmp_path / "question.txt"
    for text, code in ((QUESTION, 0), (f"{QUESTION}\n", 0), (f"{QUESTION}!", 1)):
        path.write_text(text)
        told = await subak(gateway, "confirm", str(start), str(path), "--json")
        assert (told.code, json.loads(told.out)) == (code, {"ok": True, "seq": start, "is_question": code == 0})
    recorded = [entry.said for entry in entries_of(state_dir, "admin.action")]
    assert recorded.count({"action": "audit/search", "count": 1}) == 3
    assert "tells of no question" in (await subak(gateway, "confirm", str(end), str(path))).err
    for nowhere in ("100000", "99999999999999999999"):
        missing = await subak(gateway, "confirm", nowhere, str(path))
        assert (missing.code, f"There is no row {nowhere}" in missing.err) == (1, True)
    await subak(gateway, "erase", "--subject", ANN, "--yes")
    erased = await subak(gateway, "confirm", str(start), str(path))
    assert (erased.code, "no longer does" in erased.err) == (1, True)
    path.write_bytes(b"\xff")
    assert (await subak(gateway, "confirm", str(start), str(path))).code == 2


async def test_it_looks_and_verifies_while_answers_are_recorded(gateway: Running) -> None:
    """Each time the log is whole, and not behind what was published before it was opened."""
    state_dir = gateway.gateway.settings.state_dir
    anchors = state_dir / "anchors"

    async def load() -> None:
        while True:
            await asyncio.gather(*[ask_as(gateway, f"user-{number}") for number in range(8)])

    loading = asyncio.get_running_loop().create_task(load())
    try:
        for _ in range(LOOKS):
            anchors.write_text("\n".join(fact.note for fact in gateway.observer.of(CheckpointSealed)) + "\n")
            verified = (await subak_apart(gateway, "verify", "--anchor", str(anchors), "--with-keys", "--json")).told
            assert (verified["ok"], verified["findings"]) == (True, [])
            page = (await subak_apart(gateway, "search", "--operation", "stream.*", "--limit", "5", "--json")).told
            assert len(page["rows"]) == 5  # type: ignore[arg-type]  # a list
    finally:
        loading.cancel()
        await asyncio.wait([loading])
    assert len(entries_of(state_dir, "stream.start")) > 3


async def test_a_proof_of_a_live_log_checks_elsewhere(gateway: Running, tmp_path: Path) -> None:
    path = tmp_path / "proof.json"
    assert (await subak(gateway, "prove", "3", "--out", str(path))).code == 0
    vkey = str(load_keys(gateway.gateway.settings.state_dir).first_vkey)
    anchors = tmp_path / "anchors"
    anchors.write_text("\n".join(fact.note for fact in gateway.observer.of(CheckpointSealed)) + "\n")
    options = ("--vkey", vkey, "--anchor", str(anchors))
    elsewhere = {"SUBAK_STATE_DIR": str(tmp_path / "nowhere")}
    checked = await subak(gateway, "check-proof", str(path), *options, **elsewhere)
    assert (checked.code, checked.err) == (0, ""), checked
    path.write_text(path.read_text().replace('"seq": 3', '"seq": 4'))
    assert (await subak(gateway, "check-proof", str(path), *options, **elsewhere)).code == 1


async def test_a_running_gateway_records_a_back_up_that_is_made_beside_it(gateway: Running, tmp_path: Path) -> None:
    copied = await subak(gateway, "backup", str(tmp_path / "copy.db"))
    assert copied.code == 0, copied
    assert "carried out by the gateway" in copied.err
    [row] = json.loads((await subak(gateway, "search", "--operation", "log.backup", "--json")).out)["rows"]
    assert row["core"]["mode"] == "log"
    assert 0 < row["core"]["size"] <= row["seq"]  # others may be recorded in between


async def test_nothing_of_an_erased_person_is_in_any_file_copy_or_export(tmp_path: Path) -> None:
    """The canary's pseudonyms, ciphertexts and clear data are looked for in all bytes there are."""
    state_dir = tmp_path / "state"
    async with scripted() as upstream, audited(upstream, state_dir) as gateway:
        await ask_as(gateway, "ann", "bob", "ann")
        await subak(gateway, "checkpoint")
        before = tmp_path / "before.db"
        assert (await subak(gateway, "backup", str(before))).code == 0
        needles = [*traces_of(state_dir, ANN), EMAIL.encode(), QUESTION.encode()]
        assert {needle for _, needle in holding(files_of(state_dir), needles)} == set(needles[:-2])
        assert (await subak(gateway, "erase", "--subject", ANN, "--yes", "--json")).told["is_scrubbed"] is True
        assert list(holding(files_of(state_dir), needles)) == []
        after, keys = tmp_path / "after.db", tmp_path / "keys"
        assert (await subak(gateway, "backup", str(after), "--keys", str(keys))).code == 0
        assert list(holding([after, *files_of(keys)], needles)) == []
        exported = tmp_path / "export.json"
        assert (await subak(gateway, "export", "--subject", ANN, "--out", str(exported))).code == 0
        assert json.loads(exported.read_text())["rows"] == []
        logged = (await subak(gateway, "search", "--limit", "1000", "--json")).out
        assert list(holding([exported], needles)) == []
        assert not any(needle.hex() in logged or needle.decode("latin-1") in logged for needle in needles)
        await gateway.gateway.drain()
    assert list(holding(files_of(state_dir), needles)) == []
    await put_back(state_dir, before)
    report = assert_verifies(state_dir)
    assert {warned.doubt.name for warned in report.warnings} >= {"RESTORED"}
    live = [path for path in files_of(state_dir) if ".replaced-" not in path.name]
    assert list(holding(live, needles)) == []
    assert all(entry.personal is None or entry.personal.subject != ANN for entry in trail_of(state_dir))


async def test_a_gateway_goes_on_with_a_log_that_was_put_back(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    async with scripted() as upstream, audited(upstream, state_dir) as gateway:
        await ask_as(gateway, "ann")
        assert (await subak(gateway, "backup", str(tmp_path / "copy.db"))).code == 0
        refused = await subak(gateway, "restore", str(tmp_path / "copy.db"), "--yes")
        assert (refused.code, "another process writes" in refused.err) == (2, True)
        await ask_as(gateway, "bob")
        await subak(gateway, "checkpoint")
        notes = [fact.note for fact in gateway.observer.of(CheckpointSealed)]
    await put_back(state_dir, tmp_path / "copy.db")
    async with scripted() as upstream, audited(upstream, state_dir) as gateway:
        await ask_as(gateway, "bob")
    report = assert_verifies(state_dir, *notes)
    assert {"RESTORED", "GIVEN_UP"} <= {warned.doubt.name for warned in report.warnings}


async def test_an_order_never_reaches_the_log_of_another_gateway(tmp_path: Path) -> None:
    """Instances may share their admin token."""
    token = {"SUBAK_ADMIN__TOKEN": "one-admin-token-for-all-instances"}
    async with (
        scripted() as upstream,
        audited(upstream, tmp_path / "one", token) as one,
        audited(upstream, tmp_path / "two", token) as two,
    ):
        await ask_as(two, "ann")
        refused = await subak(one, "erase", "--subject", ANN, "--yes", "--gateway", two.gateway.admin_url, **token)
        assert (refused.code, "writes the log" in refused.err) == (2, True)
        wrong = await subak(one, "checkpoint", SUBAK_ADMIN__TOKEN="another-admin-token-than-the-right-one")
        assert (wrong.code, "401" in wrong.err) == (2, True)
    assert entries_of(tmp_path / "two", "gdpr.erase") == []


@pytest.fixture(scope="session")
def database() -> Iterable[Postgres]:
    """A PostgreSQL for the tests here."""
    with postgres() as server:
        yield server


@pytest.mark.real
async def test_everything_works_on_postgresql_too(tmp_path: Path, database: Postgres) -> None:
    variables = {"SUBAK_AUDIT__STORE": "postgres", "SUBAK_AUDIT__DSN": database.dsn}
    state_dir = tmp_path / "state"
    async with on_postgres(state_dir, variables) as gateway:
        await ask_as(gateway, "ann", "bob")
        assert (await subak(gateway, "checkpoint", **variables)).code == 0
        vkey = str(load_keys(state_dir).first_vkey)
        verified = (await subak(gateway, "verify", "--vkey", vkey, "--with-keys", "--json", **variables)).told
        assert verified["ok"] is True
        page = (await subak(gateway, "search", "--subject", ANN, "--json", **variables)).told
        assert len(page["rows"]) == 3  # type: ignore[arg-type]  # a list
        assert (await subak(gateway, "rotate-key", **variables)).code == 0
        copy = tmp_path / "copy.db"
        assert (await subak(gateway, "backup", str(copy), **variables)).code == 0
        assert (await subak(gateway, "erase", "--subject", ANN, "--yes", "--json", **variables)).told["rows"] == 3
        proof = tmp_path / "proof.json"
        assert (await subak(gateway, "prove", "2", "--out", str(proof), **variables)).code == 0
        assert (await subak(gateway, "check-proof", str(proof), "--vkey", vkey, **variables)).code == 0
    here = {**variables, "SUBAK_STATE_DIR": str(state_dir)}
    assert (await run_here("verify", "--vkey", vkey, "--log", str(copy), **here)).code == 0
    assert (await run_here("restore", "--yes", "--json", **here)).told["lost_rows"] == 0
    verified_again = await run_here("verify", "--vkey", vkey, "--with-keys", **here)
    assert (verified_again.code, "put back from a back-up" in verified_again.err) == (0, True), verified_again
    assert "still has rows" in (await run_here("restore", str(copy), "--yes", **here)).err
    await asyncio.to_thread(database.empty)
    assert (await run_here("restore", str(copy), "--yes", "--json", **here)).told["erased_again"] == 3
    assert (await run_here("verify", "--vkey", vkey, "--with-keys", "--json", **here)).told["ok"] is True


@asynccontextmanager
async def on_postgres(state_dir: Path, variables: dict[str, str]) -> AsyncIterator[Running]:
    settings = {**AUDITED, **variables, "SUBAK_STATE_DIR": str(state_dir)}
    async with scripted() as upstream, running(upstream, settings) as gateway:
        yield gateway


async def put_back(state_dir: Path, copy: Path) -> None:
    """Run `subak audit restore` where no gateway runs."""
    restored = await run_here("restore", str(copy), "--yes", SUBAK_STATE_DIR=str(state_dir))
    assert restored.code == 0, restored


def files_of(folder: Path) -> list[Path]:
    """Give all files below a folder."""
    return [path for path in folder.rglob("*") if path.is_file()]


def traces_of(state_dir: Path, subject: str) -> list[bytes]:
    """Give what a log keeps of a person: pseudonyms, and what is encrypted."""
    keys = load_keys(state_dir)
    pseudonyms = Pseudonyms(keys, load_secret(state_dir))
    who = Subject("principal", subject)
    subjects = SubjectKeyReader(state_dir / SUBJECT_FOLDER, keys.wrapping_key)
    numbers = Finder(pseudonyms, subjects).numbers_of(who)
    subjects.close()
    rows = [entry.row for entry in trail_of(state_dir) if entry.row.subject in numbers]
    assert rows
    names = pseudonyms.names_of(who, is_evidence=False).values()
    return [*names, *(row.ct for row in rows if row.ct), *(row.nonce for row in rows if row.nonce)]
