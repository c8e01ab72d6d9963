"""The page that a soak writes."""

from datetime import UTC, datetime

import pytest

from tests.soak import Soaked, note_repeats, page_of

AT = datetime(2026, 11, 23, 6, 0, tzinfo=UTC)


def phase(name: str, outcome: str, *, when: str = "call", repeats: str = "") -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=f"tests/x.py::{name}[uvloop]",
        location=("tests/x.py", 0, name),
        keywords={},
        outcome=outcome,  # type: ignore[arg-type]  # one of three words
        longrepr=None,
        when=when,  # type: ignore[arg-type]  # (the same)
        duration=2.0,
        user_properties=[("repeats", repeats)] if repeats else [],
    )


def soaked(*phases: pytest.TestReport) -> list[str]:
    found = Soaked()
    for each in phases:
        found.add(each)
    return page_of(found, AT, 1500).splitlines()


def test_each_test_that_repeats_something_has_a_row_with_its_count_its_cases_and_their_time() -> None:
    once = phase("test_once", "passed")
    lines = soaked(once, *[phase("test_often", "passed", repeats="20,000 answers")] * 2)
    assert lines[-1] == "| `test_often` | 20,000 answers | 4 | 2 passed |"
    assert not any("test_once" in line for line in lines)


def test_the_page_tells_when_how_long_and_how_it_ended() -> None:
    failed = phase("test_often", "failed", when="teardown", repeats="3 runs")
    lines = soaked(phase("test_once", "passed"), phase("test_often", "passed", repeats="3 runs"), failed)
    assert any(line.startswith("2026-11-23, ") and "2 passed, 1 failed in 25 min." in line for line in lines)
    assert lines[-1] == "| `test_often` | 3 runs | 4 | 1 passed, 1 failed |"


def test_how_often_a_test_repeats_stands_at_the_test(request: pytest.FixtureRequest) -> None:
    node: pytest.Item = request.node
    assert node.user_properties == []
    node.add_marker(pytest.mark.repeats(answers=20_000, readers=3))
    note_repeats([node])
    assert node.user_properties == [("repeats", "20,000 answers, 3 readers")]
    node.user_properties.clear()  # or this one would have a row on the page
