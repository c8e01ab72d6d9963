"""docs/reliability.md: each row of the fault matrix has tests that exist, and the page names no others."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.reliability import MATRIX, Outcomes, function_of, page_of, rows, shows
from tests.settings import child_environment

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "reliability.md"

pytestmark = pytest.mark.timeout(600)  # collecting all tests takes a busy machine its time


@pytest.fixture(scope="module")
def collected() -> set[str]:
    """Give the names of all test functions, as pytest collects them."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(
        command, cwd=ROOT, env=child_environment(), capture_output=True, text=True, timeout=590, check=True
    )
    return {function_of(line) for line in done.stdout.splitlines() if "::" in line}


def test_the_matrix_has_each_row_once() -> None:
    assert [row.number for row in rows()] == list(range(1, 76))


def test_each_row_that_waits_for_nothing_has_a_test(collected: set[str]) -> None:
    missing = [row.number for row in rows() if not row.later and not any(shows(name, row) for name in collected)]
    assert not missing


def test_each_test_that_a_row_names_exists(collected: set[str]) -> None:
    assert {name for row in rows() for name in row.also} <= collected


def test_each_test_with_a_row_in_its_name_has_that_row(collected: set[str]) -> None:
    numbered = {name for name in collected if re.match(r"test_[a-z]\d\d_", name)}
    assert [name for name in sorted(numbered) if not any(shows(name, row) for row in rows())] == []


def test_the_page_names_the_tests_that_there_are(collected: set[str]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    expected = {name for name in collected if any(shows(name, row) for row in rows())}
    assert named == expected, "run: ./dev.py test --reliability-report=docs/reliability.md"
    assert "failed" not in page
    assert "not run" not in page


def test_a_page_tells_what_failed_and_what_was_not_run() -> None:
    seen = {"test_u01_x": Outcomes("a.py"), "test_u02_x": Outcomes("a.py")}
    seen["test_u01_x"].counts.update({"passed": 2, "failed": 1})
    seen["test_u02_x"].counts.update({"skipped": 1})
    lines = page_of(seen).splitlines()
    cells = {line.split(" | ")[0]: line.removesuffix(" |").rpartition(" | ")[2] for line in lines if line[:2] == "| "}
    assert cells["| 1"] == "2 passed, 1 failed"
    assert cells["| 2"] == "1 skipped"
    assert cells["| 3"] == "not run"
    assert cells["| 53"] == "comes with shared stores and the audit trail"
    assert len(MATRIX) == 6
