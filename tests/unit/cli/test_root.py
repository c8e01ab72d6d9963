"""`subak` itself: help, lazy commands, exit codes, failures."""

import subprocess
import sys
from pathlib import Path

import pytest
import rich_click as click
from click.testing import CliRunner

import subak
from subak import __version__
from subak.cli import Root
from subak.cli.options import debug_option
from tests.settings import child_environment
from tests.unit.cli.conftest import Run

SOURCE = Path(subak.__file__).parents[1]


def python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=child_environment(PYTHONPATH=str(SOURCE), **variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_subak_alone_prints_help_that_starts_with_the_three_commands_one_needs(run: Run) -> None:
    result = run()
    assert result.exit_code == 0
    places = [result.output.index(f" {name} ") for name in ("demo", "serve", "check", "backend", "config", "version")]
    assert places == sorted(places)
    assert places[0] < result.output.index("--help")


def test_help_imports_no_command_and_no_server() -> None:
    code = "import sys; from subak.cli import cli; cli(['--help'], standalone_mode=False); print(*sys.modules)"
    result = python(code)
    imported = set(result.stdout.splitlines()[-1].split())
    assert "subak.cli" in imported, result.stderr
    assert not imported & {"aiohttp", "asyncio", "structlog", "msgspec", "subak.app", "subak.settings"}


@pytest.mark.parametrize("name", ["demo", "serve", "check", "backend", "config", "version"])
def test_every_command_has_help(run: Run, name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert f"subak {name}" in result.output


def test_the_line_in_the_list_is_the_first_of_the_commands_own_help(run: Run) -> None:
    listed = " ".join(run().output.split())
    for name in ("demo", "serve", "check", "backend", "config", "version"):
        own = run(name, "--help").output.split("\n")
        assert own[3].strip() in listed


def test_version_is_one_line(run: Run) -> None:
    assert run("--version").output == f"subak {__version__}\n"


def test_python_m_subak_is_subak() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "subak", "--version"],
        env=child_environment(PYTHONPATH=str(SOURCE)),
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert result.stdout == f"subak {__version__}\n"


def test_no_color_is_honoured_even_where_colour_is_forced() -> None:
    code = "from subak.cli import cli; cli(['--help'])"
    assert "\x1b[" not in python(code, NO_COLOR="1").stdout
    assert "\x1b[3" not in python(code, NO_COLOR="1", FORCE_COLOR="1").stdout


@pytest.mark.parametrize("args", [("serv",), ("check", "--prt", "1"), ("backend", "--port", "x"), ("config", "shw")])
def test_wrong_usage_exits_2(run: Run, args: tuple[str, ...]) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.parametrize("name", ["serve", "demo", "backend", "check"])
def test_wrong_settings_are_listed_and_exit_1(run: Run, name: str) -> None:
    result = run(name, SUBAK_SERVER__PORT="x", ENABLE_SSE_STREAMING="maybe")
    assert result.exit_code == 1
    assert result.stdout == ""
    first, *rest = result.stderr.splitlines()
    assert first == "subak: 2 problems in the settings"
    assert [line.split(" = ")[0] for line in rest] == [
        "  environment SUBAK_SERVER__PORT",
        "  environment ENABLE_SSE_STREAMING",
    ]


@pytest.mark.parametrize("name", ["serve", "demo", "check"])
def test_a_wrong_flag_is_wrong_usage(run: Run, name: str) -> None:
    result = run(name, "--port", "99999")
    assert result.exit_code == 2
    assert 'flag --port = "99999": expected a whole number from 0 to 65535' in result.stderr


def test_a_settings_file_that_is_missing_is_told(run: Run) -> None:
    result = run("check", "--config", "none.toml")
    assert result.exit_code == 1
    assert "none.toml: no such file" in result.stderr


def failing(exc: Exception) -> click.Group:
    @click.command("fail")
    @debug_option
    def fail() -> None:
        raise exc

    return Root(name="subak", commands=[fail])


def test_an_unexpected_failure_is_two_lines_and_exit_1() -> None:
    result = CliRunner().invoke(failing(ZeroDivisionError("by zero")), ["fail"])
    assert result.exit_code == 1
    assert result.stderr.splitlines()[0] == "subak: internal error: ZeroDivisionError: by zero"
    assert "Traceback" not in result.output


def test_debug_shows_the_traceback() -> None:
    result = CliRunner().invoke(failing(ZeroDivisionError("by zero")), ["fail", "--debug"])
    assert result.exit_code == 1
    assert "Traceback (most recent call last)" in result.stderr


def test_the_one_failure_of_a_task_group_is_told_itself() -> None:
    inner = OSError(98, "Address already in use")
    result = CliRunner().invoke(failing(ExceptionGroup("tasks", [ExceptionGroup("inner", [inner])])), ["fail"])
    assert result.exit_code == 1
    assert result.stderr == "subak: Address already in use\n"


def test_a_failure_of_the_system_names_the_file() -> None:
    result = CliRunner().invoke(failing(PermissionError(13, "Permission denied", "/state")), ["fail"])
    assert result.exit_code == 1
    assert result.stderr == "subak: /state: Permission denied\n"
