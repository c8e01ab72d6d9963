"""`subak version`: what runs here."""

import json
import platform

import aiohttp

from subak import __version__
from tests.unit.cli.conftest import Run


def test_version_names_what_subak_runs_on(run: Run) -> None:
    facts = json.loads(run("version", "--json").stdout)
    assert facts["subak"] == __version__
    assert facts["aiohttp"] == aiohttp.__version__
    assert facts["python"].startswith(platform.python_version())
    assert {"uvloop", "msgspec", "httptools"} <= set(facts)


def test_version_for_people_has_the_same_lines(run: Run) -> None:
    facts = json.loads(run("version", "--json").stdout)
    lines = run("version").stdout.splitlines()
    assert len(lines) == len(facts)
    for (name, fact), line in zip(facts.items(), lines, strict=True):
        assert line.startswith(name)
        assert line.endswith(str(fact))


def test_version_tells_missing_c_extensions(run: Run) -> None:
    assert "C extensions  loaded" in run("version").stdout
