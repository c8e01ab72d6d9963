"""`/-/audit` on the admin listener: looked into, verified, proven and ordered about, while the gateway records."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec
import pytest

from subak.audit.keys import load_keys
from subak.audit.proofs import NoProof, check_proof, read_proof
from subak.core.notes import VerifierKey
from tests.integration.gateway import ONE_LOOP, Answer, Running, ask, get, question_url, scripted
from tests.integration.test_audit_trail import EMAIL, admin_token, audited, bearer, operate
from tests.trail import entries_of

pytestmark = ONE_LOOP

SUBJECT: Final = "user:ann"
OPERATOR: Final = "olga"


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Running]:
    """A gateway that has answered two questions of a known caller and one of nobody."""
    async with answered(tmp_path) as gateway:
        yield gateway


@asynccontextmanager
async def answered(state_dir: Path) -> AsyncIterator[Running]:
    async with scripted() as upstream, audited(upstream, state_dir) as gateway:
        for headers in (bearer(email=EMAIL), bearer(email=EMAIL), {}):
            assert (await get(gateway, question_url(), **headers)).status == HTTPStatus.OK
        yield gateway


async def look(gateway: Running, target: str) -> Answer:
    """GET as the operator."""
    headers = [("Authorization", f"Bearer {admin_token(gateway)}"), ("X-Subak-Actor", OPERATOR)]
    return await ask(gateway.gateway.admin_url, "GET", f"/-/audit/{target}", headers)


async def order(gateway: Running, name: str, **fields: object) -> Answer:
    """POST as the operator."""
    headers = [
        ("Authorization", f"Bearer {admin_token(gateway)}"),
        ("X-Subak-Actor", OPERATOR),
        ("Content-Type", "application/json"),
    ]
    return await ask(gateway.gateway.admin_url, "POST", f"/-/audit/{name}", headers, msgspec.json.encode(fields))


def said(answer: Answer) -> dict[str, object]:
    """Give the members of a good answer."""
    assert answer.status == HTTPStatus.OK, answer.body
    assert isinstance(answer.json, dict)
    return answer.json


def rows_of(answer: Answer) -> list[dict[str, object]]:
    """Give the rows of a search or an export."""
    rows = said(answer)["rows"]
    assert isinstance(rows, list)
    return rows


async def found(gateway: Running, target: str) -> list[object]:
    """Give the operations that a search by URL finds."""
    return [row["operation"] for row in rows_of(await look(gateway, f"search?{target}"))]


async def sealed(gateway: Running) -> None:
    """Have everything sealed that was told so far."""
    said(await order(gateway, "checkpoint"))


async def test_rows_are_searched_by_url(gateway: Running) -> None:
    await sealed(gateway)
    assert await found(gateway, "operation=stream.chat&oldest_first=true") == ["stream.start", "stream.end"] * 3
    assert await found(gateway, "operation=stream.*&outcome=stop") == ["stream.end"] * 3
    assert await found(gateway, "until=2020-01-01T00:00:00Z") == []
    assert len(await found(gateway, f"since={quote('2020-01-01T00:00:00+00:00')}&limit=4")) == 4
    page = said(await look(gateway, "search?limit=3"))
    rest = rows_of(await look(gateway, f"search?after={page['next']}"))
    assert rest[0]["seq"] == page["next"] - 1  # type: ignore[operator]  # a number


@pytest.mark.parametrize(
    "target",
    [
        "operation=nothing",
        "limit=0",
        "limit=x",
        "since=yesterday",
        "unknown=1",
        "since=2026-01-01T00:00:00",
        "since=2026",
        "until=0.5",
    ],
)
async def test_what_is_no_search_is_told(gateway: Running, target: str) -> None:
    answer = await look(gateway, f"search?{target}")
    assert answer.status in {HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY}


@pytest.mark.parametrize(
    ("name", "fields", "path"),
    [
        ("disclosure", {"kind": "search", "rows": 2**63}, "$.rows"),
        ("release", {"hold": 2**63, "why": "over"}, "$.hold"),
        ("search", {"after": 2**63}, "$.after"),
    ],
)
async def test_number_past_what_a_store_takes_is_told(
    gateway: Running, name: str, fields: dict[str, object], path: str
) -> None:
    answer = await order(gateway, name, **fields)
    assert answer.status == HTTPStatus.UNPROCESSABLE_ENTITY
    assert path.encode() in answer.body


async def test_there_is_no_proof_by_a_checkpoint_past_what_a_store_takes(gateway: Running) -> None:
    await sealed(gateway)
    assert (await look(gateway, f"proof/0?size={10**19 - 1}")).status == HTTPStatus.NOT_FOUND


async def test_people_stay_out_of_urls(gateway: Running) -> None:
    for field in ("subject=user:ann", "address=192.0.2.1", "show_personal=true"):
        answer = await look(gateway, f"search?{field}")
        assert answer.status == HTTPStatus.UNPROCESSABLE_ENTITY
        assert b"POST /-/audit/search" in answer.body


async def test_who_looks_for_a_person_is_recorded(gateway: Running) -> None:
    await sealed(gateway)
    plain = await order(gateway, "search", subject=SUBJECT, operation="stream.*")
    assert [row["operation"] for row in rows_of(plain)] == ["stream.end", "stream.start"] * 2
    assert EMAIL.encode() not in plain.body
    shown = await order(gateway, "search", subject=SUBJECT, operation="stream.start", show_personal=True)
    assert {row["personal"]["email"] for row in rows_of(shown)} == {EMAIL}  # type: ignore[index]  # an object
    await sealed(gateway)
    looks = [
        entry
        for entry in entries_of(gateway.gateway.settings.state_dir, "admin.action")
        if entry.said["action"] == "audit/search"
    ]
    assert [entry.personal and entry.personal.subject for entry in looks] == [OPERATOR] * 2


async def test_an_access_request_is_recorded_before_it_is_answered(gateway: Running) -> None:
    await sealed(gateway)
    answer = await order(gateway, "export", subject=SUBJECT, why="a request")
    assert {row["personal"]["subject"] for row in rows_of(answer)} == {SUBJECT}  # type: ignore[index]  # an object
    (exported,) = entries_of(gateway.gateway.settings.state_dir, "gdpr.export")
    assert exported.said == {"rows": len(rows_of(answer)), "why": "a request"}
    assert exported.personal is not None
    assert exported.personal.subject == OPERATOR


async def test_a_proof_is_given_and_checks_with_the_first_key(gateway: Running) -> None:
    said(await order(gateway, "rotate-key"))
    await sealed(gateway)
    key = load_keys(gateway.gateway.settings.state_dir).first_vkey
    for seq in (0, 3):
        proof = read_proof((await look(gateway, f"proof/{seq}")).body)
        assert check_proof(proof, key).size > seq
    size = said(await look(gateway, "checkpoint"))["size"]
    newest = read_proof((await look(gateway, f"proof/3?size={size}")).body)
    assert check_proof(newest, key).size == size
    with pytest.raises(NoProof):
        check_proof(msgspec.structs.replace(newest, core=newest.core.replace("1", "2")), key)
    for target, status in (("proof/99999", 404), ("proof/x", 422), ("proof/-1", 422), ("proof/3?size=x", 422)):
        assert (await look(gateway, target)).status == status


async def test_the_newest_checkpoint_is_shown(gateway: Running) -> None:
    made = said(await order(gateway, "checkpoint"))
    assert str(made["note"]).split("\n")[1] == str(made["size"])
    shown = said(await look(gateway, "checkpoint"))
    assert shown["size"] >= made["size"]  # type: ignore[operator]  # numbers


async def verdict(gateway: Running) -> dict[str, object]:
    """Wait for the end of a verification."""
    shown = said(await look(gateway, "verify"))
    while shown["status"] == "running":
        shown = said(await look(gateway, "verify"))
    return shown


async def test_the_log_is_verified_off_the_loop_and_tells_how_far_it_is(gateway: Running) -> None:
    note = str(said(await order(gateway, "checkpoint"))["note"])
    assert (await look(gateway, "verify")).status == HTTPStatus.NOT_FOUND
    vkey = str(load_keys(gateway.gateway.settings.state_dir).first_vkey)
    begun = await order(gateway, "verify", vkey=vkey, anchors=[note], with_keys=True)
    assert begun.status == HTTPStatus.ACCEPTED
    shown = await verdict(gateway)
    assert shown["status"] == "done", shown
    report = shown["report"]
    assert isinstance(report, dict)
    assert (report["ok"], report["findings"]) == (True, [])
    wrong = str(VerifierKey.parse(vkey)._replace(public=bytes(32)))
    assert (await order(gateway, "verify", vkey=wrong)).status == HTTPStatus.ACCEPTED
    report = (await verdict(gateway))["report"]
    assert isinstance(report, dict)
    assert not report["ok"]
    assert (await order(gateway, "verify", vkey="x")).status == HTTPStatus.UNPROCESSABLE_ENTITY


async def test_one_verification_runs_at_a_time(gateway: Running) -> None:
    """The first one hangs on a file of keys that is a pipe."""
    await sealed(gateway)
    (keys,) = (gateway.gateway.settings.state_dir / "audit-subjects").iterdir()
    kept = keys.with_name("kept")
    keys.rename(kept)
    os.mkfifo(keys)
    try:
        assert (await order(gateway, "verify", with_keys=True)).status == HTTPStatus.ACCEPTED
        assert said(await look(gateway, "verify"))["status"] == "running"
        refused = await order(gateway, "verify")
        assert refused.status == HTTPStatus.CONFLICT
        assert b"GET /-/audit/verify" in refused.body
    finally:
        os.close(os.open(keys, os.O_WRONLY))
        keys.unlink()
        kept.rename(keys)
    shown = await verdict(gateway)
    assert shown["status"] == "failed"
    assert (await order(gateway, "verify", with_keys=True)).status == HTTPStatus.ACCEPTED
    assert (await verdict(gateway))["status"] == "done"


async def test_an_erasure_by_subject_and_by_stream(gateway: Running) -> None:
    await sealed(gateway)
    assert said(await order(gateway, "erase", subject=SUBJECT))["rows"] == 5
    assert rows_of(await order(gateway, "export", subject=SUBJECT)) == []
    (erased,) = entries_of(gateway.gateway.settings.state_dir, "gdpr.erase")
    assert erased.personal is not None
    assert erased.personal.subject == OPERATOR
    answer = await get(gateway, question_url())
    await sealed(gateway)
    assert said(await order(gateway, "erase", stream=answer.header("Subak-Stream-Id")))["rows"] == 2


async def test_a_hold_keeps_erasures_and_prunings_back(gateway: Running) -> None:
    held = said(await order(gateway, "hold", until="2999-01-01T00:00:00Z", why="a dispute"))
    assert said(await look(gateway, "holds"))["holds"] == [
        {"seq": held["seq"], "until": "2999-01-01T00:00:00Z", "why": "a dispute"}
    ]
    for name, fields in (("erase", {"subject": SUBJECT}), ("prune", {})):
        refused = await order(gateway, name, **fields)
        assert refused.status == HTTPStatus.CONFLICT
        assert b"a dispute" in refused.body
    assert [said(await look(gateway, "prune"))[name] for name in ("rows", "is_dry_run")] == [0, True]
    assert (await order(gateway, "release", hold=1, why="over")).status == HTTPStatus.UNPROCESSABLE_ENTITY
    said(await order(gateway, "release", hold=held["seq"], why="over"))
    assert said(await order(gateway, "prune"))["rows"] == 0
    assert said(await order(gateway, "erase", subject=SUBJECT))["rows"] == 5


@pytest.mark.parametrize(
    ("name", "fields", "path"),
    [
        ("erase", {}, "$.subject"),
        ("erase", {"subject": SUBJECT, "stream": "st_1"}, "$.subject"),
        ("erase", {"subject": SUBJECT, "keep_evidence_because": "a\nb"}, "$.keep_evidence_because"),
        ("hold", {"until": "2999-01-01T00:00:00Z", "why": ""}, "$.why"),
        ("hold", {"until": "2020-01-01T00:00:00Z", "why": "late"}, "$.until"),
        ("hold", {"until": "2999-01-01T00:00:00", "why": "nowhere"}, "$.until"),
        ("prune", {"unknown": 1}, "$"),
        ("search", {"address": "somewhere"}, "$.address"),
        ("disclosure", {"kind": "other", "rows": 1}, "$.kind"),
    ],
)
async def test_a_wrong_order_is_told_by_its_field(
    gateway: Running, name: str, fields: dict[str, object], path: str
) -> None:
    answer = await order(gateway, name, **fields)
    assert answer.status == HTTPStatus.UNPROCESSABLE_ENTITY
    assert path in answer.body.decode()


async def test_every_order_is_recorded_with_who_gave_it(gateway: Running) -> None:
    for name in ("checkpoint", "prune", "rotate-key", "verify"):
        assert (await order(gateway, name)).status < HTTPStatus.BAD_REQUEST
    await verdict(gateway)
    await sealed(gateway)
    state_dir = gateway.gateway.settings.state_dir
    acts = {
        entry.said["action"]: entry.personal.subject
        for entry in entries_of(state_dir, "admin.action")
        if entry.personal
    }
    assert acts == dict.fromkeys(("audit/checkpoint", "audit/prune", "audit/rotate-key", "audit/verify"), OPERATOR)


async def test_nobody_else_may(gateway: Running) -> None:
    for method, target in (("GET", "search"), ("GET", "proof/1"), ("POST", "erase"), ("POST", "export")):
        assert (await operate(gateway, method, f"/-/audit/{target}", None)).status == HTTPStatus.UNAUTHORIZED
        assert (await get(gateway, f"/-/audit/{target}")).status == HTTPStatus.NOT_FOUND


async def test_a_damaged_log_is_told_of(gateway: Running) -> None:
    path = gateway.gateway.settings.state_dir / "digest.key"
    path.rename(path.with_name("kept"))
    try:
        answer = await order(gateway, "search", subject=SUBJECT)
        assert answer.status == HTTPStatus.INTERNAL_SERVER_ERROR
        assert b"digest.key: it is missing" in answer.body
        assert (await look(gateway, "search")).status == HTTPStatus.OK
    finally:
        path.with_name("kept").rename(path)
