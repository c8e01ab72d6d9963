"""`subak tail`: what it takes for wrong usage, and how it tells it. What it prints: tests/integration/test_tail.py."""

from pathlib import Path

import pytest

from tests.unit.cli.conftest import Run

STREAM_ID = "st_" + "aB3-_x" + "0" * 22


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ((), "Missing argument"),
        (("http://127.0.0.1:9",), "give --question"),
        ((STREAM_ID, "-q", "Hi"), "followed without --question"),
        ((f"http://127.0.0.1:9/v1/streams/{STREAM_ID}/events", "-q", "Hi"), "followed without --question"),
        (("http://127.0.0.1:9", "--url", "http://127.0.0.1:9", "-q", "Hi"), "bare cursor only"),
        (("example.org", "-q", "Hi"), "expected http"),
        (("http://u:secret@example.org", "-q", "Hi"), "expected http"),
        (("http://127.0.0.1:9", "-q", "Hi", "-H", "secret"), "expected 'NAME: VALUE'"),
        (("http://127.0.0.1:9", "-q", "Hi", "-H", "x y: secret"), "expected 'NAME: VALUE'"),
        (("http://127.0.0.1:9", "-q", "Hi", "-H", "x: secret\r\ny: z"), "expected 'NAME: VALUE'"),
    ],
)
def test_wrong_usage_exits_2_and_repeats_no_secret(run: Run, args: tuple[str, ...], told: str) -> None:
    result = run("tail", *args)
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.split())
    assert "secret" not in result.output


def test_a_file_of_headers_that_is_missing_is_told(run: Run) -> None:
    result = run("tail", "http://127.0.0.1:9", "-q", "Hi", "-H", "@none.txt")
    assert result.exit_code == 1
    assert "none.txt: No such file or directory" in result.stderr


def test_a_file_of_headers_that_is_wrong_is_wrong_usage(run: Run, tmp_path: Path) -> None:
    (tmp_path / "headers.txt").write_text("x-api-key: fine\n\nsecret\n", encoding="utf-8")
    result = run("tail", "http://127.0.0.1:9", "-q", "Hi", "-H", "@headers.txt")
    assert result.exit_code == 2
    assert "secret" not in result.output


def test_tail_stands_in_the_list_by_the_first_line_of_its_own_help(run: Run) -> None:
    own = run("tail", "--help").output.split("\n")
    assert own[3].strip() in " ".join(run().output.split())
