"""`subak doctor`: what it says of a machine, of settings and of what it would answer from."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import subak
from subak.doctor.findings import Check
from tests.settings import child_environment
from tests.unit.cli.conftest import Run

PAGE = Path(__file__).parents[3] / "docs" / "troubleshooting.md"
OF_THE_MACHINE = ["python", "http.extensions", "http.parser", "event_loop", "settings"]
OF_THE_PLACE = ["open_files", "state_dir", "state_dir.key", "state_dir.space", "features.sse_streaming"]
OF_WHAT_ANSWERS = ["knowledge.docs", "upstream.answer"]
OF_THE_CLOCKS = ["clock.wall", "clock.monotonic"]


def findings_of(result: Result) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in json.loads(result.stdout)["findings"]}


def test_a_bare_machine_is_fit_and_nothing_is_made(run: Run, tmp_path: Path) -> None:
    result = run("doctor", "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["ok"]) == (0, True)
    names = [each["name"] for each in document["findings"]]
    assert names == [*OF_THE_MACHINE, *OF_THE_PLACE, *OF_WHAT_ANSWERS, *OF_THE_CLOCKS]
    assert list(tmp_path.iterdir()) == []


def test_every_finding_has_the_same_members(run: Run) -> None:
    for finding in json.loads(run("doctor", "--json").stdout)["findings"]:
        assert list(finding) == ["name", "status", "detail", "fix", "notes", "figures"]
        assert finding["status"] in {"ok", "warning", "failed"}
        assert bool(finding["fix"]) is (finding["status"] != "ok")


def test_the_table_has_a_row_for_each_finding(run: Run) -> None:
    rows = [line.split()[:2] for line in run("doctor").stdout.splitlines() if line[:1].strip()]
    names = [*OF_THE_MACHINE, *OF_THE_PLACE, *OF_WHAT_ANSWERS, *OF_THE_CLOCKS]
    assert [name for _, name in rows[:-1]] == names
    assert ["warning", "features.sse_streaming"] in rows
    assert "--url" in run("doctor").stdout


def test_the_first_token_of_the_embedded_backend_is_measured(run: Run) -> None:
    figures = findings_of(run("doctor", "--json"))["upstream.answer"]["figures"]
    assert 0 <= figures["connect_ms"] <= figures["first_byte_ms"] <= figures["first_token_ms"] < 5000


def test_nobody_is_asked_without_leave(run: Run) -> None:
    answer = findings_of(run("doctor", "--json", "--no-question"))["upstream.answer"]
    assert (answer["status"], answer["figures"]) == ("ok", {})
    assert "not asked" in answer["detail"]


def test_streaming_that_is_off_is_told_with_the_way_to_turn_it_on(run: Run) -> None:
    off = findings_of(run("doctor", "--json"))["features.sse_streaming"]
    assert (off["status"], "ENABLE_SSE_STREAMING=true" in off["fix"]) == ("warning", True)
    assert findings_of(run("doctor", "--json", ENABLE_SSE_STREAMING="1"))["features.sse_streaming"]["status"] == "ok"


def test_all_that_is_wrong_with_the_settings_is_told_and_the_machine_still_looked_at(run: Run) -> None:
    result = run("doctor", "--json", SUBAK_SERVER__PORT="x", ENABLE_SSE_STREAMING="maybe")
    findings = findings_of(result)
    assert result.exit_code == 1
    assert list(findings) == [*OF_THE_MACHINE, *OF_THE_CLOCKS]
    assert findings["settings"]["status"] == "failed"
    assert [note.split(" = ")[0] for note in findings["settings"]["notes"]] == [
        "environment SUBAK_SERVER__PORT",
        "environment ENABLE_SSE_STREAMING",
    ]


@pytest.mark.parametrize(
    "args",
    [
        ("--port", "99999"),
        ("--url", "example.org"),
        ("--url", "ftp://example.org"),
        ("--url", "https://user:secret@example.org"),
        ("--url", "https://example.org/?query=x"),
        ("--url", "https://"),
        ("--urll", "https://example.org"),
    ],
)
def test_wrong_usage_exits_2_and_repeats_no_secret(run: Run, args: tuple[str, ...]) -> None:
    result = run("doctor", *args)
    assert result.exit_code == 2
    assert "secret" not in result.output


def test_a_state_directory_that_can_not_be_used_fails(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run("doctor", "--json", SUBAK_STATE_DIR="file/state")
    assert result.exit_code == 1
    assert findings_of(result)["state_dir"]["status"] == "failed"


def test_files_that_could_not_be_taken_are_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text("# Page\n\nA KITAS is a permit.", encoding="utf-8")
    (tmp_path / "docs" / "binary.md").write_bytes(b"\0\1")
    result = run("doctor", "--json", "--docs", "docs")
    docs = findings_of(result)["knowledge.docs"]
    assert (result.exit_code, docs["status"]) == (0, "warning")
    assert docs["notes"] == ["binary.md: binary"]
    assert docs["figures"] == {"documents": 1, "passages": 1, "skipped": 1}


def test_a_folder_with_nothing_to_answer_from_fails(run: Run, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    result = run("doctor", "--json", "--docs", "docs")
    assert result.exit_code == 1
    assert findings_of(result)["knowledge.docs"]["status"] == "failed"


def test_a_backend_nobody_runs_fails_and_says_so_once_for_each_way(run: Run) -> None:
    result = run("doctor", "--json", RAG_BACKEND_URL="http://127.0.0.1:9")
    findings = findings_of(result)
    assert result.exit_code == 1
    assert findings["upstream.connect"]["detail"] == "127.0.0.1:9: nobody listens there"
    assert findings["upstream.answer"]["detail"] == "127.0.0.1:9: upstream_error, connect_refused"
    assert findings["upstream.method"]["status"] == "warning"
    assert "upstream.health" not in findings


def test_credentials_are_not_shown(run: Run) -> None:
    result = run("doctor", "--json", RAG_BACKEND_URL="http://127.0.0.1:9", SUBAK_UPSTREAM__KEY="canary-key")
    assert "canary-key" not in result.output


def test_certificates_that_can_not_be_read_are_told(run: Run) -> None:
    variables = {"RAG_BACKEND_URL": "https://127.0.0.1:9", "SUBAK_UPSTREAM__CA_FILE": "none.pem"}
    findings = findings_of(run("doctor", "--json", **variables))
    for name in ("upstream.connect", "upstream.answer"):
        assert findings[name]["status"] == "failed"
        assert "subak check" in findings[name]["fix"]


def doctor_process(directory: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run it in a directory whose modules come before all others."""
    path = f"{directory}:{Path(subak.__file__).parents[1]}"
    return subprocess.run(
        [sys.executable, "-m", "subak", "doctor"],
        env=child_environment(PYTHONPATH=path, **variables),
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_a_broken_installation_is_told_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "httptools.py").write_text("raise ImportError('undefined symbol: nope')", encoding="utf-8")
    done = doctor_process(tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert ["failed", "http.parser"] in [line.split()[:2] for line in done.stdout.splitlines()]
    assert "knowledge.docs" not in done.stdout


def test_no_color_is_honoured(tmp_path: Path) -> None:
    assert "\x1b[32mok" in doctor_process(tmp_path, FORCE_COLOR="1").stdout
    assert "\x1b[3" not in doctor_process(tmp_path, FORCE_COLOR="1", NO_COLOR="1").stdout


def test_the_page_has_every_finding() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [check for check in Check if f"| `{check}` |" not in page] == []


def test_doctor_stands_in_the_list_by_the_first_line_of_its_own_help(run: Run) -> None:
    own = run("doctor", "--help").output.split("\n")
    assert own[3].strip() in " ".join(run().output.split())
