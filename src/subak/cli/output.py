"""How commands print: text for people, JSON for programs, and one list for everything that is wrong."""

import json
import sys
import traceback
from dataclasses import asdict

import rich_click as click

from subak.core.errors import InvalidField, SubakError
from subak.settings import Problem, SettingsError
from subak.state import StateError

WANTS_JSON = "subak.json"
WANTS_TRACEBACK = "subak.debug"

_FAILED = 1
_WRONG_USAGE = 2


def print_json(value: object) -> None:
    """Print one JSON document on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def exit_code_of(exc: Exception, ctx: click.Context) -> int:
    """Tell what went wrong and return the exit code: 2 when nothing but what was given is wrong, else 1."""
    if ctx.meta.get(WANTS_TRACEBACK):
        traceback.print_exception(exc, file=sys.stderr)
    exc = _innermost(exc)
    if isinstance(exc, SettingsError):
        _print_problems(exc.problems, ctx)
        return _WRONG_USAGE if all(each.source.startswith("flag ") for each in exc.problems) else _FAILED
    if isinstance(exc, SubakError | StateError):
        _print_refusal(exc, ctx)
        return _WRONG_USAGE if isinstance(exc, InvalidField) else _FAILED
    if isinstance(exc, OSError):
        about = f"{exc.filename}: " if exc.filename else ""
        click.echo(f"subak: {about}{exc.strerror or exc}", err=True)
    else:
        click.echo(f"subak: internal error: {type(exc).__name__}: {exc}", err=True)
        click.echo("Run it again with --debug for the traceback, and please report it.", err=True)
    return _FAILED


def _print_refusal(exc: SubakError | StateError, ctx: click.Context) -> None:
    if ctx.meta.get(WANTS_JSON):
        code = exc.code if isinstance(exc, SubakError) else "state_unusable"
        print_json({"ok": False, "code": code, "message": str(exc)})
    else:
        click.echo(f"subak: {exc}", err=True)


def _innermost(exc: Exception) -> Exception:
    """The one failure inside a task group's, or what was given."""
    while isinstance(exc, ExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    return exc


def _print_problems(problems: tuple[Problem, ...], ctx: click.Context) -> None:
    if ctx.meta.get(WANTS_JSON):
        print_json({"ok": False, "problems": [asdict(problem) for problem in problems]})
        return
    count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
    click.echo(f"subak: {count} in the settings", err=True)
    for problem in problems:
        click.echo(f"  {problem}", err=True)
