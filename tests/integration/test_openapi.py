"""The OpenAPI documents, and the gateway held to them: schemathesis makes up requests and judges what comes back."""

import asyncio
import re
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import pytest
import schemathesis
from jsonschema_rs import Draft202012Validator

from subak.core.facts import Crashed, Refused, StreamEnded
from subak.core.quota import QuotaPolicy
from subak.web.openapi import Face, Object
from subak.web.openapi_admin import ADMIN
from subak.web.openapi_public import PUBLIC
from tests.integration.gateway import ONE_LOOP, Answer, Running, ask, parse_frames, running
from tests.settings import child_environment, runs

pytestmark = ONE_LOOP

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
API: Final = ROOT / "docs" / "api.md"
KEY: Final = "a-key-of-16-or-more-characters"
EVERYTHING: Final = {
    "SUBAK_AUDIT__ENABLED": "true",
    "SUBAK_STREAM__ON_DISCONNECT": "continue",
    "API_KEYS_INTERNAL": KEY,
}
"""Settings under which there is every route, and the callers of every one: an internal key may speak for anybody."""
FLAG_OFF: Final = {"ENABLE_SSE_STREAMING": "false"}
LIMITED: Final = {
    "SUBAK_LIMITS__ENABLED": "true",
    "SUBAK_LIMITS__CHAT": "1",
    "SUBAK_LIMITS__PASSED_CHAT": "1",
    "SUBAK_LIMITS__IETF_HEADERS": "true",
}
MANY_TOKENS: Final = QuotaPolicy("admin_login", 1_000_000, 60.0)
PHASES: Final = "examples,coverage,fuzzing,stateful"
LAST_LINES: Final = 12_000


class Port(NamedTuple):
    """One listener: its base URL, where its document is, and the credentials that open it."""

    url: str
    path: str
    credentials: tuple[str, str]

    async def document(self) -> Object:
        answer = await self.get()
        assert (answer.status, answer.header("Content-Type")) == (200, "application/json; charset=utf-8")
        return msgspec.json.decode(answer.body, type=Object)

    async def get(self, *headers: tuple[str, str]) -> Answer:
        return await ask(self.url, "GET", self.path, [self.credentials, *headers])


OfGateway = Callable[[Running], Port]


def public(gateway: Running) -> Port:
    return Port(gateway.url, "/openapi.json", ("x-api-key", KEY))


def admin(gateway: Running) -> Port:
    token = gateway.gateway.admin_token
    assert token is not None
    return Port(gateway.gateway.admin_url, "/-/openapi.json", ("Authorization", f"Bearer {token.text}"))


@pytest.fixture
async def gateway() -> AsyncIterator[Running]:
    async with running(variables=EVERYTHING) as started:
        yield started


def routes_in(document: Object) -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}


@pytest.mark.parametrize("port", [public, admin])
async def test_document_is_openapi_3_2(gateway: Running, port: OfGateway) -> None:
    document = await port(gateway).document()
    assert document["openapi"] == "3.2.0"
    schemathesis.openapi.from_dict(document).validate()
    for name in document["components"]["schemas"]:
        Draft202012Validator({"$ref": f"#/components/schemas/{name}"} | document)


@pytest.mark.parametrize(("port", "face"), [(public, PUBLIC), (admin, ADMIN)])
async def test_every_route_is_described_and_every_description_has_its_route(
    gateway: Running, port: OfGateway, face: Face
) -> None:
    """The document is made from the router's own table, so what it has is what there is."""
    assert routes_in(await port(gateway).document()) == set(face.operations)


async def test_events_are_described_one_by_one(gateway: Running) -> None:
    document = await public(gateway).document()
    stream = document["paths"]["/v1/streams/{stream_id}/events"]["get"]["responses"]["200"]
    content = stream["content"]["text/event-stream"]
    assert content["itemSchema"] == {"$ref": "#/components/schemas/ServerSentEvent"}
    example = parse_frames(content["examples"]["wire"]["serializedValue"].encode())
    assert [frame.type for frame in example] == ["metadata", "token", "done"]
    kinds = document["components"]["schemas"]["StreamEvent"]["discriminator"]["mapping"]
    assert set(kinds) == {"metadata", "token", "sources", "done", "error", "snapshot", "heartbeat"}


