"""What tests/settings.py makes of the environment of a run."""

import pytest

from tests import settings


@pytest.mark.parametrize(("asked", "expected"), [("fast", 1), ("default", 2), ("soak", 3), ("", 2)])
def test_profile_chooses_the_number_of_runs(monkeypatch: pytest.MonkeyPatch, asked: str, expected: int) -> None:
    monkeypatch.delenv("SUBAK_TEST_RUNS", raising=False)
    monkeypatch.setenv("SUBAK_TEST_PROFILE", asked)
    assert settings.runs(fast=1, default=2, soak=3) == expected


def test_number_of_runs_asked_for_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBAK_TEST_RUNS", "7")
    assert settings.runs(fast=1, default=2, soak=3) == 7


def test_unknown_profile_names_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBAK_TEST_PROFILE", "quick")
    with pytest.raises(ValueError, match="fast, default, soak"):
        settings.profile()


def test_child_environment_has_none_of_ours_but_what_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBAK_SERVER__PORT", "1")
    monkeypatch.setenv("RAG_BACKEND_URL", "x")
    monkeypatch.setenv("UNRELATED", "kept")
    given = settings.child_environment(SUBAK_TEST="y")
    assert given["UNRELATED"] == "kept"
    assert given["SUBAK_TEST"] == "y"
    assert "SUBAK_SERVER__PORT" not in given
    assert "RAG_BACKEND_URL" not in given
