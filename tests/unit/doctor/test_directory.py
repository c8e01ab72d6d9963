"""What `subak doctor` says of the state directory. It makes nothing there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from subak.doctor.directory import look_at_state
from subak.doctor.findings import Check, Finding, Status
from subak.state import load_secret


def found(directory: Path) -> dict[Check, Finding]:
    before = snapshot(directory.parent)
    findings = {finding.check: finding for finding in look_at_state(directory)}
    assert snapshot(directory.parent) == before
    assert list(findings) == [Check.STATE_DIR, Check.STATE_KEY, Check.STATE_SPACE]
    return findings


def snapshot(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*")) if directory.is_dir() else []


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A state directory as the first start leaves it."""
    directory = tmp_path / "state"
    load_secret(directory)
    yield directory
    directory.chmod(0o700)


def test_a_directory_as_the_first_start_leaves_it_is_fine(state: Path) -> None:
    findings = found(state)
    assert findings[Check.STATE_DIR].status is Status.OK
    assert findings[Check.STATE_DIR].detail.endswith("is writable, mode 0700")
    assert findings[Check.STATE_KEY].detail == "digest.key is there, mode 0600"


def test_one_that_can_be_made_is_fine_and_not_made(tmp_path: Path) -> None:
    findings = found(tmp_path / "one" / "two")
    assert findings[Check.STATE_DIR].status is Status.OK
    assert "the first start makes it" in findings[Check.STATE_DIR].detail
    assert findings[Check.STATE_SPACE].figures["free_bytes"] > 0


def test_one_that_can_not_be_made_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    findings = found(tmp_path / "file" / "state")
    assert findings[Check.STATE_DIR].status is Status.FAILED
    assert "SUBAK_STATE_DIR" in findings[Check.STATE_DIR].fix


def test_a_file_in_its_place_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    assert found(tmp_path / "state")[Check.STATE_DIR].status is Status.FAILED


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701])
def test_one_that_is_open_to_others_is_a_warning(state: Path, mode: int) -> None:
    state.chmod(mode)
    finding = found(state)[Check.STATE_DIR]
    assert finding.status is Status.WARNING
    assert finding.fix == f"chmod 700 {state}"


def test_a_key_that_is_open_to_others_is_a_warning(state: Path) -> None:
    (state / "digest.key").chmod(0o644)
    finding = found(state)[Check.STATE_KEY]
    assert finding.status is Status.WARNING
    assert finding.fix == f"chmod 600 {state / 'digest.key'}"


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_a_key_that_is_none_is_a_failure(state: Path, content: bytes) -> None:
    (state / "digest.key").write_bytes(content)
    assert found(state)[Check.STATE_KEY].status is Status.FAILED


def test_a_key_that_can_not_be_read_is_a_failure(state: Path) -> None:
    (state / "digest.key").unlink()
    (state / "digest.key").mkdir()
    finding = found(state)[Check.STATE_KEY]
    assert finding.status is Status.FAILED
    assert "Is a directory" in finding.detail
