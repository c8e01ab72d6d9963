"""The file of API keys: what is kept, who may write, what happens when it is damaged."""

import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from subak.admission import api_keys
from subak.admission.api_keys import FILE, ApiKeys, KeyFileError, KeyRefused, KeyStore, now_utc
from subak.core.errors import Unauthenticated
from subak.core.facts import KeysRefused, KeysTaken
from subak.testing import RecordingObserver

NOW: Final = datetime(2026, 11, 23, 6, 0, tzinfo=UTC)
NOW_S: Final = NOW.timestamp()


def test_a_key_is_kept_as_a_digest_readable_by_its_owner_alone(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    key, text = KeyStore(directory).create("ci", now=NOW, user="42")
    assert text.startswith(f"sk_subak_{key.id}_")
    content = (directory / FILE).read_text()
    assert text[-32:] not in content
    assert key.digest in content
    assert (directory / FILE).stat().st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == 0o700
    assert KeyStore(directory).kept() == [key]


def test_no_two_keys_are_alike(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    texts = {store.create(f"key {number}", now=NOW)[1] for number in range(20)}
    assert len({text.split("_")[2] for text in texts}) == len({text.split("_")[3] for text in texts}) == 20


@pytest.mark.parametrize("other", ["x", "_"])
def test_a_key_with_another_secret_is_unknown(tmp_path: Path, other: str) -> None:
    _, text = KeyStore(tmp_path).create("ci", now=NOW)
    keys = ApiKeys(tmp_path)
    assert keys.authenticate(text, NOW_S) is not None
    if other == "_":
        assert keys.authenticate(text[:-1] + other, NOW_S) is None
        return
    changed = text[:-1] + ("x" if text[-1] != "x" else "y")
    with pytest.raises(Unauthenticated):
        keys.authenticate(changed, NOW_S)


def test_no_file_means_no_keys(tmp_path: Path) -> None:
    assert len(ApiKeys(tmp_path / "none")) == 0
    assert KeyStore(tmp_path / "none").kept() == []


def test_an_active_name_is_given_once(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    store.create("ci", now=NOW, expires_at=NOW + timedelta(days=1))
    with pytest.raises(KeyRefused, match="'ci' already"):
        store.create("ci", now=NOW)
    store.create("ci", now=NOW + timedelta(days=1))
    store.revoke("ci", now=NOW + timedelta(days=1))
    store.create("ci", now=NOW + timedelta(days=1))
    assert [key.status(NOW + timedelta(days=1)) for key in store.kept()] == ["expired", "revoked", "active"]


def test_a_key_is_revoked_by_id_or_name_and_only_once(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    first, _ = store.create("one", now=NOW)
    store.create("two", now=NOW)
    later = NOW + timedelta(hours=1)
    assert store.revoke(first.id, now=NOW).revoked_at == NOW
    assert store.revoke(first.id, now=later).revoked_at == NOW
    assert store.revoke("two", now=later).revoked_at == later
    with pytest.raises(KeyRefused, match="'three'"):
        store.revoke("three", now=NOW)


@pytest.mark.parametrize("name", ["", " ci", "c\ni", "c" * 256])
def test_a_name_is_one_line_of_text(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyRefused, match="name has 1 to 255"):
        KeyStore(tmp_path).create(name, now=NOW)
    with pytest.raises(KeyRefused, match="user has 1 to 255"):
        KeyStore(tmp_path).create("ci", now=NOW, user=name)
    assert not (tmp_path / FILE).exists()


def test_keys_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_keys, "MAX_KEYS", 2)
    store = KeyStore(tmp_path)
    store.create("one", now=NOW)
    store.create("two", now=NOW)
    with pytest.raises(KeyRefused, match="as many as are kept"):
        store.create("three", now=NOW)


def make_many(directory: Path, writer: int) -> None:
    """What one of several writers does, in a process of its own."""
    for number in range(10):
        KeyStore(directory).create(f"{writer}.{number}", now=NOW)


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        list(pool.map(make_many, [tmp_path] * 2, range(2)))
    assert {key.name for key in KeyStore(tmp_path).kept()} == {f"{w}.{n}" for w in range(2) for n in range(10)}


@pytest.mark.parametrize("keep", [0, 1, 40, -2])
def test_a_truncated_file_is_told_and_nothing_is_written_over_it(tmp_path: Path, keep: int) -> None:
    store = KeyStore(tmp_path)
    store.create("ci", now=NOW)
    damaged = (tmp_path / FILE).read_bytes()[:keep]
    (tmp_path / FILE).write_bytes(damaged)
    for use in (store.kept, lambda: ApiKeys(tmp_path), lambda: store.create("other", now=NOW)):
        with pytest.raises(KeyFileError, match=r"api-keys\.json: this is no file of API keys, or only a part"):
            use()
    assert (tmp_path / FILE).read_bytes() == damaged


@pytest.mark.parametrize(
    ("name", "value"), [("digest", "é" * 64), ("digest", "0" * 63), ("created_at", "2026-01-01T00:00:00")]
)
def test_a_value_that_no_key_has_is_told_and_fails_no_request(tmp_path: Path, name: str, value: str) -> None:
    KeyStore(tmp_path).create("ci", now=NOW)
    file = json.loads((tmp_path / FILE).read_text())
    file["keys"][0][name] = value
    (tmp_path / FILE).write_text(json.dumps(file))
    with pytest.raises(KeyFileError, match="this is no file of API keys"):
        ApiKeys(tmp_path)


def test_a_running_gateway_keeps_its_keys_when_the_file_is_damaged_and_takes_the_mended_one(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    key, text = store.create("ci", now=NOW)
    observer = RecordingObserver()
    keys = ApiKeys(tmp_path, observer)
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole[:50])
    for now in (0.0, 1.0):
        keys.on_deadline(now)
    assert keys.authenticate(text, NOW_S) is not None
    assert "only a part" in keys.state.problem
    (tmp_path / FILE).write_bytes(whole)
    store.revoke(key.id, now=NOW)
    keys.on_deadline(2.0)
    assert (keys.state.problem, keys.state.failures) == ("", 2)
    assert [type(fact) for fact in observer.facts] == [KeysRefused, KeysTaken]
    assert key.digest not in str(observer.facts)
    with pytest.raises(Unauthenticated):
        keys.authenticate(text, NOW_S)


def test_a_file_that_was_taken_away_takes_its_keys_along(tmp_path: Path) -> None:
    KeyStore(tmp_path).create("ci", now=NOW)
    keys = ApiKeys(tmp_path)
    (tmp_path / FILE).unlink()
    keys.on_deadline(0.0)
    assert (len(keys), keys.state.problem) == (0, "")


def test_a_file_whose_permissions_are_mended_is_read_again(tmp_path: Path) -> None:
    """What a change of permissions leaves as it was is size and time: a file in trouble is looked into all the same."""
    KeyStore(tmp_path).create("ci", now=NOW)
    keys = ApiKeys(tmp_path)
    path = tmp_path / FILE
    other = path.rename(tmp_path / "elsewhere")
    path.mkdir()
    keys.on_deadline(0.0)
    assert "Is a directory" in keys.state.problem
    path.rmdir()
    other.rename(path)
    keys.on_deadline(1.0)
    assert (len(keys), keys.state.problem) == (1, "")


def test_a_crash_in_the_middle_of_writing_leaves_the_old_file(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    key, _ = store.create("ci", now=NOW)
    (tmp_path / FILE).with_suffix(".new").write_text("half of")
    assert store.kept() == [key]
    assert len(store.create("other", now=NOW)[0].id) == 10
    assert len(store.kept()) == 2


def test_a_file_of_another_version_is_told(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"version": 2, "keys": []}')
    with pytest.raises(KeyFileError, match="another version"):
        ApiKeys(tmp_path)


def test_a_directory_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("no directory")
    with pytest.raises(KeyFileError, match="SUBAK_STATE_DIR"):
        KeyStore(tmp_path / "state").create("ci", now=NOW)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_makes_belongs_to_the_owner_of_the_directory(tmp_path: Path) -> None:
    os.chown(tmp_path, 12_345, 12_346)
    KeyStore(tmp_path).create("ci", now=NOW)
    assert {(path.stat().st_uid, path.stat().st_gid) for path in tmp_path.iterdir()} == {(12_345, 12_346)}


def test_times_are_whole_seconds_in_utc() -> None:
    assert now_utc(1_795_359_600_999) == datetime(2026, 11, 22, 15, 0, tzinfo=UTC)
