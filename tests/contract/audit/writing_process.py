"""A process that records until it is killed: it says which records are on disk, one seq a line."""

import asyncio
import sys
from itertools import count
from pathlib import Path

from subak.audit.log import AuditLog
from subak.audit.opening import open_sqlite, open_writer
from subak.audit.records import Subject
from subak.clocks import SystemClock
from tests.audit import DIGEST_SECRET, start_of


async def record_on(log: AuditLog) -> None:
    """Record four streams at a time, for ever."""
    for number in count():
        tickets = [log.submit(start_of(Subject("stream", f"st_{number}_{each}"))) for each in range(4)]
        for ticket in tickets:
            print((await ticket.wait()).seq, flush=True)  # noqa: T201 — it talks to the test


def main() -> None:
    """Record in the directory that the command line names."""
    directory, clock = Path(sys.argv[1]), SystemClock()
    writer = open_writer(
        directory,
        clock,
        open_store=open_sqlite(directory),
        digest_secret=DIGEST_SECRET,
        publish=lambda _note: None,
        on_keys_created=lambda _path, _vkey: None,
    )
    asyncio.run(record_on(AuditLog(writer, clock, on_defect=lambda _error: None)))


if __name__ == "__main__":
    main()
