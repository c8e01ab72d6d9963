"""`subak smoke`: what it takes for wrong usage. What it finds: tests/integration/test_smoke.py."""

from pathlib import Path

import pytest

from tests.unit.cli.conftest import Run

URL = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ((), "Missing argument"),
        (("example.org",), "expected http"),
        (("http://u:secret@example.org",), "expected http"),
        ((URL, "--admin", "http://u:secret@example.org"), "expected http"),
        ((URL, "--expect", "maybe"), "'on', 'off'"),
        ((URL, "--expect", "off", "--limit"), "--expect off says that there are none"),
        ((URL, "-H", "secret"), "expected 'NAME: VALUE'"),
        ((URL, "--timeout", "0"), "--timeout"),
        ((URL, "--admin-token", "token"), "goes with --admin"),
        ((URL, "--admin", URL, "--admin-token", "none"), "does not exist"),
        ((URL, "--admin", URL), "there is no admin token"),
        ((URL, "--admin", URL, "--admin-token", "empty"), "there is no admin token"),
    ],
)
def test_wrong_usage_exits_2_and_repeats_no_secret(run: Run, tmp_path: Path, args: tuple[str, ...], told: str) -> None:
    (tmp_path / "token").write_text("secret", encoding="ascii")
    (tmp_path / "empty").touch()
    result = run("smoke", *args)
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.split())
    assert "secret" not in result.output
