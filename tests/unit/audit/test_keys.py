"""The key file and the subjects' keys: private, durable, and gone when they are to be."""

from pathlib import Path

import pytest

from subak.audit.errors import StoreDamaged
from subak.audit.keys import KEY_FILE, AuditKeys, KeyFileError, day_of, load_keys, month_of
from subak.audit.opening import open_sqlite, open_writer
from subak.audit.subjects import RECORD_BYTES, SubjectKeyReader, SubjectKeys
from subak.core.notes import VerifierKey
from subak.testing import FakeClock

DAY_MS = 86_400_000
NOW_MS = 1_795_359_600_000
WRAPPING = b"w" * 32
MONTH = "2026-11"


def query_hash(keys: AuditKeys, now_ms: int) -> bytes:
    return keys.query_hash(day_of(now_ms), "question")


def test_the_file_is_made_once_for_its_owner_alone_and_somebody_is_told(tmp_path: Path) -> None:
    told: list[tuple[Path, VerifierKey]] = []
    made = load_keys(tmp_path / "state", on_created=lambda path, vkey: told.append((path, vkey)))
    again = load_keys(tmp_path / "state", on_created=lambda path, vkey: told.append((path, vkey)))
    assert told == [(tmp_path / "state" / KEY_FILE, made.first_vkey)]
    assert (again.origin, again.sealing.seed, again.wrapping_key) == (made.origin, made.sealing.seed, made.wrapping_key)
    assert (tmp_path / "state" / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert made.origin.startswith("subak/")
    assert load_keys(tmp_path / "other").origin != made.origin


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    load_keys(tmp_path)
    (tmp_path / KEY_FILE).chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod 600"):
        load_keys(tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"{", b""),
        (b'"format": 1', b'"format": 9'),
        (b'"wrapping_key": "', b'"wrapping_key": "AAAA'),
        (b'"origin": "subak/', b'"origin": "other/'),
        (b"+", b"-"),
    ],
)
def test_a_file_that_isnt_a_key_file_is_refused(tmp_path: Path, old: bytes, new: bytes) -> None:
    load_keys(tmp_path)
    path = tmp_path / KEY_FILE
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    with pytest.raises(KeyFileError, match="back-up"):
        load_keys(tmp_path)


def test_a_directory_that_cant_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(KeyFileError, match="state directory"):
        load_keys(tmp_path / "file" / "state")


def test_pseudonyms_stay_for_a_month_and_tell_subjects_and_uses_apart(tmp_path: Path) -> None:
    keys = load_keys(tmp_path)
    name = keys.pseudonym(MONTH, "label", "ab", "c")
    assert load_keys(tmp_path).pseudonym(MONTH, "label", "ab", "c") == name
    others = {
        keys.pseudonym("2026-12", "label", "ab", "c"),
        keys.pseudonym(MONTH, "other", "ab", "c"),
        keys.pseudonym(MONTH, "label", "a", "bc"),
        keys.pseudonym(MONTH, "label", "ab", "c", ""),
    }
    assert len(others | {name}) == 5


def test_question_peppers_are_destroyed_after_a_week_on_disk_too(tmp_path: Path) -> None:
    keys = load_keys(tmp_path)
    first = query_hash(keys, NOW_MS)
    keys.destroy_query_peppers(now_ms=NOW_MS + 7 * DAY_MS)
    assert list(keys.days) == [day_of(NOW_MS)]
    keys.destroy_query_peppers(now_ms=NOW_MS + 8 * DAY_MS)
    assert list(keys.days) == list(load_keys(tmp_path).days) == []
    assert query_hash(keys, NOW_MS) != first


def test_month_peppers_are_destroyed_once_the_month_has_aged_out(tmp_path: Path) -> None:
    keys = load_keys(tmp_path)
    name = keys.pseudonym(MONTH, "label", "somebody")
    keys.pseudonym("2026-12", "label", "somebody")
    assert keys.destroy_month_peppers(before_ms=NOW_MS) == ()
    assert keys.destroy_month_peppers(before_ms=NOW_MS + 31 * DAY_MS) == (MONTH,)
    assert keys.months == load_keys(tmp_path).months == ("2026-12",)
    assert keys.pseudonym(MONTH, "label", "somebody") != name


def test_what_is_destroyed_is_overwritten_where_it_stood(tmp_path: Path) -> None:
    """Whoever still has the former file open reads zeros."""
    keys = load_keys(tmp_path)
    query_hash(keys, NOW_MS)
    with (tmp_path / KEY_FILE).open("rb") as former:
        keys.destroy_query_peppers(now_ms=NOW_MS + 8 * DAY_MS)
        assert former.read().strip(b"\x00") == b""


def test_a_successor_is_kept_until_the_log_names_it(tmp_path: Path) -> None:
    keys = load_keys(tmp_path)
    first = keys.sealing.vkey
    successor = keys.prepare_successor().vkey
    unsettled = load_keys(tmp_path)
    unsettled.settle_successor(first)
    assert (unsettled.sealing.vkey, unsettled.successor) == (first, None)

    successor = keys.prepare_successor().vkey
    keys.settle_successor(successor)
    settled = load_keys(tmp_path)
    assert (settled.sealing.vkey, settled.successor, settled.first_vkey) == (successor, None, first)


def test_a_key_file_older_than_the_log_is_refused(tmp_path: Path) -> None:
    keys = load_keys(tmp_path)
    with pytest.raises(KeyFileError, match="belongs to it"):
        keys.settle_successor(load_keys(tmp_path / "other").sealing.vkey)


