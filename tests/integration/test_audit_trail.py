"""What a running gateway records: everything that happens, once and true, and of persons only what it may.

Tests that carry a number (`test_a56_…`) are rows of the fault matrix in docs/reliability.md.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final

import msgspec
import pytest

from subak.audit.anchors import read_anchors
from subak.audit.keys import load_keys
from subak.audit.postgres import PostgresReader
from subak.audit.verdict import Doubt, Flaw, Receipt, Report
from subak.core.facts import AnchorFailed, AuditKeysMade, CheckpointSealed, ReaderLeft
from subak.testing import End, Head, ScriptedUpstream, Stall
from tests.integration.gateway import (
    ANSWER,
    CHAT_STREAM,
    CIAO,
    ONE_LOOP,
    Answer,
    Client,
    Running,
    ask,
    data_of,
    get,
    parse_frames,
    post,
    question_url,
    running,
    scripted,
)
from tests.issuer import AUDIENCE, CLAIMS, ISSUER, SECRET, secret_key, signed
from tests.postgres import Postgres, postgres
from tests.trail import assert_verifies, entries_of, judge, name_of, trail_of, unended
from tests.transcripts.scenes import token

pytestmark = ONE_LOOP

INTERNAL: Final = "internal-key-of-the-host-application"
AUDITED: Final = {
    "SUBAK_AUDIT__ENABLED": "true",
    "SUBAK_AUTH__JWT_SECRET": SECRET,
    "SUBAK_AUTH__ISSUER": ISSUER,
    "SUBAK_AUTH__AUDIENCE": AUDIENCE,
    "API_KEYS_INTERNAL": INTERNAL,
}
QUESTION: Final = "Which papers does the kanarienvogel need?"
EMAIL: Final = "kanarienvogel@example.org"
AUTH_EVENTS: Final = "/-/audit/auth-events"


def bearer(user: str = "ann", **claims: object) -> dict[str, str]:
    """Give the header that says who it is."""
    exp = int(time.time()) + 600
    said = {**CLAIMS, "sub": user, "exp": exp, **claims}
    return {"Authorization": f"Bearer {signed(secret_key(), 'HS256', said)}"}


@asynccontextmanager
async def audited(
    upstream: ScriptedUpstream, state_dir: Path, variables: Mapping[str, str] | None = None
) -> AsyncIterator[Running]:
    """Run a gateway that keeps its trail in `state_dir`; afterwards it must hold, and no stream be open in it."""
    async with running(upstream, {**AUDITED, "SUBAK_STATE_DIR": str(state_dir), **(variables or {})}) as gateway:
        yield gateway
    assert_verifies(state_dir, *(fact.note for fact in gateway.observer.of(CheckpointSealed)))
    assert not unended(state_dir)


async def operate(gateway: Running, method: str, target: str, key: str | None, body: object = None) -> Answer:
    """Send a request to the admin listener, with a key."""
    headers = [("Content-Type", "application/json")] + ([] if key is None else [("Authorization", f"Bearer {key}")])
    return await ask(gateway.gateway.admin_url, method, target, headers, msgspec.json.encode(body))


def admin_token(gateway: Running) -> str:
    """Give what opens the admin listener."""
    assert gateway.gateway.admin_token is not None
    return gateway.gateway.admin_token.text


async def test_a_whole_answer_is_recorded_from_start_to_end(tmp_path: Path) -> None:
    async with scripted() as upstream, audited(upstream, tmp_path) as gateway:
        answer = await get(gateway, question_url(QUESTION), **bearer(email=EMAIL))
        (made,) = gateway.observer.of(AuditKeysMade)
        await gateway.gateway.drain()
    rows = trail_of(tmp_path)
    assert [row.operation for row in rows] == [
        "log.open",
        "gateway.start",
        "auth.success",
        "stream.start",
        "stream.end",
        "gateway.drain",
        "gateway.stop",
    ]
    start, end = rows[3:5]
    assert start.row.stream == end.row.stream == name_of(tmp_path, str(answer.header("Subak-Stream-Id")))
    assert start.personal is not None
    assert (start.personal.subject, start.personal.email, start.personal.address) == ("user:ann", EMAIL, "")
    done = parse_frames(answer.body)[-1].data
    assert isinstance(done, dict)
    metrics = done["metrics"]
    assert (end.core["outcome"], end.core["tokens"], end.core["size_bytes"]) == (
        "stop",
        metrics["tokensReceived"],
        metrics["bytesReceived"],
    )
    assert end.core["first_token_ms"] == metrics["firstTokenLatency"]
    assert rows[-1].said == {"lost_streams": 0, "outcome": "drained"}
    assert str(tmp_path / "audit.keys") == made.path
    assert "Back this file up" in made.advice


async def test_every_start_has_its_end_whatever_the_outcome(tmp_path: Path) -> None:
    scripts = [ANSWER, (Head(), token("uno "), End()), (Head(status=500), End()), (Head(), CIAO, Stall()), ANSWER]
    async with ScriptedUpstream(*scripts) as upstream, audited(upstream, tmp_path) as gateway:
        for _ in range(3):
            await get(gateway, question_url())
        async with Client.connect(gateway.url) as client:
            await client.begin("GET", question_url())
            answer = await client.until(b'"Ciao "')
            stream_id = str(answer.header("Subak-Stream-Id"))
            await post(gateway, f"/v1/streams/{stream_id}/stop")
            await client.whole()
        await get(gateway, f"/v1/streams/{stream_id}/events", Last_Event_ID=f"{stream_id}.1")
        await gateway.observer.wait_for(ReaderLeft, 5)
    ends = Counter(row.core["outcome"] for row in entries_of(tmp_path, "stream.end"))
    assert ends == {"stop": 1, "upstream_truncated": 1, "upstream_error": 1, "cancelled": 1}
    (stopped,) = entries_of(tmp_path, "stream.stop")
    (resumed,) = entries_of(tmp_path, "stream.resume")
    assert stopped.row.stream == resumed.row.stream == name_of(tmp_path, stream_id)
    assert (stopped.said, resumed.core["cursor"]) == ({"was_live": True}, 1)
    assert stopped.personal is not None
    assert (stopped.personal.kind, stopped.personal.subject) == ("stream", stream_id)


async def test_an_email_without_a_user_id_is_not_stored_and_no_question_is(tmp_path: Path) -> None:
    async with scripted() as upstream, audited(upstream, tmp_path) as gateway:
        await get(gateway, question_url(QUESTION, user_email=EMAIL, user_role="member"))
        await get(gateway, question_url(QUESTION), **bearer("ann", email="ann@example.org"))
    stranger, ann = entries_of(tmp_path, "stream.start")
    assert stranger.personal is not None
    assert (stranger.personal.kind, stranger.personal.email) == ("stream", "")
    assert ann.personal is not None
    assert ann.personal.email == "ann@example.org"
    assert stranger.personal.query_hash != ann.personal.query_hash
    said = repr([(row.core, row.personal) for row in trail_of(tmp_path)])
    assert "kanarienvogel" not in said


async def test_a_rate_limit_violation_is_recorded_once_and_counted(tmp_path: Path) -> None:
    limited = {"SUBAK_LIMITS__ENABLED": "true", "SUBAK_LIMITS__CHAT": "2"}
    async with scripted() as upstream, audited(upstream, tmp_path, limited) as gateway:
        statuses = [(await get(gateway, question_url())).status for _ in range(7)]
        assert statuses == [200, 200, 429, 429, 429, 429, 429]
    first, closing = entries_of(tmp_path, "security.rate_limit_violation")
    assert first.said == {
        "outcome": "refused",
        "route": CHAT_STREAM,
        "method": "GET",
        "status": 429,
        "code": "rate_limit_exceeded",
        "policy": "chat",
    }
    assert closing.said == {**first.said, "count": 5}
    for row in (first, closing):
        assert row.personal is not None
        assert (row.personal.kind, row.personal.address) == ("address", "127.0.0.1")


async def test_credentials_are_recorded_that_hold_and_that_do_not(tmp_path: Path) -> None:
    async with scripted() as upstream, audited(upstream, tmp_path) as gateway:
        headers = bearer("ann")
        for _ in range(3):
            assert (await get(gateway, question_url(), **headers)).status == 200
        for _ in range(3):
            assert (await get(gateway, question_url(), **bearer("ann", aud="another"))).status == 401
    (success,) = entries_of(tmp_path, "auth.success")
    assert success.personal is not None
    assert success.personal.subject == "user:ann"
    first, closing = entries_of(tmp_path, "auth.failure")
    assert (first.core["reason"], first.core["status"]) == ("token_audience", 401)
    assert closing.core["count"] == 3
    assert first.personal is not None
    assert first.personal.address == "127.0.0.1"


async def test_a49_asking_for_somebody_elses_stream_is_recorded(tmp_path: Path) -> None:
    async with scripted() as upstream, audited(upstream, tmp_path) as gateway:
        answer = await get(gateway, question_url(), **bearer("ann"))
        stream_id = str(answer.header("Subak-Stream-Id"))
        foreign = await get(gateway, f"/v1/streams/{stream_id}", **bearer("ben"))
        unknown = await get(gateway, f"/v1/streams/{stream_id[:-4]}AAAA", **bearer("carla"))
        assert (foreign.status, foreign.body) == (404, unknown.body)
    of_ann, guessed = entries_of(tmp_path, "security.foreign_stream")
    assert (of_ann.row.stream, guessed.row.stream) == (name_of(tmp_path, stream_id), None)
    assert of_ann.personal is not None
    assert of_ann.personal.subject == "user:ben"


async def test_what_operators_do_is_recorded_with_who_did_it(tmp_path: Path) -> None:
    async with scripted() as upstream, audited(upstream, tmp_path) as gateway:
        await operate(gateway, "PUT", "/-/flags/ENABLE_SSE_STREAMING", admin_token(gateway), {"percentage": 25})
        assert (await operate(gateway, "POST", "/-/drain", "wrong")).status == 401
    done, refused = entries_of(tmp_path, "admin.action")
    assert done.said == {"outcome": "done", "action": "flags/{key}", "method": "PUT", "status": 200}
    assert done.personal is not None
    assert (done.personal.subject, done.personal.address) == ("admin", "127.0.0.1")
    assert (refused.core["outcome"], refused.core["action"]) == ("refused", "drain")
    (changed,) = entries_of(tmp_path, "flag.change")
    assert changed.said == {"flag": "ENABLE_SSE_STREAMING", "change": "percentage_unset_to_25"}
    (failure,) = entries_of(tmp_path, "auth.failure")
    assert failure.core["reason"] == "admin_token"


async def test_the_host_application_reports_logins(tmp_path: Path) -> None:
    async with scripted() as upstream, audited(upstream, tmp_path) as gateway:
        body = {"user_id": "42", "tenant": "acme", "email": "ann@example.org"}
        for event in ("login", "token_refresh", "logout"):
            answer = await operate(gateway, "POST", AUTH_EVENTS, INTERNAL, {"event": event, **body})
            assert (answer.status, answer.body) == (204, b"")
        assert (await operate(gateway, "POST", AUTH_EVENTS, "guessed", {"event": "login", **body})).status == 401
    rows = entries_of(tmp_path, "auth.login", "auth.token_refresh", "auth.logout")
    assert [row.operation for row in rows] == ["auth.login", "auth.token_refresh", "auth.logout"]
    for row in rows:
        assert row.personal is not None
        assert (row.personal.subject, row.personal.email) == ("tenant:acme/user:42", "ann@example.org")
    assert not entries_of(tmp_path, "admin.action")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"event": "login"},
        {"event": "sudo", "user_id": "42"},
        {"event": "login", "user_id": ""},
        {"event": "login", "user_id": "x" * 256},
        {"event": "login", "user_id": "a\nb"},
        {"event": "login", "user_id": 42},
        {"event": "login", "user_id": "42", "email": " "},
        {"event": "login", "user_id": "42", "password": "x"},
    ],
)
async def test_a_report_that_is_none_is_refused_with_its_place(tmp_path: Path, body: object) -> None:
    async with scripted() as upstream, audited(upstream, tmp_path) as gateway:
        answer = await operate(gateway, "POST", AUTH_EVENTS, INTERNAL, body)
        assert answer.status == HTTPStatus.UNPROCESSABLE_ENTITY
        assert b'"path"' in answer.body
    assert not entries_of(tmp_path, "auth.login")


async def test_checkpoints_go_to_the_anchor_file_too(tmp_path: Path) -> None:
    anchor = tmp_path / "elsewhere" / "anchors"
    anchor.parent.mkdir()
    state_dir = tmp_path / "state"
    variables = {"SUBAK_AUDIT__ANCHOR_FILE": str(anchor)}
    async with scripted() as upstream, audited(upstream, state_dir, variables) as gateway:
        await get(gateway, question_url())
    notes = read_anchors(anchor.read_text(encoding="utf-8"))
    assert notes == tuple(fact.note for fact in gateway.observer.of(CheckpointSealed))
    report = assert_verifies(state_dir, *notes)
    assert Doubt.NO_ANCHOR not in {warned.doubt for warned in report.warnings}
    assert anchor.stat().st_mode & 0o777 == 0o600
    assert read_anchors("".join(notes)) == notes
    assert read_anchors(anchor.read_text(encoding="utf-8")[:-10]) == notes[:-1]


async def test_an_anchor_file_that_cannot_be_written_is_told_and_counted(tmp_path: Path) -> None:
    variables = {"SUBAK_AUDIT__ANCHOR_FILE": str(tmp_path / "missing" / "anchors")}
    async with scripted() as upstream, audited(upstream, tmp_path / "state", variables) as gateway:
        await get(gateway, question_url())
        stats = await operate(gateway, "GET", "/-/stats", admin_token(gateway))
        assert isinstance(stats.json, dict)
        audit = stats.json["present"]["audit"]
        assert audit["failed_checkpoints"] >= 1
        (failed,) = gateway.observer.of(AnchorFailed)
        assert failed.reason == "ENOENT"
        assert (audit["lost"], audit["trouble"]) == (0, None)


async def test_on_postgresql_the_trail_is_the_same(tmp_path: Path) -> None:
    with postgres() as server:
        variables = {"SUBAK_AUDIT__STORE": "postgres", "SUBAK_AUDIT__DSN": server.dsn}
        async with (
            scripted() as upstream,
            running(upstream, {**AUDITED, **variables, "SUBAK_STATE_DIR": str(tmp_path)}) as gateway,
        ):
            assert (await get(gateway, question_url())).status == HTTPStatus.OK
        operations, report = await asyncio.to_thread(read_from, server, tmp_path)
    assert operations == ["log.open", "gateway.start", "stream.start", "stream.end", "gateway.stop"]
    assert not report.findings


def read_from(server: Postgres, state_dir: Path) -> tuple[list[str], Report]:
    """Give the operations of the trail in a database, and what its verification finds."""
    reader = PostgresReader(server.dsn, load_keys(state_dir).origin)
    return [row.operation for row in reader.rows(0)], judge(state_dir, reader=reader)


async def test_done_carries_a_receipt_that_the_log_keeps(tmp_path: Path) -> None:
    async with scripted() as upstream, audited(upstream, tmp_path, {"SUBAK_AUDIT__RECEIPTS": "true"}) as gateway:
        answer = await get(gateway, question_url())
    done = data_of(parse_frames(answer.body)[-1])
    receipt = msgspec.convert(done["receipt"], Receipt)
    (start,) = entries_of(tmp_path, "stream.start")
    assert receipt.seq == start.row.seq
    assert not judge(tmp_path, receipts=(receipt,)).findings
    forged = msgspec.structs.replace(receipt, leaf=bytes(32))
    assert {finding.flaw for finding in judge(tmp_path, receipts=(forged,)).findings} == {Flaw.BAD_RECEIPT}
