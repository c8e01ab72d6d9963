"""The rehearsal's pieces: what it expects, what it hears, what it writes. The whole of it is `./dev.py rehearse`."""

import asyncio
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from xml.etree.ElementTree import fromstring

import pytest

from subak.core.rollout_plan import Phase
from tests.integration.gateway import Answer
from tests.rehearsal.arms import Arms, Stretch, check_same, check_share, check_stays_in
from tests.rehearsal.chat import Compared, Essence, essence_of
from tests.rehearsal.course import ALERT, Done, Injected
from tests.rehearsal.expect import Unmet, expect, expect_to_see, expect_within
from tests.rehearsal.load import Asked, ChatTimes, trouble_of
from tests.rehearsal.report import Circumstances, Rehearsed, page_of, percentile, write
from tests.rehearsal.watching import FIRING, Figures, Following

ROLLOUT = """{
  "flag": "ENABLE_SSE_STREAMING",
  "rollout": {
    "steps": [0, 5, 100], "hold_s": 15, "started_at": "2026-11-23T06:00:00Z", "step_since": "2026-11-23T06:00:00Z",
    "why": "%s", "step": %d, "phase": "%s"
  },
  "status": null
}
"""


def arms(let_in: Iterable[int], refused: Iterable[int]) -> Arms:
    return Arms(frozenset(f"caller-{each}" for each in let_in), frozenset(f"caller-{each}" for each in refused))


def asked(at_s: float, caller: str = "caller-1", *, status: int = 200, is_whole: bool = True) -> Asked:
    return Asked(at_s, at_s + 0.1, caller, status, is_whole, 45.0 if is_whole else None, None if is_whole else 40.0, "")


def test_callers_are_on_the_arm_that_the_flag_gave_them() -> None:
    told = [asked(1), asked(2, "caller-2", status=403, is_whole=False), asked(3, "tester-1")]
    assert Arms.of(told) == arms([1], [2])
    assert Arms.of(told).share == 50
    broken = asked(4, "caller-3", status=503, is_whole=False)
    assert Arms.of([broken]) == arms([3], [])


def test_a_share_near_its_percentage_is_taken_and_another_is_not() -> None:
    check_share(arms(range(22), range(22, 400)), 5, 400)
    with pytest.raises(Unmet, match=r"25 % of the callers are in: 5\.5 % of 400 are"):
        check_share(arms(range(22), range(22, 400)), 25, 400)


def test_at_100_percent_nobody_may_be_out() -> None:
    check_share(arms(range(400), []), 100, 400)
    with pytest.raises(Unmet, match="100 % of the callers are in"):
        check_share(arms(range(399), [399]), 100, 400)


def test_a_caller_who_is_told_both_is_found() -> None:
    with pytest.raises(Unmet, match="caller-0 are both"):
        check_share(arms(range(22), [0, *range(22, 400)]), 5, 400)


def test_a_share_of_too_few_is_none() -> None:
    with pytest.raises(Unmet, match="20 did"):
        check_share(arms([0], range(1, 20)), 5, 400)


def test_whoever_was_in_must_stay_in() -> None:
    check_stays_in(arms([1, 2], [3]), arms([1, 2, 3], []))
    with pytest.raises(Unmet, match="caller-2 aren't"):
        check_stays_in(arms([1, 2], [3]), arms([1, 3], [2]))


def test_the_same_percentage_has_the_same_callers() -> None:
    check_same(arms([1], [2]), arms([1], [2, 3]))
    with pytest.raises(Unmet, match="caller-2 have changed"):
        check_same(arms([1], [2]), arms([1, 2], []))


def test_what_was_decided_after_a_stretch_says_nothing_about_it() -> None:
    within, late = asked(5), asked(5)._replace(told_s=31.0)
    assert Stretch(0, 30).wholly([asked(0.1), within, late, asked(29.8)]) == [within]
    assert len(Stretch(0, 30).of([asked(0.1), within, late, asked(29.8), asked(30)])) == 4


