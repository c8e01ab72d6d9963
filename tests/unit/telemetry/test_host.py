"""What this process takes of its machine."""

import os
from pathlib import Path

import pytest

from subak.telemetry.host import look_at_process, memory_limit_bytes

MEMINFO = "MemTotal:       16384000 kB\nMemFree:  1 kB\n"


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    file = tmp_path / "meminfo"
    file.write_text(MEMINFO, encoding="ascii")
    return file


def test_a_process_has_memory_descriptors_and_processor_time() -> None:
    before = look_at_process()
    assert before.resident_bytes is not None
    assert before.memory_limit_bytes is not None
    assert 1_000_000 < before.resident_bytes < before.memory_limit_bytes
    assert before.cpu_s > 0


def test_an_open_file_is_one_descriptor_more() -> None:
    before = look_at_process().open_descriptors
    assert before is not None
    descriptor = os.open(os.devnull, os.O_RDONLY)
    try:
        assert look_at_process().open_descriptors == before + 1
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("536870912\n", 536_870_912), ("max\n", 16_777_216_000), ("9223372036854771712\n", 16_777_216_000)],
)
def test_the_bound_is_the_container_s_or_else_the_machine_s(
    tmp_path: Path, meminfo: Path, limit: str, expected: int
) -> None:
    cgroup = tmp_path / "memory.max"
    cgroup.write_text(limit, encoding="ascii")
    assert memory_limit_bytes(meminfo, (cgroup, tmp_path / "missing")) == expected


def test_a_machine_without_proc_has_no_figures(tmp_path: Path) -> None:
    assert memory_limit_bytes(tmp_path / "missing", (tmp_path / "missing",)) is None
