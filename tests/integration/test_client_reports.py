"""`POST /v1/streams/{id}/report`: bounded numbers from whoever may read the stream, and nothing from anybody else."""

from collections.abc import AsyncIterator

import msgspec
import pytest

from subak.core.facts import ClientReported, Crashed
from subak.telemetry.tally import Window
from subak.testing import ScriptedUpstream
from tests.integration.gateway import ANSWER, ONE_LOOP, Answer, Running, ask, get, question_url, running, scripted

pytestmark = ONE_LOOP

INTERNAL = "internal-key-of-the-host-application"
COUNTS = {"tokens": 6, "bytes": 381, "reconnects": 1, "duplicates": 2, "gaps": 0}
FIGURES: dict[str, object] = {
    "firstTokenMs": 41.5,
    "interTokenP50Ms": 10,
    "interTokenP95Ms": 20.25,
    "interTokenP99Ms": None,
    "durationMs": 912,
    **COUNTS,
}


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with scripted(*ANSWER) as upstream:
        yield upstream


@pytest.fixture
async def gateway(upstream: ScriptedUpstream) -> AsyncIterator[Running]:
    async with running(upstream, API_KEYS_INTERNAL=INTERNAL) as gateway:
        yield gateway
    assert not gateway.observer.of(Crashed)


async def answered(gateway: Running, **headers: str) -> str:
    """Give the id of a stream that has ended."""
    stream_id = (await get(gateway, question_url(), **headers)).header("Subak-Stream-Id")
    assert stream_id is not None
    return stream_id


async def report(gateway: Running, stream_id: str, figures: object = FIGURES, **headers: str) -> Answer:
    body = figures if isinstance(figures, bytes) else msgspec.json.encode(figures)
    named = {"Content_Type": "application/json"} | headers
    given = [(name.replace("_", "-"), value) for name, value in named.items()]
    return await ask(gateway, "POST", f"/v1/streams/{stream_id}/report", given, body)


async def test_a_report_becomes_a_fact(gateway: Running) -> None:
    stream_id = await answered(gateway)
    answer = await report(gateway, stream_id)
    assert (answer.status, answer.body, answer.header("Cache-Control")) == (204, b"", "no-store")
    assert gateway.observer.of(ClientReported) == [
        ClientReported(
            stream_id,
            first_token_ms=41.5,
            inter_token_p50_ms=10,
            inter_token_p95_ms=20.25,
            inter_token_p99_ms=None,
            duration_ms=912,
            tokens=6,
            bytes=381,
            reconnects=1,
            duplicates=2,
            gaps=0,
        )
    ]


async def test_reports_are_shown_beside_the_servers_own_figures(gateway: Running) -> None:
    stream_id = await answered(gateway)
    await report(gateway, stream_id)
    figures = gateway.gateway.watching.stats.figures(Window.LAST_MINUTE)
    told = figures.reports
    assert (told.count, told.reconnects, told.duplicates, told.gaps) == (1, *list(COUNTS.values())[-3:])
    assert told.first_token.p50_ms == pytest.approx(41.5, rel=0.01)
    assert figures.streams.first_token.count == 1


async def test_a_whole_number_is_one_however_it_is_spelled(gateway: Running) -> None:
    body = msgspec.json.encode({"durationMs": 912, **COUNTS}).replace(b'"tokens":6', b'"tokens":6.0')
    assert b"6.0" in body
    assert (await report(gateway, await answered(gateway), body)).status == 204
    assert gateway.observer.of(ClientReported)[0].tokens == 6


async def test_what_a_reader_cannot_tell_it_may_leave_out(gateway: Running) -> None:
    assert (await report(gateway, await answered(gateway), {"durationMs": 0, **COUNTS})).status == 204
    assert gateway.observer.of(ClientReported)[0].first_token_ms is None


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"tokens": -1}, "$.tokens"),
        ({"tokens": 1.5}, "$.tokens"),
        ({"tokens": "6"}, "$.tokens"),
        ({"bytes": 2**41}, "$.bytes"),
        ({"firstTokenMs": 1e300}, "$.firstTokenMs"),
        ({"durationMs": None}, "$.durationMs"),
        ({"durationMs": -0.5}, "$.durationMs"),
        ({"remark": "kanarienvogel"}, "$"),
    ],
)
async def test_anything_but_bounded_numbers_is_refused(gateway: Running, wrong: dict[str, object], path: str) -> None:
    answer = await report(gateway, await answered(gateway), FIGURES | wrong)
    assert answer.status == 422
    assert msgspec.convert(answer.json, dict[str, object])["errors"] == [
        {"path": path, "expected": "the figures of a report: numbers, none below 0"}
    ]
    assert b"kanarienvogel" not in answer.body
    assert not gateway.observer.of(ClientReported)


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b'{"tokens": NaN}', {}, 400),
        (b"[]", {}, 422),
        (b" " * 1025, {}, 413),
        (msgspec.json.encode(FIGURES), {"Content_Type": "text/plain"}, 415),
    ],
)
async def test_a_body_that_is_no_report_is_refused(
    gateway: Running, body: bytes, headers: dict[str, str], status: int
) -> None:
    assert (await report(gateway, await answered(gateway), body, **headers)).status == status
    assert not gateway.observer.of(ClientReported)


async def test_a_stream_that_is_not_there_takes_no_report(gateway: Running) -> None:
    stream_id = await answered(gateway)
    unknown = stream_id[:9] + "A" * 22
    earlier = "st_AAAAAA" + stream_id[9:]
    statuses = [(await report(gateway, name)).status for name in (unknown, earlier, "nowhere")]
    assert statuses == [404, 410, 404]
    assert not gateway.observer.of(ClientReported)


async def test_a_report_on_somebody_elses_stream_finds_none(gateway: Running) -> None:
    stream_id = await answered(gateway, x_api_key=INTERNAL)
    assert (await report(gateway, stream_id)).status == 404
    assert (await report(gateway, stream_id, x_api_key=INTERNAL)).status == 204


async def test_reports_have_the_quota_of_readers(upstream: ScriptedUpstream) -> None:
    async with running(upstream, SUBAK_LIMITS__ENABLED="true", SUBAK_LIMITS__RESUME="2") as gateway:
        stream_id = await answered(gateway)
        assert [(await report(gateway, stream_id)).status for _ in range(3)] == [204, 204, 429]
        assert len(gateway.observer.of(ClientReported)) == 2