@pytest.mark.real
@pytest.mark.skipif(shutil.which("jq") is None, reason="no jq (apt-get install jq)")
async def test_the_pages_way_to_3_1_leads_there(gateway: Running, tmp_path: Path) -> None:
    (command,) = re.findall(r"^jq .+$", API.read_text(encoding="utf-8"), re.MULTILINE)
    (tmp_path / "openapi.json").write_bytes((await public(gateway).get()).body)
    process = await asyncio.create_subprocess_shell(command, cwd=tmp_path)
    assert await process.wait() == 0
    document = await public(gateway).document()
    copy = msgspec.json.decode((tmp_path / "openapi-3.1.json").read_bytes(), type=Object)
    schemathesis.openapi.from_dict(copy).validate()
    assert copy["openapi"] == "3.1.1"
    assert copy["components"]["schemas"] == document["components"]["schemas"]


@pytest.mark.parametrize("port", [public, admin])
async def test_document_is_not_sent_again_to_who_has_it(gateway: Running, port: OfGateway) -> None:
    etag = (await port(gateway).get()).header("ETag")
    assert etag
    again = await port(gateway).get(("If-None-Match", etag))
    assert (again.status, again.header("ETag"), again.body) == (304, etag, b"")


async def test_public_document_is_for_everybody_and_the_admin_one_is_not(gateway: Running) -> None:
    assert (await ask(gateway.url, "GET", "/openapi.json")).status == 200
    assert (await ask(gateway.gateway.admin_url, "GET", "/-/openapi.json")).status == 401


async def test_admin_document_has_only_what_is_there() -> None:
    async with running(SUBAK_ADMIN__METRICS_PUBLIC="true") as gateway:
        document = await admin(gateway).document()
    assert {path for path in document["paths"] if path.startswith("/-/audit/")} == {"/-/audit/auth-events"}
    assert document["paths"]["/metrics"]["get"]["security"] == [{}]
    assert {} not in document["paths"]["/-/stats"]["get"]["security"]


async def test_a_start_imports_nothing_of_it() -> None:
    script = "import sys, subak.process; print([name for name in sys.modules if 'openapi' in name])"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, env=child_environment(), stdout=asyncio.subprocess.PIPE
    )
    assert (await process.communicate())[0] == b"[]\n"


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_public_listener_keeps_to_its_document(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams too: each event of each is held against its schema. The line's probe doesn't take its two seconds."""
    monkeypatch.setattr("subak.web.health.PROBE_GAP_S", 0.0)
    async with running(variables=EVERYTHING, SUBAK_AUDIT__ENABLED="false") as gateway:
        await judged(public(gateway), "openapi_public.toml")
        assert gateway.observer.of(StreamEnded)
        assert gateway.observer.of(Crashed) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("variables", "code"), [(FLAG_OFF, "feature_flag_disabled"), (LIMITED, "rate_limit_exceeded")])
async def test_refusals_keep_to_the_document(
    variables: dict[str, str], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subak.web.health.PROBE_GAP_S", 0.0)
    async with running(variables=EVERYTHING | variables, SUBAK_AUDIT__ENABLED="false") as gateway:
        await judged(public(gateway), "openapi_public.toml", "examples,fuzzing")
        assert code in {fact.code for fact in gateway.observer.of(Refused)}


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_admin_listener_keeps_to_its_document(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drain, too: it is the process that leaves when it is asked for, and a gateway in a test has none of its own.

    That wrong tokens are refused is tried on each route, and ten a minute would be all.
    """
    monkeypatch.setattr("subak.web.admin.WRONG_TOKENS", MANY_TOKENS)
    async with running(variables=EVERYTHING) as gateway:
        await judged(admin(gateway), "openapi_admin.toml")
        assert gateway.gateway.is_dismissed.is_set()
        assert gateway.observer.of(Crashed) == []


async def judged(port: Port, config: str, phases: str = PHASES) -> None:
    """Have schemathesis try the listener, with every check that it has.

    Raises:
        AssertionError: it found something, or could not try; its report says what, with a curl line.
    """
    name, value = port.credentials
    command = ["--config-file", str(HERE / config), "run", port.url + port.path, "--checks", "all"]
    options = ["--phases", phases, "--max-examples", str(runs(fast=1, default=3, soak=100)), "--continue-on-failure"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", *command, *options, "--header", f"{name}: {value}"),
        env=child_environment(PYTHONPATH=str(ROOT)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    report = (await process.communicate())[0].decode()
    assert process.returncode == 0, report[-LAST_LINES:]
