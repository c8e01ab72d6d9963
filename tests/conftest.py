"""Set-up of every test run: the hypothesis profiles (see tests/settings.py), and the page of the fault matrix."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.reliability import OPTION, ReliabilityReport
from tests.settings import EXAMPLES, profile

# No deadline per example: the machine is shared, and a slow example isn't a wrong one.
# `fast` draws the same examples each time, so that a check of the same tree gives the same answer.
settings.register_profile("fast", max_examples=EXAMPLES["fast"], deadline=None, derandomize=True)
settings.register_profile("default", max_examples=EXAMPLES["default"], deadline=None, print_blob=True)
settings.register_profile(
    "soak",
    max_examples=EXAMPLES["soak"],
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(profile())


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that has the page written."""
    parser.addoption(OPTION, metavar="FILE", type=Path, help="write the fault matrix with this run's results")


def pytest_configure(config: pytest.Config) -> None:
    """Have it written, by the process that hears of all results."""
    page: Path | None = config.getoption(OPTION)
    if page is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(ReliabilityReport(page))
