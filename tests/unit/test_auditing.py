"""The parts of the audit trail that belong to a running gateway: its hourly deletion, facts from another thread."""

import asyncio
from pathlib import Path

from subak.audit.log import AuditLog
from subak.audit.opening import open_sqlite, open_writer
from subak.audit.retention import hold
from subak.auditing import PRUNE_EVERY_S, Retention, Teller
from subak.core.facts import Crashed, Fact
from subak.state import load_secret
from subak.testing import PATIENCE_S, FakeClock
from tests.audit import end_of
from tests.trail import assert_verifies, trail_of

DAY_S = 86_400.0
DAYS = 4


class Office:
    """A log with a record a day, and who deletes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = FakeClock()
        self.told: list[Fact] = []
        writer = open_writer(
            directory,
            self.clock,
            open_store=open_sqlite(directory),
            digest_secret=load_secret(directory),
            publish=lambda _note: None,
            on_keys_created=lambda _path, _vkey: None,
        )
        for _ in range(DAYS):
            writer.write(end_of())
            writer.seal()
            self.clock.advance(DAY_S)
        self.log = AuditLog(writer, self.clock, on_defect=lambda error: self.told.append(Crashed(str(error), "")))
        self.retention = Retention(self.log, 1, Teller(self.told.append))

    async def operations(self) -> list[str]:
        """Give what is in the log, after what is queued was done."""
        await asyncio.wrap_future(self.log.perform(lambda writer: writer.seal()))
        return [entry.operation for entry in trail_of(self.directory)]

    def close(self) -> None:
        self.log.close(PATIENCE_S)
        assert not self.told


async def test_what_is_past_its_term_is_deleted(tmp_path: Path) -> None:
    office = Office(tmp_path)
    now = office.clock.monotonic()
    assert office.retention.on_deadline(now) == now + PRUNE_EVERY_S
    operations = await office.operations()
    office.close()
    assert "log.open" not in operations
    assert 0 < operations.count("stream.end") < DAYS
    assert operations[-1] == "retention.prune"


async def test_a_hold_keeps_everything(tmp_path: Path) -> None:
    office = Office(tmp_path)
    until_ms = office.clock.time_ms() + 1000
    office.log.perform(lambda writer: hold(writer, until_ms=until_ms, why="a dispute")).result(PATIENCE_S)
    office.retention.on_deadline(office.clock.monotonic())
    operations = await office.operations()
    office.close()
    assert operations.count("stream.end") == DAYS
    assert "retention.prune" not in operations
    assert_verifies(tmp_path)


async def test_after_the_log_was_closed_nothing_is_told(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.close()
    office.retention.on_deadline(office.clock.monotonic())
    await asyncio.sleep(0)
    assert office.told == []
