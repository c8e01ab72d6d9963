"""`subak bench`: what is wrong usage, and what its names in the environment do."""

import socket
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Run

URL = "http://127.0.0.1:1"


def closed_port() -> str:
    """Give the URL of a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "give a URL (or BENCHMARK_URL), or --embedded"),
        ([URL, "--embedded"], "give a URL (or BENCHMARK_URL), or --embedded"),
        (["--embedded", "--header", "x-api-key: secret"], "--header goes with a URL"),
        ([URL, "--rate", "5", "--closed"], "--rate and --closed exclude each other"),
        ([URL, "--slo", "first_token_p95=100"], "takes a time such as 100ms"),
        ([URL, "--slo", "added_event_p50=1ms"], "with --embedded"),
        ([URL, "--duration", "soon"], "expected a time such as 30s or 5m"),
        ([URL, "--duration", "5h"], "4 hours at most"),
        ([URL, "--header", "x-api-key secret"], "expected 'NAME: VALUE'"),
        ([URL, "--header", "Host: example.org"], "can't be sent"),
        ([URL, "--streams", "0"], "1<=x<=20000"),
        (["ftp://example.org"], "expected http:// or https://"),
        (["http://example.org/?query=x"], "no ? and no #"),
        ([URL, "--query-file", "missing.txt"], "does not exist"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_says_what_is_right(run: Run, arguments: list[str], told: str) -> None:
    result = run("bench", *arguments)
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.replace("│", " ").split())
    assert "secret" not in result.output


def test_a_wrong_file_of_questions_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "questions.txt").write_text('What?\n{"query": 1}\n')
    result = run("bench", URL, "--query-file", "questions.txt")
    assert result.exit_code == 2
    assert "line 2 has no text as its" in " ".join(result.stderr.replace("│", " ").split())


def test_the_old_tools_variables_give_url_and_number(run: Run) -> None:
    url = closed_port()
    result = run("bench", "--closed", BENCHMARK_URL=url, BENCHMARK_ITERATIONS="1")
    assert result.exit_code == 1
    assert url in result.stdout
    assert "; 1 question." in result.stdout
    assert "Nobody listens at this URL" in result.stdout
    assert result.stderr == "", "no terminal, no bar"
    wrong = run("bench", BENCHMARK_URL=url, BENCHMARK_ITERATIONS="many")
    assert (wrong.exit_code, "expected a number of questions" in wrong.stderr) == (2, True)
