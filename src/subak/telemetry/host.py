"""What this process takes of its machine: read from Linux' `/proc` when somebody asks, None where there is none."""

import os
import resource
from pathlib import Path
from typing import Final

import msgspec

_STATM: Final = Path("/proc/self/statm")
_DESCRIPTORS: Final = Path("/proc/self/fd")
_MEMINFO: Final = Path("/proc/meminfo")
_CGROUP_LIMITS: Final = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""A container's bound: cgroup 2, cgroup 1. "max", or a figure beyond the machine's memory, is none."""


class ProcessState(msgspec.Struct, frozen=True):
    """`cpu_s` is processor time since the start; `memory_limit_bytes` the container's bound, else the machine's."""

    cpu_s: float
    resident_bytes: int | None
    memory_limit_bytes: int | None
    open_descriptors: int | None
    max_descriptors: int


def look_at_process() -> ProcessState:
    """Read it all: some 50 µs."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    max_descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ProcessState(
        cpu_s=round(used.ru_utime + used.ru_stime, 3),
        resident_bytes=_resident_bytes(),
        memory_limit_bytes=memory_limit_bytes(_MEMINFO, _CGROUP_LIMITS),
        open_descriptors=_open_descriptors(),
        max_descriptors=max_descriptors,
    )


def memory_limit_bytes(meminfo: Path, cgroup_limits: tuple[Path, ...]) -> int | None:
    """Give what memory there is for this process: the smallest of the machine's and what holds a container."""
    found = [_number(file) for file in cgroup_limits] + [_machine_bytes(meminfo)]
    return min([size for size in found if size is not None], default=None)


def _resident_bytes() -> int | None:
    text = _text(_STATM)
    return None if text is None else int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _open_descriptors() -> int | None:
    try:
        return len(os.listdir(_DESCRIPTORS)) - 1  # noqa: PTH208 - numbers; the one by which they are listed is closed
    except OSError:
        return None


def _machine_bytes(meminfo: Path) -> int | None:
    for line in (_text(meminfo) or "").splitlines():
        name, _, size = line.partition(":")
        if name == "MemTotal":
            return int(size.split()[0]) * 1024
    return None


def _number(file: Path) -> int | None:
    text = (_text(file) or "").strip()
    return int(text) if text.isdigit() else None


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="ascii")
    except OSError:
        return None
