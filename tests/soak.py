"""The page of a soak: what was repeated, how often, how long it took, what came of it. Written by a run, not by hand.

    ./dev.py soak

How often stands at the test: `@pytest.mark.repeats(answers=20_000)`, with what is counted for a name. Properties have
the examples of their profile.
"""

import platform
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest
from hypothesis import is_hypothesis_test

from tests.reliability import function_of
from tests.settings import EXAMPLES, profile

OPTION: Final = "--soak-report"
_PROPERTY: Final = "repeats"


def note_repeats(items: list[pytest.Item]) -> None:
    """Write into each test's report how often it repeats, where it does."""
    for item in items:
        repeats = _repeats_of(item)
        if repeats:
            item.user_properties.append((_PROPERTY, repeats))


def _repeats_of(item: pytest.Item) -> str:
    marker = item.get_closest_marker("repeats")
    if marker is not None:
        return ", ".join(f"{count:,} {what}" for what, count in marker.kwargs.items())
    if is_hypothesis_test(getattr(item, "obj", None)):
        return f"{EXAMPLES[profile()]:,} examples"
    return ""


@dataclass
class Repeated:
    """What became of one function that repeats something; `duration_s` is that of all its cases together."""

    repeats: str
    duration_s: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)


@dataclass
class Soaked:
    """A whole run: all outcomes, and each function that repeats something, by its name."""

    outcomes: Counter[str] = field(default_factory=Counter)
    repeated: dict[str, Repeated] = field(default_factory=dict)

    def add(self, report: pytest.TestReport) -> None:
        """Take note of one phase of a test: what failed before or after it failed, too."""
        repeats = dict(report.user_properties).get(_PROPERTY)
        if isinstance(repeats, str):
            one = self.repeated.setdefault(function_of(report.nodeid), Repeated(repeats))
            one.duration_s += report.duration
            _count(one.outcomes, report)
        _count(self.outcomes, report)


def _count(outcomes: Counter[str], report: pytest.TestReport) -> None:
    if report.when == "call" or not report.passed:
        outcomes[report.outcome] += 1


class SoakReport:
    """A pytest plugin that hears how each test ended and writes the page when the run is over."""

    def __init__(self, page: Path) -> None:
        self._page = page
        self._soaked = Soaked()
        self._began_at = datetime.now(UTC)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take note."""
        self._soaked.add(report)

    def pytest_sessionfinish(self) -> None:
        """Write the page."""
        took_s = (datetime.now(UTC) - self._began_at).total_seconds()
        self._page.write_text(page_of(self._soaked, self._began_at, took_s), encoding="utf-8")


def page_of(soaked: Soaked, began_at: datetime, took_s: float) -> str:
    """Spell the page."""
    about = f"{began_at:%Y-%m-%d}, {platform.python_implementation()} {platform.python_version()}, {platform.system()}"
    lines = [
        "# Soak: every test with its full number of runs",
        "",
        f"Written by a test run (profile `{profile()}`), not by hand:",
        "",
        "    ./dev.py soak",
        "",
        f"{about}: {_result(soaked.outcomes)} in {took_s / 60:.0f} min.",
        "",
        "The tests that repeat something. Each case of a test (its parameters, and event loops) repeats it so often,",
        "and its seconds are those of all of them.",
        "",
        "| test | repeats | seconds | result |",
        "| --- | --- | ---: | --- |",
        *(
            f"| `{name}` | {one.repeats} | {one.duration_s:.0f} | {_result(one.outcomes)} |"
            for name, one in sorted(soaked.repeated.items())
        ),
    ]
    return "\n".join([*lines, ""])


def _result(outcomes: Counter[str]) -> str:
    return ", ".join(f"{outcomes[word]:,} {word}" for word in ("passed", "failed", "skipped") if outcomes[word])
