"""The stage on which the scenarios play."""

from collections.abc import Iterator
from typing import Protocol

import pytest

from tests.stage import Stage, Terms


class MakeStage(Protocol):
    """Makes a stage; see `Stage`."""

    def __call__(self, terms: Terms, *, read_turns: int = 0) -> Stage: ...


@pytest.fixture
def make_stage() -> Iterator[MakeStage]:
    """Make stages on terms of the test's own, and close them."""
    stages: list[Stage] = []

    def make(terms: Terms, *, read_turns: int = 0) -> Stage:
        stages.append(Stage(terms, read_turns=read_turns))
        return stages[-1]

    yield make
    for stage in stages:
        stage.close()


@pytest.fixture
def stage(make_stage: MakeStage) -> Stage:
    """A stage on the terms of PROTOCOL §4."""
    return make_stage(Terms())
