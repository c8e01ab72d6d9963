"""What the audit trail costs: records a second, verification, the caller's share, a first token with and without.

`python bench/audit.py [--records 100000] [--rounds 5] [--folder DIR]` prints Markdown. Records are those of streams
that begin and end, three in four of a thousand users, the rest anonymous, written as the gateway writes them: by its
recorder and the writer's thread, on SQLite with `synchronous=FULL`. The folder should be on the disk that is meant.

How long a start takes to the disk stands beside what the disk takes by itself. It matters only as far as the upstream
is faster: a start is on its way before the upstream is asked, and the first token waits for the later of the two.

The last part starts two gateways, one with the trail and one without, and `load` opens 200 streams a second through
each in turn. The difference of their first tokens is what auditing adds.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import run

from subak.audit.keys import load_keys
from subak.audit.log import AuditLog
from subak.audit.opening import open_sqlite, open_writer
from subak.audit.recorder import Recorder
from subak.audit.rows import PersonalReader, Pseudonyms
from subak.audit.sqlite import LOG_FILE, SqliteReader
from subak.audit.subjects import SUBJECT_FOLDER, SubjectKeyReader
from subak.audit.verdict import Evidence, Report
from subak.audit.verify import verify
from subak.audit.verify_rows import Unlocked
from subak.clocks import SystemClock
from subak.core.facts import Person, StreamEnded, StreamOpened

DIGEST_SECRET: Final = b"a secret of the benchmark, 32 by"
STARTS_PER_S: Final = 200
WAIT_EVERY: Final = 1000
NOTED: Final = 20_000
FLUSH_S: Final = 600.0
SYNCED: Final = 1000
BLOCK: Final = b"x" * 4096


@contextmanager
def recording(folder: Path) -> Iterator[Recorder]:
    """A recorder and the log below it; all is on disk when the block ends."""
    clock = SystemClock()
    writer = open_writer(
        folder,
        clock,
        open_store=open_sqlite(folder),
        digest_secret=DIGEST_SECRET,
        publish=lambda _note: None,
        on_keys_created=lambda _path, _vkey: None,
    )
    log = AuditLog(writer, clock, on_defect=fail)
    try:
        yield Recorder(log, clock, is_strict=True, tell=lambda _fact: None)
    finally:
        if not log.close(FLUSH_S):
            raise run.BenchError("records were lost")


def fail(error: BaseException) -> None:
    """Say what shouldn't be."""
    print(f"the writer's thread: {error!r}", file=sys.stderr)


def facts(number: int) -> tuple[StreamOpened, StreamEnded]:
    """The two facts of one stream."""
    stream_id = f"st_{number:032x}"
    connection = f"c_{number:020x}"
    query = f"Which papers does case {number % 5000} need, and who stamps them?"
    user = f"user:{number % 1000}" if number % 4 else ""
    who = Person(user, None, f"{user[5:]}@example.org" if user else None, "198.51.100.7", query)
    opened = StreamOpened(stream_id, connection, "GET chat-stream", who)
    return opened, StreamEnded(stream_id, connection, opened.route, "stop", "", 212, 9381, 141.2, 3912.0, who=who)


async def write(recorder: Recorder, streams: int) -> None:
    """Record so many streams, as fast as the disk takes them."""
    for number in range(streams):
        opened, ended = facts(number)
        start = recorder.begin(opened)
        recorder.notify(ended)
        if start is not None and number % WAIT_EVERY == 0:
            on_disk: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            start.when_done(on_disk.set_result)
            await on_disk


