"""The workflow of GitHub: by the schema of its files, and by rules of our own. GitHub itself has not run it."""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from dev import COMMANDS, ROOT
from tests.integration.clients import Exited, run
from tests.integration.gateway import ONE_LOOP
from tests.integration.plain_yaml import parse
from tools.release import BOM, DIST

WORKFLOW: Final = ROOT / ".github" / "workflows" / "ci.yml"
TEXT: Final = WORKFLOW.read_text(encoding="utf-8")
FOREIGN: Final = {"git", "gh"}
"""Commands that every runner has."""
TOOL_S: Final = 60.0


def jobs(text: str = TEXT) -> dict[str, Any]:
    workflow: Any = parse(text)
    found: dict[str, Any] = workflow["jobs"]
    return found


def steps(text: str) -> Iterator[dict[str, Any]]:
    for job in jobs(text).values():
        yield from job["steps"]


def run_faults(command: str) -> list[str]:
    """Say what is wrong with a command: it isn't there, or foreign text becomes a part of it."""
    name, _, rest = command.partition(" ")
    faults = {
        f"{command}: no such command": name not in FOREIGN | {"./dev.py"},
        f"{command}: ./dev.py has no such command": name == "./dev.py" and rest.split()[0] not in COMMANDS,
        f"{command}: a shell would read what others wrote": "${{" in command,
    }
    return [fault for fault, is_there in faults.items() if is_there]


def faults_of(text: str) -> list[str]:
    """Say all that our rules have against a workflow."""
    workflow: Any = parse(text)
    faults = [fault for step in steps(text) for fault in run_faults(step.get("run", "git"))]
    uses = [step["uses"] for step in steps(text) if "uses" in step]
    faults += [
        f"not GitHub's, or without a version: {use}" for use in uses if not re.fullmatch(r"actions/[\w-]+@v\d+", use)
    ]
    faults += [
        "a token stays behind the checkout"
        for step in steps(text)
        if step.get("uses", "").startswith("actions/checkout@") and step["with"].get("persist-credentials") is not False
    ]
    faults += [f"{name} has no time limit" for name, job in jobs(text).items() if "timeout-minutes" not in job]
    may = {name: job["permissions"] for name, job in jobs(text).items() if "permissions" in job}
    if (workflow["permissions"], list(may)) != ({"contents": "read"}, ["release"]):
        faults.append("more than the release may write")
    return faults


async def verdict(workflow: Path) -> Exited:
    """Give what the published schema says, which check-jsonschema brings along."""
    checker = (sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows")
    return await run(*checker, workflow, timeout_s=TOOL_S)


def test_the_workflow_keeps_the_rules() -> None:
    assert faults_of(TEXT) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("./dev.py check", "./dev.py chekc", "./dev.py has no such command"),
        ("./dev.py check", "make check", "no such command"),
        ('release "$GITHUB_REF_NAME"', "release ${{ github.ref_name }}", "what others wrote"),
        ("actions/setup-node@v6", "somebody/setup-node@v6", "not GitHub's"),
        ("actions/setup-node@v6", "actions/setup-node", "without a version"),
        ("persist-credentials: false", "persist-credentials: true", "a token stays"),
        ("    timeout-minutes: 90\n", "", "test has no time limit"),
        ("  contents: read", "  contents: write", "more than the release may write"),
    ],
)
def test_each_rule_finds_what_it_is_for(old: str, new: str, fault: str) -> None:
    assert old in TEXT
    assert fault in " ".join(faults_of(TEXT.replace(old, new)))


@ONE_LOOP
async def test_the_schema_of_workflows_has_nothing_against_it(tmp_path: Path) -> None:
    assert (await verdict(WORKFLOW)).code == 0
    wrong = tmp_path / "ci.yml"
    wrong.write_text(TEXT.replace("id-token: write", "id-token: wirte"), encoding="utf-8")
    assert "wirte" in (await verdict(wrong)).out.decode()


def test_it_runs_on_each_python_that_the_package_says_it_supports() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    said = re.findall(r"Python :: (3\.\d+)", " ".join(project["classifiers"]))
    for job in ("check", "test"):
        assert jobs()[job]["strategy"]["matrix"]["python"] == said, job


def test_a_release_is_made_after_all_tests_and_of_the_files_that_are_built() -> None:
    release = jobs()["release"]
    assert set(release["needs"]) == set(jobs()) - {"release"}
    assert release["if"] == "startsWith(github.ref, 'refs/tags/v')"
    (sbom,) = (step["with"] for step in release["steps"] if step.get("uses", "").startswith("actions/attest-sbom@"))
    assert sbom["sbom-path"] == f"{DIST.name}/{BOM}"
