"""A process that does everything one does with an audit log, and says what it has promised by then, a line each."""

import random
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from subak.audit import retention
from subak.audit.records import Subject
from tests.audit import TERM_MS, AuditStage, SqlitePlace, end_of, start_of, violation_of

STEPS = 120


class Promise(msgspec.Struct):
    """So many rows are on disk, these checkpoints have left the host, of these persons nothing is kept."""

    size: int
    notes: list[str]
    erased: list[str]


class Recording:
    """A log and what was promised of it."""

    def __init__(self, directory: Path, seed: int) -> None:
        self._stage = AuditStage(SqlitePlace(directory), directory)
        self._dice = random.Random(seed)
        self._people = [f"person-{number}" for number in range(9)]
        self._erased: list[str] = []

    def go_on(self) -> None:
        """Do something, and say what has been promised."""
        writer, clock = self._stage.writer, self._stage.clock
        doing: dict[Callable[[], object], int] = {
            self._write: 70,
            writer.seal: 10,
            lambda: clock.jump(self._dice.choice((1, 200, 86_400 * 31))): 5,
            lambda: retention.prune(writer, term_ms=TERM_MS): 5,
            self._erase: 5,
            lambda: retention.rotate_key(writer): 3,
            self._stage.reopen: 2,
        }
        self._dice.choices(list(doing), list(doing.values()))[0]()
        promise = Promise(self._stage.writer.size, self._stage.notes, self._erased)
        print(msgspec.json.encode(promise).decode(), flush=True)  # noqa: T201 — it talks to the test

    def _write(self) -> None:
        writer = self._stage.writer
        writer.seal()
        records = []
        for number in range(self._dice.randint(1, 60)):
            subject = Subject("principal", self._dice.choice(self._people))
            records += [start_of(subject, f"st_{number}"), end_of(f"st_{number}"), violation_of(subject)]
        writer.append([writer.stamp(record) for record in records])

    def _erase(self) -> None:
        person = self._people.pop(0)
        self._people.append(f"{person}-again")
        retention.erase_subject(self._stage.writer, Subject("principal", person))
        self._erased.append(person)


def main() -> None:
    """Do so in the directory that the command line names, with the dice of that seed."""
    recording = Recording(Path(sys.argv[1]), int(sys.argv[2]))
    for _ in range(STEPS):
        recording.go_on()


if __name__ == "__main__":
    main()
