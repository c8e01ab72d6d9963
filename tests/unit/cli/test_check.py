"""`subak check`: what would keep the gateway from starting."""

import json
import subprocess
from pathlib import Path

import pytest
from click.testing import Result

from tests.unit.cli.conftest import Run


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `one.pem`, `one.key`, `other.key` and `locked.key` (with a password)."""
    directory = tmp_path_factory.mktemp("certificates")
    new_key = ("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out")
    request = ("openssl", "req", "-x509", "-key", "one.key", "-subj", "/CN=one", "-days", "2", "-out", "one.pem")
    lock = ("openssl", "pkcs8", "-topk8", "-in", "one.key", "-passout", "pass:secret", "-out", "locked.key")
    for command in ((*new_key, "one.key"), (*new_key, "other.key"), request, lock):
        subprocess.run(command, cwd=directory, check=True, capture_output=True, timeout=30)
    return directory


def test_the_defaults_are_in_place(run: Run, tmp_path: Path) -> None:
    result = run("check")
    assert result.exit_code == 0, result.output
    assert [line.split()[:2] for line in result.stdout.splitlines()] == [
        ["ok", "settings"],
        ["ok", "state_dir"],
        ["ok", "server.loop"],
        ["ok", "upstream"],
    ]
    assert list(tmp_path.iterdir()) == [tmp_path / ".subak"]
    assert [path.name for path in (tmp_path / ".subak").iterdir()] == ["digest.key"]
    assert (tmp_path / ".subak").stat().st_mode & 0o777 == 0o700


def test_json_has_the_same_findings(run: Run) -> None:
    document = json.loads(run("check", "--json").stdout)
    assert document["ok"] is True
    assert [each["name"] for each in document["findings"]] == ["settings", "state_dir", "server.loop", "upstream"]


def test_all_that_is_amiss_is_told_at_once(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    variables = {
        "SUBAK_STATE_DIR": "file/state",
        "SUBAK_KNOWLEDGE__DOCS": "empty",
        "RAG_BACKEND_URL": "https://rag.example.org",
        "SUBAK_UPSTREAM__CA_FILE": "none.pem",
        "SUBAK_UPSTREAM__TOKEN_FILE": "file",
    }
    document = json.loads(run("check", "--json", **variables).stdout)
    bad = {each["name"]: each for each in document["findings"] if not each["is_ok"]}
    assert set(bad) == {"state_dir", "knowledge.docs", "upstream.ca_file", "upstream.token_file"}
    assert all(each["fix"] for each in bad.values())
    result = run("check", **variables)
    assert result.exit_code == 1
    assert result.stdout.count("\nBAD ") == 4


def test_a_key_that_is_none_is_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / ".subak").mkdir()
    (tmp_path / ".subak" / "digest.key").write_bytes(b"short")
    result = run("check")
    assert result.exit_code == 1
    assert "digest.key: expected 32 bytes, found 5" in result.stdout
    assert "Remove it to have it made anew" in result.stdout


def test_a_documents_folder_that_is_missing_is_told(run: Run) -> None:
    result = run("check", "--docs", "none")
    assert result.exit_code == 1
    assert "none: No such file or directory" in result.stdout


def test_a_documents_folder_with_something_in_it_is_fine(run: Run, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text("# Page", encoding="utf-8")
    assert run("check", "--docs", "docs").exit_code == 0


def test_a_client_certificate_with_its_key_is_fine(run: Run, certificates: Path) -> None:
    result = _run_with_certificate(run, certificates, "one.key")
    assert result.exit_code == 0, result.output
    assert "upstream.ca_file" in result.stdout


@pytest.mark.parametrize("key", ["other.key", "one.pem", "locked.key", "none.key"])
def test_a_client_certificate_with_a_wrong_key_is_told(run: Run, certificates: Path, key: str) -> None:
    result = _run_with_certificate(run, certificates, key)
    assert result.exit_code == 1
    assert "BAD upstream.client_cert_file" in result.stdout


def test_authorities_that_are_no_certificates_are_told(run: Run, certificates: Path) -> None:
    result = run(
        "check", RAG_BACKEND_URL="https://rag.example.org", SUBAK_UPSTREAM__CA_FILE=str(certificates / "one.key")
    )
    assert result.exit_code == 1
    assert "has no certificate that can be read" in result.stdout


def _run_with_certificate(run: Run, certificates: Path, key: str) -> Result:
    return run(
        "check",
        RAG_BACKEND_URL="https://rag.example.org",
        SUBAK_UPSTREAM__CA_FILE=str(certificates / "one.pem"),
        SUBAK_UPSTREAM__CLIENT_CERT_FILE=str(certificates / "one.pem"),
        SUBAK_UPSTREAM__CLIENT_KEY_FILE=str(certificates / key),
    )
