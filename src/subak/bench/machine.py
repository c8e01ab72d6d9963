"""The machine under a benchmark: what figures depend on, and how busy it was with something else."""

import os
import platform
from pathlib import Path
from typing import Final

import msgspec

from subak.versions import versions

_STAT: Final = Path("/proc/stat")
_CPUINFO: Final = Path("/proc/cpuinfo")
_PARTS: Final = ("subak", "python", "aiohttp", "httptools", "uvloop", "msgspec")


class Machine(msgspec.Struct, frozen=True):
    """`load_before` is the load average of the minute before the run; None where there is no such thing."""

    cpus: int
    model: str
    system: str
    versions: dict[str, str | None]
    load_before: float | None


class CpuTimes(msgspec.Struct, frozen=True):
    """Seconds that all CPUs were busy, and that there were in all, since the machine's start."""

    busy_s: float
    all_s: float


def look_at_machine() -> Machine:
    """Read it all."""
    known = versions()
    return Machine(
        cpus=os.cpu_count() or 1,
        model=_model(),
        system=f"{platform.system()} {platform.release()}",
        versions={part: known[part] for part in _PARTS},
        load_before=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    )


def read_cpu_times() -> CpuTimes | None:
    """Read what the CPUs did so far; None where the kernel doesn't tell."""
    try:
        line = _STAT.read_text(encoding="ascii").partition("\n")[0]
    except OSError:
        return None
    ticks = [int(word) for word in line.split()[1:9]]  # user nice system idle iowait irq softirq steal
    per_s = os.sysconf("SC_CLK_TCK")
    return CpuTimes((sum(ticks) - ticks[3] - ticks[4]) / per_s, sum(ticks) / per_s)


def busy_share(before: CpuTimes | None, after: CpuTimes | None) -> float | None:
    """Give the share (0 to 1) of all CPUs' time in between that was used, by whomever."""
    if before is None or after is None or after.all_s <= before.all_s:
        return None
    return round((after.busy_s - before.busy_s) / (after.all_s - before.all_s), 3)


def _model() -> str:
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