def chat_answer(body: bytes = b"{}", status: int = 200, *, is_clean: bool = True, **headers: str) -> Answer:
    named = {"Content-Type": "application/json", "Date": "now", "Server": "one"} | headers
    return Answer(status=status, headers=[*named.items()], pieces=[body], is_clean=is_clean)


def test_what_each_hop_writes_anew_is_no_difference() -> None:
    compared = Compared({"q": essence_of(chat_answer())})
    compared.take("q", chat_answer(Date="later", Server="nginx", Connection="keep-alive"))
    assert (compared.count, compared.difference_count) == (1, 0)


@pytest.mark.parametrize(
    "seen",
    [
        chat_answer(b"{ }"),
        chat_answer(status=502),
        chat_answer(X_Added="1"),
        chat_answer(is_clean=False),
        Answer(),
    ],
    ids=["body", "status", "header", "cut", "nothing"],
)
def test_anything_else_is_a_difference(seen: Answer) -> None:
    compared = Compared({"q": essence_of(chat_answer())})
    compared.take("q", seen)
    assert (compared.count, compared.difference_count) == (1, 1)
    assert "instead of" in compared.differences[0]


def test_of_many_differences_the_first_are_told_and_all_are_counted() -> None:
    compared = Compared({})
    for _ in range(20):
        compared.compare("x", Essence(502), Essence(200))
    assert (len(compared.differences), compared.difference_count) == (5, 20)


def part(*events: str, is_clean: bool = True) -> Answer:
    return Answer(status=200, pieces=["".join(events).encode()], is_clean=is_clean)


def event(seq: int, kind: str, data: str) -> str:
    envelope = f'{{"type":"{kind}","data":{data},"sequence":{seq},"timestamp":1}}'
    return f"id: st_sample0000000000000000000000.{seq}\nevent: message\ndata: {envelope}\n\n"


METADATA, TOKEN, DONE = event(1, "metadata", "{}"), event(2, "token", '"Ciao"'), event(3, "done", "{}")


@pytest.mark.parametrize(
    ("parts", "trouble"),
    [
        ([part(METADATA, TOKEN, DONE)], ""),
        ([part(METADATA, TOKEN, "id: st_sam", is_clean=False), part(DONE)], ""),
        ([part(METADATA, is_clean=False)], "cut"),
        ([part(METADATA, TOKEN)], "garbled"),
        ([part(METADATA, is_clean=False), part(DONE)], "garbled"),
        ([part(METADATA, event(2, "error", '{"code":"upstream_error"}'))], "upstream_error"),
    ],
    ids=["whole", "resumed", "cut", "without an end", "with a hole", "failed"],
)
def test_an_answer_is_whole_only_with_every_event_once_and_its_end(parts: list[Answer], trouble: str) -> None:
    assert trouble_of(parts) == trouble


async def test_an_expectation_that_is_not_met_says_so() -> None:
    expect(is_met=True, sentence="never said")
    with pytest.raises(Unmet, match="it is dry: it rains"):
        expect(is_met=False, sentence="it is dry: it rains")
    with pytest.raises(Unmet, match=r"within 0\.01 s: it is dry"):
        await expect_within(0.01, lambda: False, lambda: "it is dry")
    with pytest.raises(Unmet, match=r"within 0\.01 s: it is dry"):
        await expect_to_see(0.01, never, "it is dry")


async def never() -> bool:
    return False


async def heard(*documents: str, code: int = 0) -> tuple[Following, int]:
    """Follow a command that prints these documents and ends so."""
    script = f"import sys; sys.stdout.write({''.join(documents)!r}); sys.exit({code})"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    following = Following(process)
    await following.read()
    return following, await following.ended(20)


async def test_a_rollout_is_followed_from_document_to_document() -> None:
    following, code = await heard(ROLLOUT % ("started", 0, "running"), ROLLOUT % ("finished", 2, "finished"))
    assert [(each.phase, each.percentage) for each in following.seen] == [(Phase.RUNNING, 0), (Phase.FINISHED, 100)]
    assert code == 0
    assert (await following.until(lambda now: now.step == 2, "the last step", 20)).why == "finished"


