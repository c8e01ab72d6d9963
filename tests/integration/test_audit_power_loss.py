"""What is promised to be on disk is there after a kill or a power loss at any moment (fault matrix, rows 65 and 66).

The process that it befalls does all that one does with a log: it writes, seals, prunes, erases and rotates its key.
"""

import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec
import pytest

from subak.audit.keys import KEY_FILE
from subak.audit.records import Subject
from tests.audit import AuditStage, SqlitePlace
from tests.integration.power_loss import Entry, left_by_power_loss, noted, said
from tests.integration.recording_process import STEPS, Promise
from tests.settings import child_environment, runs

KILLS: Final = runs(fast=2, default=10, soak=300)
LOSSES: Final = runs(fast=5, default=50, soak=2000)
ROOT: Final = Path(__file__).parents[2]
RECORDING: Final = Path(__file__).with_name("recording_process.py")
_NOTHING: Final = Promise(0, [], [])


@pytest.mark.repeats(losses=LOSSES)
@pytest.mark.timeout(300 + 4 * LOSSES)
def test_s66_after_a_power_loss_nothing_that_was_promised_is_missing(tmp_path: Path) -> None:
    live, found = tmp_path / "live", tmp_path / "found"
    live.mkdir()
    entries = noted(RECORDING, live, "66")
    assert len(entries) > 1000
    dice = random.Random(66)
    for _ in range(LOSSES):
        until = dice.randint(1, len(entries))
        found.mkdir(mode=0o700)
        left_by_power_loss(entries[:until], dice, live, found)
        check(found, promised_by(entries[:until]))
        shutil.rmtree(found)


@pytest.mark.repeats(kills=KILLS)
@pytest.mark.timeout(60 + 10 * KILLS)
def test_s65_killed_in_whatever_it_does_to_its_log_a_process_keeps_its_promises(tmp_path: Path) -> None:
    for seed in range(KILLS):
        found = tmp_path / str(seed)
        found.mkdir(mode=0o700)
        check(found, promised_and_killed(found, seed))
        shutil.rmtree(found)


def promised_and_killed(folder: Path, seed: int) -> Promise:
    """Let a process work on a log and kill it somewhere; give what it had last said."""
    lines = random.Random(seed).randint(1, STEPS - 20)
    command = [sys.executable, str(RECORDING), str(folder), str(seed)]
    environment = child_environment(PYTHONPATH=f"{ROOT / 'src'}:{ROOT}")
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        heard = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        heard += process.stdout.read().splitlines(keepends=True)
    return msgspec.json.decode([line for line in heard if line.endswith(b"\n")][-1], type=Promise)


def promised_by(entries: list[Entry]) -> Promise:
    """Give what the process had last said."""
    lines = said(entries)
    return msgspec.json.decode(lines[-1], type=Promise) if lines else _NOTHING


def check(found: Path, promise: Promise) -> None:
    """Start from what the power loss has left: all that was promised holds."""
    if promise.size:
        assert (found / KEY_FILE).exists()
    stage = AuditStage(SqlitePlace(found), found)
    try:
        assert stage.writer.size >= promise.size
        assert stage.judge(*promise.notes).findings == ()
        for person in promise.erased:
            assert stage.writer.finder.numbers_of(Subject("principal", person)) == ()
    finally:
        stage.close()
