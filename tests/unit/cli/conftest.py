"""Every command here runs in an empty directory and without the settings of whoever runs the tests."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from click.testing import CliRunner, Result

from subak.cli import cli
from subak.settings import catalogue, environment

Run: TypeAlias = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `subak` with these arguments and variables."""
    aliases = {setting.notes.alias for setting in catalogue()}
    for variable in environment():
        if variable.startswith("SUBAK_") or variable in aliases:
            monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()

    def invoke(*args: str, **variables: str) -> Result:
        return runner.invoke(cli, args, env=variables, prog_name="subak", terminal_width=100)

    return invoke
