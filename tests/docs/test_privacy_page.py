"""docs/privacy.md names every file that a gateway keeps, and calls things what they are."""

import re
from pathlib import Path
from typing import Final

import pytest

from subak import state
from subak.admission import api_keys, flag_store, rollout
from subak.audit.keys import KEY_FILE, QUERY_PEPPER_DAYS
from subak.audit.log import MAX_QUEUED
from subak.audit.sqlite import LOG_FILE
from subak.audit.subjects import SUBJECT_FOLDER
from subak.settings import catalogue
from subak.telemetry.loki import MAX_QUEUED_BYTES

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "privacy.md"
FILES: Final = (
    *(state.SECRET_FILE, state.ADMIN_TOKEN_FILE, flag_store.FILE_NAME, rollout.STATUS_FILE, rollout.LOCK_FILE),
    *(api_keys.FILE, LOG_FILE, KEY_FILE, f"{SUBJECT_FOLDER}/"),
)


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FILES)
def test_every_file_of_the_state_directory_has_its_place(page: str, name: str) -> None:
    assert re.search(rf"`(STATE/)?{re.escape(name)}`", page)


def test_the_settings_that_the_page_names_exist(page: str) -> None:
    known = {setting.key for setting in catalogue()}
    named = set(re.findall(r"`([a-z]+\.[a-z_]+)(?:=\w+)?`", page)) - set(FILES)
    assert len(named) > 8
    assert named <= known


def test_the_bounds_that_the_page_names_are_those_of_the_code(page: str) -> None:
    defaults = {setting.key: setting.default for setting in catalogue()}
    assert (defaults["stream.replay_s"], defaults["stream.tombstone_s"]) == (300, 3600)
    assert (defaults["audit.retention_days"], defaults["stream.idempotency_s"]) == (90, 86_400)
    assert f"question peppers {QUERY_PEPPER_DAYS} days" in page
    assert f"at most {2 * MAX_QUEUED:_}".replace("_", " ") in page
    assert f"{MAX_QUEUED_BYTES // 2**20} MiB" in page


def test_pseudonymous_data_is_called_nothing_less() -> None:
    """Neither page nor code claims that what can be tied to a person is anonymous, nor that a flag makes it lawful."""
    pages = [*ROOT.glob("docs/*.md"), ROOT / "README.md", *ROOT.glob("src/subak/**/*.py")]
    claims = re.compile(
        r"anonymi[sz]|anonymous(ly)? (data|log|record|statistic|hash|id\b|digest)|gdpr_?compliant", re.IGNORECASE
    )
    found = [f"{path.name}: {hit[0]}" for path in pages for hit in claims.finditer(path.read_text(encoding="utf-8"))]
    assert found == []


def test_the_templates_say_what_they_are_not(page: str) -> None:
    assert page.count("Not legal advice") >= 2
    for article in ("Art. 13", "Art. 30", "Art. 33", "Art. 34", "Art. 35"):
        assert article in page
