"""A process that is killed at any point leaves a log that verifies and has every record that was said to be there."""

import random
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pytest

from tests.audit import AuditStage, SqlitePlace
from tests.settings import child_environment, runs

ROOT = Path(__file__).parents[3]
CHILD = Path(__file__).with_name("writing_process.py")
KILLS: Final = runs(fast=2, default=10, soak=1000)
KILLS_OF_A_LOG: Final = 50
"""Then a new log is begun: each kill has all of it verified."""


@pytest.mark.repeats(kills=KILLS)
@pytest.mark.timeout(120 + 12 * KILLS)
def test_a_killed_process_loses_no_acknowledged_record(tmp_path: Path) -> None:
    for first in range(0, KILLS, KILLS_OF_A_LOG):
        kill_often(tmp_path / str(first), range(first, min(first + KILLS_OF_A_LOG, KILLS)))


def kill_often(directory: Path, seeds: Iterable[int]) -> None:
    """Let processes record into one log, each killed after so many acknowledgements; after each it is whole."""
    directory.mkdir()
    stage = AuditStage(SqlitePlace(directory), directory)
    for seed in seeds:
        stage.close()
        acknowledged = record_and_kill(directory, random.Random(seed).randint(1, 120))
        assert stage.judge().findings == ()
        stage.open()
        assert stage.writer.size > acknowledged
        assert stage.judge().findings == ()
    stage.close()


def record_and_kill(directory: Path, lines: int) -> int:
    """Let a process record and kill it after so many acknowledgements; give the last one's seq."""
    environment = child_environment(PYTHONPATH=f"{ROOT / 'src'}:{ROOT}")
    with subprocess.Popen([sys.executable, CHILD, directory], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        said += process.stdout.read().splitlines(keepends=True)
    return int([line for line in said if line.endswith(b"\n")][-1])
