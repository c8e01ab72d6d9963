"""docs/testing.md: its examples run as they stand there, and it tells of every public name."""

import asyncio
import re
import runpy
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, cast

import pytest

from subak import testing

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
PREAMBLE, *EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def name_of(example: str) -> str:
    """Give the name of the test that an example is."""
    (name,) = re.findall(r"^async def (test_\w+)\(\):", example, re.MULTILINE)
    return str(name)


@pytest.mark.parametrize("example", EXAMPLES, ids=name_of)
def test_an_example_runs_as_it_stands_there(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    script = tmp_path / "example.py"
    script.write_text(PREAMBLE + example, encoding="utf-8")
    run = cast("Callable[[], Awaitable[None]]", runpy.run_path(str(script))[name_of(example)])

    async def in_time() -> None:
        async with asyncio.timeout(60):
            await run()

    asyncio.run(in_time())


@pytest.mark.parametrize("name", testing.__all__)
def test_every_public_name_is_told_of(name: str) -> None:
    assert re.search(rf"`{name}\b|\b{name}\(", PAGE)
