"""A process that is killed at any point leaves a log that verifies and has every record that was said to be there."""

import random
import subprocess
import sys
from pathlib import Path

from tests.audit import AuditStage, SqlitePlace
from tests.settings import child_environment, runs

ROOT = Path(__file__).parents[3]
CHILD = Path(__file__).with_name("writing_process.py")


def test_a_killed_process_loses_no_acknowledged_record(tmp_path: Path) -> None:
    stage = AuditStage(SqlitePlace(tmp_path), tmp_path)
    for seed in range(runs(fast=2, default=10, soak=1000)):
        stage.close()
        acknowledged = record_and_kill(tmp_path, random.Random(seed).randint(1, 120))
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
