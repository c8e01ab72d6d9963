"""docs/benchmark.md: its commands run, shorter than they stand there, and every option is told of."""

import asyncio
import re
import sys
from pathlib import Path
from typing import Final

import pytest
import rich_click as click

from subak.bench.figures import STATISTICS
from subak.bench.objectives import COUNTS, SHARES, TIMES
from subak.cli.bench import command
from tests.integration.gateway import running
from tests.settings import child_environment

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8")
COMMANDS: Final = [
    line.removeprefix("$ ")
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]
SHORTER: Final = (
    (r"--duration \d+s", "--duration 1s"),
    (r"--streams (?:200|50)", "--streams 5"),
    (r"(first|inter)_token_(\w+)=\d+ms", r"\1_token_\2=20s"),
    (r"added_(\w+)=20ms", r"added_\1=20s"),
)
"""A minute and 200 streams are for a machine of their own; so are objectives."""
KEY: Final = "a-key-of-16-or-more-characters"


def shortened(line: str, url: str) -> str:
    for pattern, instead in SHORTER:
        line = re.sub(pattern, instead, line)
    return line.replace("http://127.0.0.1:8080", url)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_the_commands_run_as_they_stand_there_but_shorter(tmp_path: Path) -> None:
    (tmp_path / "subak").write_text(f'#!/bin/sh\nexec {sys.executable} -m subak "$@"\n', encoding="utf-8")
    (tmp_path / "subak").chmod(0o755)
    ran = 0
    async with running(API_KEYS_INTERNAL=KEY, SUBAK_KNOWLEDGE__PACE_MS="3") as gateway:
        for line in COMMANDS:
            if line.endswith("subak demo"):  # it would go on; `running` is one
                continue
            environment = child_environment(PATH=f"{tmp_path}:/usr/bin:/bin", PYTHONPATH=str(ROOT / "src"))
            started = await asyncio.create_subprocess_shell(
                shortened(line, gateway.url),
                env=environment,
                cwd=tmp_path,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            async with asyncio.timeout(200):
                out, _ = await started.communicate()
            assert started.returncode == 0, f"{line}\n{out.decode()}"
            ran += 1
    assert ran == 10
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize("option", [option for option in command.params if isinstance(option, click.Option)])
def test_every_option_is_told_of(option: click.Option) -> None:
    name = max(option.opts, key=len)
    assert re.search(rf"`{name}\b", PAGE) or name == "--debug"


@pytest.mark.parametrize("name", [*(f"{time}_" for time in TIMES), *STATISTICS, *SHARES, *COUNTS])
def test_every_objective_is_told_of(name: str) -> None:
    assert re.search(rf"`{name}(?:…)?`", PAGE)
