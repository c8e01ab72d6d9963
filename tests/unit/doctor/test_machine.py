"""What `subak doctor` says of the machine: broken parts by real broken modules, clocks and limits by their figures."""

import resource
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

import subak
from subak.doctor.findings import Status
from subak.doctor.gateway import connections_below, judge_open_files
from subak.doctor.machine import Clocks, judge_monotonic_clock, judge_wall_clock
from tests.settings import child_environment

SOURCE = Path(subak.__file__).parents[1]
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()
DAY_S = 86_400


def said(code: str, *before: Path, **variables: str) -> list[str]:
    """Give what a fresh interpreter prints, one line a finding; `before` are folders whose modules come first."""
    path = ":".join(map(str, (*before, SOURCE)))
    done = subprocess.run(
        [sys.executable, "-c", f"from subak.doctor import machine as m\nfor f in {code}: print(f.status, f.detail)"],
        env=child_environment(PYTHONPATH=path, **variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder in which httptools and uvloop don't load."""
    for name in ("httptools", "uvloop"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('undefined symbol: nope')", encoding="utf-8")
    return tmp_path


def test_what_these_tests_run_on_is_fine() -> None:
    lines = said("[m.look_at_interpreter(), *m.look_at_parts(), m.look_at_loop('auto')]")
    assert [line.split()[0] for line in lines] == ["ok"] * 4
    assert lines[1].endswith("C extensions loaded")


def test_a_part_that_does_not_load_is_told(broken: Path) -> None:
    _, line = said("m.look_at_parts()", broken)
    assert line == "failed httptools doesn't load: undefined symbol: nope"


def test_missing_c_extensions_are_told() -> None:
    line, _ = said("m.look_at_parts()", AIOHTTP_NO_EXTENSIONS="1")
    assert line.startswith("warning aiohttp ")
    assert "without its C extensions" in line


def test_why_it_is_not_uvloop_is_told(broken: Path) -> None:
    asked_for = "[m.look_at_loop(choice) for choice in ('auto', 'uvloop', 'asyncio')]"
    assert said(asked_for, broken) == [
        "warning asyncio: uvloop doesn't load: undefined symbol: nope",
        "failed none: server.loop demands uvloop, which doesn't load: undefined symbol: nope",
        "ok asyncio, because server.loop says so",
    ]


def test_clocks_that_agree_are_fine() -> None:
    before, after = Clocks(100.0, NOON), Clocks(103.0, NOON + 3.1)
    assert judge_wall_clock(before, after, NOON - DAY_S).status is Status.OK
    assert judge_monotonic_clock(before, after, 1e-9).status is Status.OK


@pytest.mark.parametrize(
    ("wall", "installed_at", "said"),
    [
        (datetime(1970, 1, 3, tzinfo=UTC).timestamp(), 1.0, "never set"),
        (datetime(2023, 12, 31, tzinfo=UTC).timestamp(), 1.0, "never set"),
        (NOON, NOON + 2 * DAY_S, "before this Subak was installed"),
        (NOON, NOON - 11 * 366 * DAY_S, ""),  # files dated before 2024 have no true date
        (NOON + 11 * 366 * DAY_S, NOON, "more than ten years after"),
        (NOON, NOON + DAY_S / 2, ""),
    ],
)
def test_a_wall_clock_that_can_not_be_right_is_told(wall: float, installed_at: float, said: str) -> None:
    finding = judge_wall_clock(Clocks(1.0, wall), Clocks(1.0, wall), installed_at)
    assert finding.status is (Status.WARNING if said else Status.OK)
    assert said in finding.detail


@pytest.mark.parametrize("jump_s", [-3600.0, -0.6, 0.6, 3600.0])
def test_a_wall_clock_that_jumps_is_told(jump_s: float) -> None:
    finding = judge_wall_clock(Clocks(1.0, NOON), Clocks(3.0, NOON + 2.0 + jump_s), NOON - DAY_S)
    assert finding.status is Status.WARNING
    assert f"jumped by {jump_s:+.1f} s" in finding.detail


def test_a_monotonic_clock_that_goes_back_is_a_failure_and_a_coarse_one_a_warning() -> None:
    assert judge_monotonic_clock(Clocks(2.0, NOON), Clocks(1.0, NOON), 1e-9).status is Status.FAILED
    assert judge_monotonic_clock(Clocks(1.0, NOON), Clocks(2.0, NOON), 0.015).status is Status.WARNING


@pytest.mark.parametrize(
    ("soft", "hard", "max_connections", "room", "status"),
    [
        (1024, 1_048_576, 0, 524_256, Status.OK),
        (1024, 1024, 0, 480, Status.WARNING),
        (1024, 4096, 2016, 2016, Status.OK),
        (1024, 4096, 2017, 2016, Status.WARNING),
        (256, resource.RLIM_INFINITY, 0, 96, Status.WARNING),
        (10, 10, 0, 1, Status.WARNING),
    ],
)
def test_room_for_few_connections_is_told(
    soft: int, hard: int, max_connections: int, room: int, status: Status
) -> None:
    finding = judge_open_files(soft, hard, max_connections)
    assert (finding.figures["connections"], finding.status) == (room, status)
    assert bool(finding.fix) is (status is Status.WARNING)


@pytest.mark.parametrize(("soft", "hard"), [(200, 300), (64, 65), (300, 300)])
def test_the_room_is_what_the_gateway_takes(soft: int, hard: int) -> None:
    code = f"""
import resource
from subak.app import max_connections
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
print(max_connections())
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=child_environment(PYTHONPATH=str(SOURCE)),
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert int(done.stdout) == connections_below(soft, hard)
