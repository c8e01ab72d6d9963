"""`subak keys`: made, shown once, listed, revoked."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from subak.admission.api_keys import ApiKeys
from tests.unit.cli.conftest import Run


def test_a_key_is_shown_once_and_then_counts(run: Run, tmp_path: Path) -> None:
    result = run("keys", "create", "ci")
    assert result.exit_code == 0, result.output
    text = result.stdout.strip()
    assert "shown once" in result.stderr
    assert ApiKeys(tmp_path / ".subak").authenticate(text, 0) is not None
    assert text[-32:] not in run("keys", "list").stdout
    assert text[-32:] not in run("keys", "list", "--json").stdout


def test_json_has_the_key_beside_what_is_known_of_it(run: Run) -> None:
    made = json.loads(run("keys", "create", "ann", "--user", "42", "--expires", "30", "--json").stdout)
    key = made.pop("key")
    assert key.startswith(f"sk_subak_{made['id']}_")
    assert {name: made[name] for name in ("name", "user", "status")} == {
        "name": "ann",
        "user": "42",
        "status": "active",
    }
    lifetime = datetime.fromisoformat(made["expires_at"]) - datetime.fromisoformat(made["created_at"])
    assert lifetime.days == 30
    assert datetime.fromisoformat(made["created_at"]).tzinfo == UTC
    assert json.loads(run("keys", "list", "--json").stdout) == [made]


@pytest.mark.parametrize(
    ("given", "seconds"), [("30", 30 * 86_400), ("1d", 86_400), ("12h", 43_200), ("90m", 5_400), ("2w", 14 * 86_400)]
)
def test_a_key_ends_after_a_time_in_the_units_of_all_commands(run: Run, given: str, seconds: int) -> None:
    made = json.loads(run("keys", "create", "ann", "--expires", given, "--json").stdout)
    lifetime = datetime.fromisoformat(made["expires_at"]) - datetime.fromisoformat(made["created_at"])
    assert lifetime.total_seconds() == seconds


@pytest.mark.parametrize("given", ["0", "soon", "1y", "-1d", "59s", "3651d", "999999999w", ""])
def test_what_is_no_time_for_a_key_is_told_with_what_would_be_one(run: Run, given: str) -> None:
    result = run("keys", "create", "ann", "--expires", given)
    assert result.exit_code == 2
    assert "expected a time from 1m to 3650d" in result.stderr.replace("\n", " ").replace("│", "")


def test_the_list_is_a_table(run: Run) -> None:
    assert run("keys", "list").stdout == ""
    run("keys", "create", "ci runner")
    run("keys", "create", "ann", "--user", "42", "--expires", "1")
    run("keys", "revoke", "ci runner")
    head, *rows = [line.split() for line in run("keys", "list").stdout.splitlines()]
    assert head == ["ID", "STATUS", "CREATED", "EXPIRES", "USER", "NAME"]
    assert [row[1] for row in rows] == ["revoked", "active"]
    assert rows[0][-4:] == ["never", "-", "ci", "runner"]


def test_a_revoked_key_is_refused_and_revoking_it_again_changes_nothing(run: Run) -> None:
    key_id = json.loads(run("keys", "create", "ci", "--json").stdout)["id"]
    first = json.loads(run("keys", "revoke", key_id, "--json").stdout)
    assert first["status"] == "revoked"
    assert json.loads(run("keys", "revoke", "ci", "--json").stdout) == first


def test_what_cannot_be_done_is_told_in_a_line(run: Run, tmp_path: Path) -> None:
    run("keys", "create", "ci")
    for arguments, said in (
        (("create", "ci"), "An active key is called 'ci' already"),
        (("create", "a\nb"), "1 to 255 printable characters"),
        (("revoke", "nobody"), "No key has the id or the name 'nobody'"),
    ):
        result = run("keys", *arguments)
        assert result.exit_code == 1
        assert said in result.stderr.replace("\n", " ").replace("│", "")
    assert run("keys", "create", "x", "--expires", "0").exit_code == 2
    (tmp_path / ".subak" / "api-keys.json").write_text("{")
    result = run("keys", "list")
    assert result.exit_code == 1
    assert "api-keys.json: this is no file of API keys" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_state_directory_is_the_settings(run: Run, tmp_path: Path) -> None:
    assert run("keys", "create", "ci", SUBAK_STATE_DIR="elsewhere").exit_code == 0
    assert (tmp_path / "elsewhere" / "api-keys.json").is_file()
