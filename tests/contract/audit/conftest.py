"""The stores that the contract of `subak.audit.store` and every tamper case are held against."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.audit import AuditStage, Place, PostgresPlace, SqlitePlace
from tests.postgres import Postgres, postgres


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """One server for all tests of a process."""
    with postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.real)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A place for a log."""
    if request.param == "sqlite":
        return SqlitePlace(tmp_path)
    return PostgresPlace(request.getfixturevalue("postgres_server"))


@pytest.fixture
def stage(place: Place, tmp_path: Path) -> Iterator[AuditStage]:
    """A log in that place."""
    stage = AuditStage(place, tmp_path)
    yield stage
    stage.close()