def written_per_s(folder: Path, records: int) -> float:
    """Records a second from the first until all are on disk and sealed."""
    began = time.perf_counter()
    with recording(folder) as recorder:
        asyncio.run(write(recorder, records // 2))
    return records / (time.perf_counter() - began)


@dataclass(frozen=True, slots=True)
class NotifyCost:
    """Microseconds in the caller's thread: CPU on average, and by the clock while the writer's thread works."""

    cpu_us: float
    p50_us: float
    p99_us: float


async def note(recorder: Recorder) -> NotifyCost:
    """Tell of streams, with a pause now and then, as they come to a gateway."""
    spent: list[float] = []
    cpu_s = 0.0
    for number in range(NOTED):
        _, ended = facts(number)
        cpu, began = time.thread_time(), time.perf_counter()
        recorder.notify(ended)
        spent.append((time.perf_counter() - began) * 1e6)
        cpu_s += time.thread_time() - cpu
        if number % 10 == 0:
            await asyncio.sleep(0.001)
    cuts = statistics.quantiles(spent, n=100)
    return NotifyCost(cpu_s / NOTED * 1e6, cuts[49], cuts[98])


def notify_cost(folder: Path) -> NotifyCost:
    """What one fact costs who tells it."""
    with recording(folder) as recorder:
        return asyncio.run(note(recorder))


async def synced_us(folder: Path) -> list[float]:
    """Microseconds of each `fdatasync` of a block more, as many a second as streams start."""
    spent: list[float] = []
    with (folder / "blocks").open("wb", buffering=0) as file:
        for _ in range(SYNCED):
            file.write(BLOCK)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            note_time(spent, began)
            await asyncio.sleep(1 / STARTS_PER_S)
    return spent


async def started_us(recorder: Recorder) -> list[float]:
    """Microseconds from each start until it is known to be on disk, as many a second."""
    spent: list[float] = []
    for number in range(SYNCED):
        began = time.perf_counter()
        start = recorder.begin(facts(4 * number)[0])  # anonymous: each with a key of its own
        if start is not None:
            start.when_done(partial(note_time, spent, began))
        await asyncio.sleep(1 / STARTS_PER_S)
    return spent


def note_time(spent: list[float], began: float, is_safe: bool = True) -> None:  # noqa: FBT001, FBT002 — a call-back's
    """Note the microseconds since then. Raises: BenchError for what isn't safe."""
    if not is_safe:
        raise run.BenchError("a start was lost")
    spent.append((time.perf_counter() - began) * 1e6)


@dataclass(frozen=True, slots=True)
class Verification:
    """One pass over the log. `growth_kib`: of the resident memory, from the first 10 000 rows to its peak."""

    rows_per_s: float
    growth_kib: int


def verified(folder: Path, *, with_keys: bool) -> Verification:
    """Verify the log. Raises: BenchError if it doesn't hold."""
    keys = load_keys(folder)
    reader = SqliteReader(folder / LOG_FILE)
    subjects = SubjectKeyReader(folder / SUBJECT_FOLDER, keys.wrapping_key)
    unlocked = Unlocked(
        PersonalReader(keys.origin, subjects), Pseudonyms(keys, DIGEST_SECRET), subjects, frozenset(keys.months)
    )
    memory: list[int] = []
    began = time.perf_counter()
    report = verify(
        reader,
        Evidence(keys.first_vkey, is_pinned=True),
        unlocked=unlocked if with_keys else None,
        on_progress=lambda _rows, _size: memory.append(run.memory_kib(os.getpid())[0]),
    )
    spent_s = time.perf_counter() - began
    subjects.close()
    reader.close()
    check(report)
    return Verification(report.size / spent_s, max(memory[1:]) - memory[1])


def check(report: Report) -> None:
    """Raise BenchError if the log isn't whole."""
    if report.findings:
        raise run.BenchError(f"the log doesn't verify: {report.findings[:3]}")


GATEWAYS: Final = {"without": "false", "with": "true"}
OPEN: Final = {
    "SUBAK_LIMITS__ENABLED": "false",
    "SUBAK_AUDIT__MODE": "strict",
}


@dataclass(frozen=True, slots=True)
class Upstream:
    """How the origin answers, what `load` is told of it, and which of its figures is the first token's."""

    title: str
    words: Mapping[str, float]
    figure: str


UPSTREAMS: Final = (
    Upstream(
        "after up to 1 s, evenly spread; from the upstream's write to the reader's read",
        {"--rate": 1, "--count": 1},
        "latency_us",
    ),
    Upstream("at once; from asking to the reader's read", {"--rate": 50, "--count": 10, "--prompt": 1}, "first_us"),
)


def first_tokens(upstream: Upstream, rounds: int, window_s: float) -> Iterator[dict[str, dict[str, float]]]:
    """For each round, microseconds of the first token by gateway and quantile."""
    with ExitStack() as stack:
        bench = stack.enter_context(run.opened(is_pinned=False))
        targets = {name: stack.enter_context(gateway(bench, audited)) for name, audited in GATEWAYS.items()}
        for target in targets.values():
            drive(bench, target, upstream, 2.0)  # what is made at the first request
        for number in range(rounds):
            names = list(targets) if number % 2 else list(targets)[::-1]
            yield {name: drive(bench, targets[name], upstream, window_s) for name in names}


@contextmanager
def gateway(bench: run.Bench, audited: str) -> Iterator[run.Target]:
    """A gateway that is ready."""
    port, admin_port = run.free_port(), run.free_port()
    settings = {"SUBAK_ADMIN__PORT": admin_port, "SUBAK_AUDIT__ENABLED": audited, **OPEN}
    with run.running(bench.gateway(port, settings), bench.log) as process:
        run.wait_ready(port, process, bench.log)
        yield run.Target("gateway", port, run.GATEWAY_PATH, "envelope", process)


def drive(bench: run.Bench, target: run.Target, upstream: Upstream, window_s: float) -> dict[str, float]:
    """Open streams for a second longer than the window; give the window's quantiles. Raises: BenchError."""
    words = {
        **upstream.words,
        "--streams": int(STARTS_PER_S * (window_s + 1)),
        "--ramp": window_s + 1,
        "--from": 1,
        "--to": window_s + 1,
        "--deadline": window_s + 20,
        "--at": time.monotonic_ns() + 200_000_000,
    }
    command = bench.load(target, *(str(word) for pair in words.items() for word in pair))
    with run.running(command, bench.log, reads_output=True) as load:
        found = json.loads(run.read_line(load, bench.log))
    if found["completed"] < found["started"]:
        raise run.BenchError(f"streams were lost: {found['faults']}")
    quantiles: dict[str, float] = found[upstream.figure]
    return quantiles


def report_log(folder: Path, records: int) -> None:
    """Write and verify a log, and say how fast that was."""
    rate = written_per_s(folder, records)
    size_mib = sum(path.stat().st_size for path in folder.glob("audit.db*")) / 2**20
    print(
        f"| written, `synchronous=FULL`, {records:,} records, {size_mib:.0f} MiB | {rate:,.0f} records/s |", flush=True
    )
    for name, with_keys in (("verified", False), ("verified with the keys", True)):
        found = verified(folder, with_keys=with_keys)
        growth = f"memory grew by {found.growth_kib:,} KiB"
        print(f"| {name} | {found.rows_per_s:,.0f} records/s, {growth} |", flush=True)


def report_notify(folder: Path) -> None:
    """Say what a fact costs who tells it."""
    cost = notify_cost(folder)
    clock = f"{cost.p50_us:.1f} µs p50, {cost.p99_us:.1f} µs p99 by the clock"
    print(f"| one `notify` | {cost.cpu_us:.1f} µs CPU, {clock} |", flush=True)


def report_disk(folder: Path) -> None:
    """Say how long the disk takes, by itself and for a start."""
    alone = asyncio.run(synced_us(folder))
    with recording(folder) as recorder:
        started = asyncio.run(started_us(recorder))
    for name, spent in (
        (f"one `fdatasync` of 4 KiB, {STARTS_PER_S} a second", alone),
        (f"an anonymous start until it is on disk (two of them), {STARTS_PER_S} a second", started),
    ):
        cuts = statistics.quantiles(spent, n=100)
        print(f"| {name} | {cuts[49]:,.0f} µs p50, {cuts[98]:,.0f} µs p99 |", flush=True)


def report_first_tokens(upstream: Upstream, rounds: int, window_s: float) -> None:
    """Say what auditing adds to a first token."""
    seen = list(first_tokens(upstream, rounds, window_s))
    print(f"\nThe upstream's first token comes {upstream.title}.")
    print(f"\n| first token, {STARTS_PER_S} starts/s, {rounds} rounds of {window_s:.0f} s | p50 | p99 |\n|---|---|---|")
    for name in GATEWAYS:
        cells = [f"{statistics.median(one[name][q] for one in seen):,.0f} µs" for q in ("p50", "p99")]
        print(f"| {name} the trail | {cells[0]} | {cells[1]} |")
    added = {q: [one["with"][q] - one["without"][q] for one in seen] for q in ("p50", "p99")}
    spread = [f"{statistics.median(all_):+,.0f} µs ({min(all_):+,.0f} – {max(all_):+,.0f})" for all_ in added.values()]
    print(f"| added, median of the rounds (least – greatest) | {spread[0]} | {spread[1]} |")


def main(arguments: Sequence[str]) -> int:
    """Run it all. Gives the exit code."""
    parser = argparse.ArgumentParser(description="Measure the audit trail.")
    parser.add_argument("--records", type=int, default=100_000, help="of the log that is written and verified")
    parser.add_argument("--rounds", type=int, default=5, help="of the first token, each through both gateways")
    parser.add_argument("--window", type=float, default=10.0, help="seconds of each")
    parser.add_argument("--folder", type=Path, help="where the logs are written (default: the temporary folder)")
    given = parser.parse_args(arguments)
    print("| | |\n|---|---|")
    try:
        for part in (lambda folder: report_log(folder, given.records), report_notify, report_disk):
            with tempfile.TemporaryDirectory(prefix="subak-audit-", dir=given.folder) as folder:
                part(Path(folder))
        run.build()
        for upstream in UPSTREAMS:
            report_first_tokens(upstream, given.rounds, given.window)
    except run.BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
