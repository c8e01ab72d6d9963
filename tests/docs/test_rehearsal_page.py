"""docs/rehearsal.md is of a run that passed, and of the rehearsal as it is."""

import re
from pathlib import Path
from typing import Final

from tests.rehearsal.course import ALERT, STEPS

DOCS: Final = Path(__file__).parents[2] / "docs"
PAGE: Final = (DOCS / "rehearsal.md").read_text(encoding="utf-8")
MOST_MINUTES: Final = 10


def test_it_passed_in_time_with_all_answered_and_no_difference() -> None:
    (minutes,) = re.findall(r"\*\*passed in ([\d.]+) minutes\*\*", PAGE)
    assert float(minutes) < MOST_MINUTES
    assert "questions, all answered" in PAGE
    assert "0 differences" in PAGE


def test_it_went_through_all_phases_in_order() -> None:
    phases = re.findall(r"^\| \d+:\d\d \| ([^|]+) \|", PAGE, re.MULTILINE)
    climb = ["allow list", *(f"{step:g} %" for step in STEPS[1:])]
    bad = phases.index("bad release")
    assert phases[:2] == ["flag off", "permitted, for nobody"]
    assert phases[2:bad] == climb
    assert phases[bad + 1 : -4] == [f"{step} again" for step in climb][-len(phases[bad + 1 : -4]) :]
    assert phases[-4:] == ["watched at 100 %", "the quick way back", "ENABLE_SSE_STREAMING=false", "afterwards"]


def test_the_bad_release_was_taken_back_and_paged() -> None:
    (taken_back_s,) = re.findall(r"^\| ([\d.]+) s \| the rollout goes back by itself", PAGE, re.MULTILINE)
    (paged_s,) = re.findall(rf"^\| ([\d.]+) s \| `{ALERT}` is firing", PAGE, re.MULTILINE)
    assert float(taken_back_s) < float(paged_s)


def test_its_charts_are_there() -> None:
    charts = re.findall(r"\]\((images/rehearsal-\w+(?:-\w+)?\.svg)\)", PAGE)
    assert len(charts) == 4
    assert [chart for chart in charts if not (DOCS / chart).is_file()] == []
