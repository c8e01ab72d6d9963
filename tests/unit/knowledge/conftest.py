"""The bundled library, and libraries of a test's own; each is closed when its tests are over."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TypeAlias

import pytest

from subak.knowledge.index import BUNDLED_LIBRARY, Bounds, Index, build_index

Indexed: TypeAlias = Callable[..., Index]


@pytest.fixture(scope="session")
def library() -> Iterator[Index]:
    with closing(build_index(BUNDLED_LIBRARY)) as index:
        yield index


@pytest.fixture
def indexed() -> Iterator[Indexed]:
    """Build the index of a folder."""
    with ExitStack() as opened:

        def build(folder: Path, bounds: Bounds | None = None) -> Index:
            return opened.enter_context(closing(build_index(folder, bounds=bounds)))

        yield build
