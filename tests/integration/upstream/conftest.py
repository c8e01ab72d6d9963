"""Every test here runs on both event loops, over real sockets, and must leave nothing open."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import uvloop

from tests.integration.upstream.asking import until
from tests.integration.upstream.certificates import Certificate, make_certificate


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def _open_sockets() -> set[int]:
    """The descriptors of this process that are sockets."""
    return {
        number for number in map(int, (path.name for path in Path("/proc/self/fd").iterdir())) if _is_socket(number)
    }


def _is_socket(number: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(number).st_mode)
    except OSError:  # the one by which the directory was read
        return False


@pytest.fixture(autouse=True)
async def nothing_is_left_behind() -> AsyncIterator[None]:
    """No task and no socket of a test outlives it by more than `PATIENCE_S`."""
    sockets = _open_sockets()
    tasks = asyncio.all_tasks()
    yield
    fixture = asyncio.current_task()
    try:
        await until(lambda: _open_sockets() <= sockets and asyncio.all_tasks() - {fixture} <= tasks)
    except TimeoutError:
        pytest.fail(f"left: sockets {_open_sockets() - sockets}, tasks {asyncio.all_tasks() - tasks - {fixture}}")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Certificate]:
    directory = tmp_path_factory.mktemp("certificates")
    return {
        "good": make_certificate(directory, "good", "IP:127.0.0.1", 2),
        "other host": make_certificate(directory, "other", "DNS:elsewhere.example", 2),
        "expired": make_certificate(directory, "expired", "IP:127.0.0.1", -1),
    }
