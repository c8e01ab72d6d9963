"""Every test here runs on both event loops, over real sockets, and must leave nothing open."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from tests.integration.gateway import eventually, open_sockets
from tests.integration.upstream.certificates import Certificate, make_certificate


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Give the loops: uvloop's transports and sockets are others than asyncio's."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
async def nothing_is_left_behind() -> AsyncIterator[None]:
    """No task and no socket of a test outlives it by more than five seconds."""
    sockets, tasks = open_sockets(), asyncio.all_tasks()
    yield
    own = {task for task in (asyncio.current_task(),) if task is not None}  # a fixture runs in a task
    await eventually(lambda: asyncio.all_tasks() - own <= tasks, lambda: f"left: {asyncio.all_tasks() - own - tasks}")
    await eventually(lambda: open_sockets() <= sockets, lambda: f"left: sockets {open_sockets() - sockets}")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Certificate]:
    directory = tmp_path_factory.mktemp("certificates")
    return {
        "good": make_certificate(directory, "good", "IP:127.0.0.1", 2),
        "other host": make_certificate(directory, "other", "DNS:elsewhere.example", 2),
        "expired": make_certificate(directory, "expired", "IP:127.0.0.1", -1),
    }