async def test_a_rollout_that_ends_otherwise_is_told_with_its_reason() -> None:
    following, code = await heard(ROLLOUT % ("error-rate is 60 %%", 0, "rolled_back"), code=1)
    assert code == 1
    with pytest.raises(Unmet, match=r"5 % begins: it is rolled_back at 0 %, error-rate is 60 %"):
        await following.until(lambda now: now.step == 1, "5 % begins", 20)


SEEN = Figures(45.0, 60.0, 15.0, 0.0, 100.0, 40.0)


def rehearsed(load_before: float = 0.1, *, is_lenient: bool = False) -> Rehearsed:
    at = datetime(2026, 11, 23, 6, 0, tzinfo=UTC)
    phases = [
        Done("flag off", "`subak check`", Stretch(0, 20), 10, ["smoke: 8 checks ok"], SEEN),
        Done("bad release", "streams break", Stretch(20, 60), 20, [], SEEN),
        Done("watched at 100 %", "a look", Stretch(60, 120), 30, [], SEEN),
    ]
    broken = [asked(25, is_whole=False, status=500), asked(26, is_whole=False)]
    refused = [asked(5, status=403, is_whole=False)]
    return Rehearsed(
        circumstances=Circumstances(at, 2, 24.0, "Linux 6.1", "CPython 3.11.2", load_before),
        busy=0.5,
        took_s=125.0,
        phases=phases,
        asked=[*refused, *broken, *(asked(float(second)) for second in range(61, 120))],
        chat_times=[ChatTimes(float(second), 40.0, 42.0, 43.0) for second in range(0, 120, 2)],
        compared=60,
        alerts={(ALERT, "pending"): 30.0, (ALERT, FIRING): 110.0},
        injected=Injected(20.0, 24.5, "rolled back from 100 %: error-rate is 60 %", 40.0, 50.0, 25.0, [50.0, 25.0]),
        percentages=[(18.0, 100.0), (24.5, 50.0), (30.0, 25.0), (60.0, 100.0)],
        is_lenient=is_lenient,
    )


def test_the_page_tells_what_was_seen() -> None:
    page = page_of(rehearsed())
    assert "2026-11-23, 2 cores, 24 GiB, Linux 6.1, CPython 3.11.2: **passed in 2.1 minutes**" in page
    assert "62 questions, all answered; 60 answers of `/chat` compared" in page
    assert "| 0:20 | bad release | streams break | 2 | 100.0 % | – | 2 | 20 |" in page
    assert "| 1:00 | watched at 100 % | a look | 59 | 100.0 % | 45 / 45 | 0 | 30 |" in page
    assert "- flag off: smoke: 8 checks ok." in page
    assert "*rolled back from 100 %: error-rate is 60 %*; then to 25 %" in page
    assert f"| 90.0 s | `{ALERT}` is firing |" in page
    assert "Others used the machine" not in page
    assert "times as wide" not in page


def test_the_page_says_that_the_machine_was_shared_and_bounds_were_wider() -> None:
    page = page_of(rehearsed(9.0, is_lenient=True))
    assert "its load average was 9.0" in page
    assert "--good-first-token 1000 --bad-first-token 2000" in page
    assert "bounds of time are 10 times as wide" in page


def test_the_charts_are_whole_files_that_fetch_nothing(tmp_path: Path) -> None:
    write(rehearsed(), tmp_path)
    charts = sorted((tmp_path / "images").glob("*.svg"))
    page = (tmp_path / "rehearsal.md").read_text(encoding="utf-8")
    assert len(charts) == 4
    for chart in charts:
        assert f"(images/{chart.name})" in page
        text = chart.read_text(encoding="utf-8")
        lines = [element for element in fromstring(text).iter() if element.tag.endswith(("polyline", "circle"))]  # noqa: S314 - our own
        assert lines
        assert "bad release" in text
        assert "href" not in text


def test_a_percentile_is_the_nearest_rank() -> None:
    assert [percentile([3.0, 1.0, 2.0, 4.0], share) for share in (0.0, 0.5, 0.75, 0.95, 1.0)] == [1, 2, 3, 4, 4]