@pytest.mark.parametrize(
    ("time_ms", "day"), [(0, "1970-01-01"), (-1, "1969-12-31"), (951_782_400_000, "2000-02-29"), (NOW_MS, "2026-11-22")]
)
def test_days_and_months_are_of_utc(time_ms: int, day: str) -> None:
    assert (day_of(time_ms), month_of(time_ms)) == (day, day[:7])


def test_a_key_is_found_by_its_number_once_it_is_on_disk(tmp_path: Path) -> None:
    subjects = SubjectKeys(tmp_path, WRAPPING)
    keys = [subjects.key_for(MONTH, bytes([number]) * 32) for number in range(3)]
    reader = SubjectKeyReader(tmp_path, WRAPPING)
    assert reader.find(keys[0].number) is None
    subjects.commit()
    sealed = keys[1].cipher.encrypt(b"n" * 12, b"clear", None)
    found = reader.find(keys[1].number)
    assert found is not None
    assert (found.name, found.cipher.decrypt(b"n" * 12, sealed, None)) == (b"\x01" * 32, b"clear")
    assert list(reader.numbers_of(MONTH, {b"\x01" * 32, b"\x02" * 32})) == [keys[1].number, keys[2].number]
    assert list(reader.numbers_of("2026-12", {b"\x01" * 32})) == []
    assert (tmp_path / f"{MONTH}.keys").stat().st_mode & 0o777 == 0o600


def test_one_name_has_one_key_for_one_owner(tmp_path: Path) -> None:
    subjects = SubjectKeys(tmp_path, WRAPPING)
    name = b"n" * 32
    assert subjects.key_for(MONTH, name) is subjects.key_for(MONTH, name)
    numbers = {
        subjects.key_for(*asked).number
        for asked in ((MONTH, name), (MONTH, name, b"o" * 32), (MONTH, name, b"p" * 32), ("2026-12", name))
    }
    assert len(numbers) == 4


def test_new_keys_that_were_rolled_back_were_never_there(tmp_path: Path) -> None:
    subjects = SubjectKeys(tmp_path, WRAPPING)
    subjects.key_for(MONTH, b"a" * 32)
    subjects.roll_back()
    subjects.commit()
    key = subjects.key_for(MONTH, b"b" * 32)
    subjects.commit()
    found = subjects.find(key.number)
    assert found is not None
    assert found.name == b"b" * 32
    assert list(subjects.numbers_of(MONTH, {b"a" * 32})) == []


def test_a_destroyed_key_is_gone_from_the_file_and_its_number_isnt_given_again(tmp_path: Path) -> None:
    subjects = SubjectKeys(tmp_path, WRAPPING)
    gone, kept = subjects.key_for(MONTH, b"a" * 32), subjects.key_for(MONTH, b"b" * 32)
    subjects.commit()
    subjects.destroy([gone.number, b"\x00" * 8, b"\xff" * 8])
    assert (tmp_path / f"{MONTH}.keys").read_bytes()[:RECORD_BYTES] == bytes(RECORD_BYTES)
    assert subjects.find(gone.number) is None
    assert subjects.find(kept.number) is not None
    again = SubjectKeys(tmp_path, WRAPPING).key_for(MONTH, b"a" * 32)
    assert again.number not in {gone.number, kept.number}


def test_a_month_is_overwritten_and_removed(tmp_path: Path) -> None:
    subjects = SubjectKeys(tmp_path, WRAPPING)
    key = subjects.key_for(MONTH, b"a" * 32)
    subjects.commit()
    with (tmp_path / f"{MONTH}.keys").open("rb") as former:
        subjects.destroy_months([MONTH])
        assert former.read() == bytes(RECORD_BYTES)
    assert list(tmp_path.iterdir()) == []
    assert subjects.find(key.number) is None
    assert subjects.key_for(MONTH, b"a" * 32) is not key


def test_half_a_record_at_the_end_was_never_used(tmp_path: Path) -> None:
    """The process ended while it wrote keys that no row names yet."""
    subjects = SubjectKeys(tmp_path, WRAPPING)
    subjects.key_for(MONTH, b"a" * 32)
    subjects.commit()
    path = tmp_path / f"{MONTH}.keys"
    path.write_bytes(path.read_bytes() + b"x" * 40)
    later = SubjectKeys(tmp_path, WRAPPING)
    key = later.key_for(MONTH, b"b" * 32)
    later.commit()
    assert path.stat().st_size == 2 * RECORD_BYTES
    assert SubjectKeyReader(tmp_path, WRAPPING).find(key.number) is not None


def test_another_wrapping_key_opens_nothing(tmp_path: Path) -> None:
    subjects = SubjectKeys(tmp_path, WRAPPING)
    key = subjects.key_for(MONTH, b"a" * 32)
    subjects.commit()
    with pytest.raises(StoreDamaged, match="its own key file"):
        SubjectKeyReader(tmp_path, b"v" * 32).find(key.number)


def test_no_keys_are_made_beside_a_log_that_has_its_own(tmp_path: Path) -> None:
    (tmp_path / "audit.db").touch()
    with pytest.raises(KeyFileError, match="Put its back-up there"):
        open_writer(
            tmp_path,
            FakeClock(),
            open_store=open_sqlite(tmp_path),
            digest_secret=b"x" * 32,
            publish=lambda note: None,  # noqa: ARG005 - nothing is sealed here
            on_keys_created=lambda path, vkey: None,  # noqa: ARG005 - (same)
        )
    assert not (tmp_path / "audit.keys").exists()
