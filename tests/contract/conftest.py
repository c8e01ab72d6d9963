"""The adapters that the contract of `subak.replay.base` is held against, each with what a test needs to drive it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Protocol, TypeAlias

import pytest

from subak.core.deadlines import Deadlines
from subak.replay.base import ReplayStore
from subak.testing import FakeClock
from tests.stage import Terms, memory_store


class StoreUnderTest(Protocol):
    """A store and its surroundings."""

    @property
    def store(self) -> ReplayStore:
        """The store."""

    async def settle(self) -> None:
        """Wait until all that was appended is safe and handed to its readers."""

    async def pass_time(self, seconds: float) -> None:
        """Let time pass for the store; what is due is swept."""


class MemoryUnderTest:
    """The store in this process' memory: what is appended is safe inside the call."""

    def __init__(self, terms: Terms) -> None:
        deadlines = Deadlines()
        self._clock = FakeClock(deadlines)
        self.store = memory_store(terms, self._clock)
        deadlines.watch(self.store, self.store.on_deadline(self._clock.monotonic()))

    async def settle(self) -> None:
        """Nothing is ever under way."""

    async def pass_time(self, seconds: float) -> None:
        self._clock.advance(seconds)


@asynccontextmanager
async def open_memory(terms: Terms) -> AsyncIterator[StoreUnderTest]:
    yield MemoryUnderTest(terms)


Adapter: TypeAlias = Callable[[Terms], AbstractAsyncContextManager[StoreUnderTest]]
OpenStore: TypeAlias = Callable[[Terms], Awaitable[StoreUnderTest]]

ADAPTERS: dict[str, Adapter] = {"memory": open_memory}


@pytest.fixture(params=ADAPTERS)
async def open_store(request: pytest.FixtureRequest) -> AsyncIterator[OpenStore]:
    """Open stores of one adapter, on terms of the test's own; they are closed after it."""
    adapter = ADAPTERS[request.param]
    async with AsyncExitStack() as stack:

        async def enter(terms: Terms) -> StoreUnderTest:
            return await stack.enter_async_context(adapter(terms))

        yield enter


@pytest.fixture
async def under_test(open_store: OpenStore) -> StoreUnderTest:
    """A store on the terms of PROTOCOL §4."""
    return await open_store(Terms())
