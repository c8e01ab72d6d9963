"""`subak rollout`: start, look, pause, resume, abort."""

import json
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from subak.admission.flag_store import FlagStore
from subak.admission.rollout import STATUS_FILE, RolloutStatus
from subak.core.flag_state import FlagDocument, with_rollout
from subak.core.rollout import STREAMING
from subak.core.rollout_plan import Outcome, Phase, RolloutFigures, Verdict
from tests.settings import child_environment
from tests.unit.cli.conftest import Run

FIGURES = RolloutFigures(250, 0.4, 99.6, 61.2, 20.1, 0, None, None)


def rollout(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("rollout", "status", "--json").stdout)["rollout"]
    return found


def percentage(run: Run) -> float | None:
    found: float | None = json.loads(run("flags", "show", "--json").stdout)["overrides"]["percentage"]
    return found


def test_without_one_there_is_no_status(run: Run, tmp_path: Path) -> None:
    result = run("rollout", "status")
    assert result.exit_code == 0
    assert result.stdout == "ENABLE_SSE_STREAMING: there was no rollout yet.\n"
    assert list(tmp_path.iterdir()) == []


def test_start_begins_at_the_first_step_with_the_allow_list(run: Run) -> None:
    result = run("rollout", "start", "--allow", "user:1", "--steps", "0.5,25,100", "--hold", "90m")
    assert result.exit_code == 0, result.output
    assert "running at 0.5 %, step 1 of 3: started" in result.stdout
    assert "ENABLE_SSE_STREAMING isn't true here" in result.stderr
    assert percentage(run) == 0.5
    assert json.loads(run("flags", "show", "--json").stdout)["overrides"]["allow"] == ["user:1"]
    plan = rollout(run)
    assert (plan["steps"], plan["hold_s"], plan["min_requests"], plan["on_failure"]) == (
        [0.5, 25, 100],
        5_400,
        200,
        "last-good",
    )


def test_the_criteria_are_the_tables_unless_given(run: Run) -> None:
    run(
        "rollout",
        "start",
        "--good-first-token",
        "3000",
        "--bad-first-token",
        "6000",
        "--bad-inter-token",
        "100",
        "--chat-baseline",
        "800",
    )
    assert rollout(run)["chat_baseline"] == {"mean_ms": 800, "error_rate": 0}
    assert rollout(run)["bounds"] == {
        "first-token": {"good": 3_000, "bad": 6_000},
        "inter-token": {"good": None, "bad": 100},
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--steps", "25,5"), "ascending"),
        (("--steps", "5,5"), "ascending"),
        (("--steps", "5,101"), "0 to 100"),
        (("--steps", ""), "0 to 100"),
        (("--hold", "24"), "24h"),
        (("--hold", "-1h"), "24h"),
        (("--min-requests", "0"), "x>=1"),
        (("--allow", "somebody"), "user:42"),
        (("--chat-baseline", "0"), "x>0"),
        (("--on-failure", "panic"), "last-good"),
        (("--good-first-token", "300"), "on the good side of the bad one, 200"),
    ],
)
def test_wrong_usage_is_2_and_starts_nothing(run: Run, options: tuple[str, ...], said: str) -> None:
    result = run("rollout", "start", *options)
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.stderr.replace("│", " ").split())
    assert rollout(run) is None


def test_pause_resume_and_abort(run: Run) -> None:
    run("rollout", "start")
    assert "paused at 5 %" in run("rollout", "pause").stdout
    assert "running at 5 %" in run("rollout", "resume").stdout
    assert "aborted at 0 %" in run("rollout", "abort").stdout
    assert percentage(run) == 0
    run("rollout", "start")
    assert "aborted at 5 %" in run("rollout", "abort", "--keep").stdout
    assert percentage(run) == 5


@pytest.mark.parametrize("command", ["pause", "resume", "abort"])
def test_what_does_not_go_is_1_and_says_what_to_do(run: Run, command: str) -> None:
    result = run("rollout", command)
    assert result.exit_code == 1
    assert "subak rollout start" in result.stderr
    document = json.loads(run("rollout", command, "--json").stdout)
    assert (document["ok"], document["code"]) == (False, "rollout_conflict")


def test_a_running_rollout_owns_the_percentage_until_the_flag_is_off(run: Run) -> None:
    run("rollout", "start")
    assert run("flags", "set", "--percentage", "30").exit_code == 1
    assert run("flags", "set", "--off").exit_code == 0
    assert rollout(run)["phase"] == "paused"
    assert run("rollout", "resume").exit_code == 1


def test_status_has_the_figures_while_a_gateway_watches(run: Run, tmp_path: Path) -> None:
    run("rollout", "start")
    assert "No figures yet" in run("rollout", "status").stdout
    since = datetime.fromisoformat(rollout(run)["step_since"])
    verdict = Verdict(Outcome.MIDDLING, "error-rate is 2 %, not below 1 %")
    status = RolloutStatus(datetime.now(UTC), STREAMING, since, 5, verdict, (FIGURES, FIGURES, FIGURES))
    file = tmp_path / ".subak" / STATUS_FILE
    file.write_bytes(msgspec.json.encode(status))
    lines = run("rollout", "status").stdout.splitlines()
    assert "  middling: error-rate is 2 %, not below 1 %" in lines
    (row,) = (line.split() for line in lines if line.startswith("  first-token"))
    assert row == ["first-token", "61.2", "ms", "61.2", "ms", "61.2", "ms", "<", "100", ">", "200"]
    (row,) = (line.split() for line in lines if line.startswith("  chat-slowdown"))
    assert row[1:4] == ["–", "–", "–"]
    assert json.loads(run("rollout", "status", "--json").stdout)["status"]["figures"][0]["requests"] == 250
    file.write_bytes(msgspec.json.encode(msgspec.structs.replace(status, at=since - timedelta(minutes=1))))
    assert "No gateway has looked at it since" in run("rollout", "status").stdout
    file.write_bytes(msgspec.json.encode(msgspec.structs.replace(status, step_since=since - timedelta(hours=1))))
    assert "No figures yet" in run("rollout", "status").stdout


@pytest.mark.parametrize(("phase", "code"), [(Phase.FINISHED, 0), (Phase.ABORTED, 1), (Phase.ROLLED_BACK, 1)])
def test_watch_follows_it_to_its_end(run: Run, tmp_path: Path, phase: Phase, code: int) -> None:
    run("rollout", "start", "--steps", "100")
    command = (sys.executable, "-m", "subak", "rollout", "status", "--watch")
    watching = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=child_environment())
    with watching, closing(FlagStore.open(tmp_path / ".subak", patience_s=20)) as store:
        assert watching.stdout is not None
        assert "running at 100 %" in watching.stdout.readline()
        store.change(STREAMING, partial(ended_in, phase=phase), actor="rollout", now=datetime.now(UTC))
        said, _ = watching.communicate(timeout=30)
    assert watching.returncode == code
    assert f"{phase.replace('_', ' ')} at 100 %, step 1 of 1: the end" in said


def ended_in(document: FlagDocument, phase: Phase) -> FlagDocument:
    assert document.rollout is not None
    return with_rollout(document, msgspec.structs.replace(document.rollout, phase=phase, why="the end"))
