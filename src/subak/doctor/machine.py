"""The ground that Subak stands on: interpreter, compiled parts, event loop, clocks.

Imports nothing but the standard library; what it looks at it imports by name, so that a part that is missing or
doesn't load becomes a finding.
"""

import platform
import ssl
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Final, Literal, NamedTuple

from subak.doctor.findings import Check, Finding, failed, fine, warning
from subak.versions import has_c_extensions

OLDEST_PYTHON: Final = (3, 11)
EARLIEST_DATE: Final = datetime(2024, 1, 1, tzinfo=UTC)
"""No installation of Subak is older: an earlier clock was never set."""
LONGEST_INSTALLED_S: Final = 10 * 365 * 86_400
CLOCK_TOLERANCE_S: Final = 86_400
STEP_S: Final = 0.5
"""A wall clock that moves by more than this against the monotonic one, in either direction, was set."""
COARSE_S: Final = 0.001

_REINSTALL: Final = "install it again: pip install --force-reinstall --no-cache-dir"
_SET_CLOCK: Final = "set the clock and keep it right: timedatectl set-ntp true"


def look_at_interpreter() -> Finding:
    """Look at Python and its TLS library."""
    seen = f"{platform.python_version()} ({platform.python_implementation()}), {ssl.OPENSSL_VERSION}"
    if sys.version_info[:2] < OLDEST_PYTHON:
        return failed(Check.PYTHON, seen, "run Subak with Python 3.11 or newer")
    if platform.python_implementation() != "CPython":
        return warning(Check.PYTHON, seen, "run Subak with CPython: nothing else is tested")
    return fine(Check.PYTHON, seen)


def look_at_parts() -> Iterator[Finding]:
    """Look at the compiled parts of the HTTP server and of the upstream client."""
    yield _look_at_aiohttp()
    yield _look_at_httptools()


def look_at_loop(choice: Literal["auto", "uvloop", "asyncio"]) -> Finding:
    """Say which event loop a gateway with this `server.loop` runs on, and why not on uvloop."""
    if choice == "asyncio":
        return fine(Check.EVENT_LOOP, "asyncio, because server.loop says so")
    try:
        version = import_module("uvloop").__version__
    except ImportError as error:
        return _without_uvloop(choice, error)
    return fine(Check.EVENT_LOOP, f"uvloop {version}")


class Clocks(NamedTuple):
    """One reading of both clocks, in seconds; `wall` since the epoch."""

    monotonic: float
    wall: float


def read_clocks() -> Clocks:
    """Read both clocks."""
    return Clocks(time.monotonic(), time.time())


def installation_date() -> float:
    """Give when the files of this installation were written, in seconds since the epoch."""
    return Path(__file__).stat().st_mtime


def monotonic_resolution_s() -> float:
    """Give the resolution of the monotonic clock, in seconds."""
    return time.get_clock_info("monotonic").resolution


def judge_wall_clock(before: Clocks, after: Clocks, installed_at: float) -> Finding:
    """Judge the wall clock by two readings and by the files' date; time stamps and certificates depend on it."""
    now = datetime.fromtimestamp(after.wall, UTC)
    seen = f"{now:%Y-%m-%d %H:%M:%S} UTC"
    stepped_s = (after.wall - before.wall) - (after.monotonic - before.monotonic)
    if now < EARLIEST_DATE:
        return warning(Check.CLOCK_WALL, f"{seen}: it was never set", _SET_CLOCK)
    if after.wall < installed_at - CLOCK_TOLERANCE_S:
        return warning(Check.CLOCK_WALL, f"{seen}, which is before this Subak was installed", _SET_CLOCK)
    if installed_at > EARLIEST_DATE.timestamp() and after.wall > installed_at + LONGEST_INSTALLED_S:
        return warning(Check.CLOCK_WALL, f"{seen}, which is more than ten years after the installation", _SET_CLOCK)
    if abs(stepped_s) > STEP_S:
        return warning(Check.CLOCK_WALL, f"{seen}; it jumped by {stepped_s:+.1f} s just now", _SET_CLOCK)
    return fine(Check.CLOCK_WALL, seen)


def judge_monotonic_clock(before: Clocks, after: Clocks, resolution_s: float) -> Finding:
    """Judge the clock that all deadlines and measurements depend on."""
    seen = f"steady, resolution {resolution_s:.0e} s"
    if after.monotonic < before.monotonic:
        return failed(
            Check.CLOCK_MONOTONIC, "it went back", "report it to whoever makes this kernel or virtual machine"
        )
    if resolution_s > COARSE_S:
        return warning(
            Check.CLOCK_MONOTONIC, seen, "latencies will be coarse; choose another clock source of the kernel"
        )
    return fine(Check.CLOCK_MONOTONIC, seen, resolution_s=resolution_s)


def _look_at_aiohttp() -> Finding:
    try:
        is_compiled = has_c_extensions()
    except ImportError as error:
        return failed(Check.HTTP_EXTENSIONS, f"aiohttp doesn't load: {error}", f"{_REINSTALL} aiohttp")
    version = import_module("aiohttp").__version__
    if is_compiled:
        return fine(Check.HTTP_EXTENSIONS, f"aiohttp {version}, C extensions loaded")
    return warning(
        Check.HTTP_EXTENSIONS,
        f"aiohttp {version} without its C extensions: requests cost several times the CPU",
        f"{_REINSTALL} aiohttp, on a platform for which there is a wheel; unset AIOHTTP_NO_EXTENSIONS",
    )


def _look_at_httptools() -> Finding:
    try:
        version = import_module("httptools").__version__
    except ImportError as error:
        return failed(Check.HTTP_PARSER, f"httptools doesn't load: {error}", f"{_REINSTALL} httptools")
    return fine(Check.HTTP_PARSER, f"httptools {version}")


def _without_uvloop(choice: str, error: ImportError) -> Finding:
    why = "isn't installed" if isinstance(error, ModuleNotFoundError) else f"doesn't load: {error}"
    if choice == "uvloop":
        return failed(
            Check.EVENT_LOOP,
            f"none: server.loop demands uvloop, which {why}",
            "pip install uvloop, or server.loop = auto",
        )
    return warning(Check.EVENT_LOOP, f"asyncio: uvloop {why}", "pip install uvloop: each event costs less CPU with it")
