"""Set-up of every test run: the hypothesis profiles (see tests/settings.py), and the pages that are written by runs."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import reliability, soak
from tests.settings import EXAMPLES, profile

# No deadline per example: the machine is shared, and a slow example isn't a wrong one.
# `fast` draws the same examples each time, so that a check of the same tree gives the same answer.
settings.register_profile(
    profile(),
    max_examples=EXAMPLES[profile()],
    deadline=None,
    derandomize=profile() == "fast",
    print_blob=profile() != "fast",
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(profile())


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that have a page written."""
    parser.addoption(
        reliability.OPTION, metavar="FILE", type=Path, help="write the fault matrix with this run's results"
    )
    parser.addoption(soak.OPTION, metavar="FILE", type=Path, help="write what was repeated, how often and for how long")


def pytest_configure(config: pytest.Config) -> None:
    """Have them written, by the process that hears of all results."""
    if hasattr(config, "workerinput"):
        return
    for option, make in ((reliability.OPTION, reliability.ReliabilityReport), (soak.OPTION, soak.SoakReport)):
        page: Path | None = config.getoption(option)
        if page is not None:
            config.pluginmanager.register(make(page))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have each test's report say how often it repeats."""
    soak.note_repeats(items)
