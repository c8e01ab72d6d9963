"""What is promised to be on disk is there after a power loss at any moment (fault matrix, row 66)."""

import random
import shutil
from pathlib import Path
from typing import Final

import msgspec
import pytest

from subak.audit.keys import KEY_FILE
from subak.audit.records import Subject
from tests.audit import AuditStage, SqlitePlace
from tests.integration.power_loss import Entry, left_by_power_loss, noted, said
from tests.integration.recording_process import Promise
from tests.settings import runs

LOSSES: Final = runs(fast=5, default=50, soak=2000)
RECORDING: Final = Path(__file__).with_name("recording_process.py")
_NOTHING: Final = Promise(0, [], [])


@pytest.mark.repeats(losses=LOSSES)
@pytest.mark.timeout(60 + 2 * LOSSES)
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
