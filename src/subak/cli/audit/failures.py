"""What an audit command tells when it doesn't work, and its exit code: 1 is an answer, 2 means that there is none."""

import sys
import traceback
from typing import Final

import rich_click as click

from subak.audit.errors import LogInUse, StoreDamaged, StoreUnavailable
from subak.audit.inspection import KeysNeeded, NoQuestion
from subak.audit.keys import KeyFileError
from subak.audit.orders import BadOrder
from subak.audit.proofs import NoProof
from subak.audit.retention import Held
from subak.audit.rows import PersonalMismatch
from subak.cli.output import WANTS_JSON, WANTS_TRACEBACK, print_json
from subak.core.notes import MalformedNote
from subak.state import StateError

NO: Final = 1
NOT_TRIED: Final = 2


class GatewayRefused(Exception):
    """The running gateway doesn't do it, or doesn't answer. `is_answer`: it is the log's answer, and it is no."""

    def __init__(self, text: str, *, is_answer: bool = False) -> None:
        super().__init__(text)
        self.is_answer = is_answer


_ANSWERS: Final = (Held, NoProof, NoQuestion, StoreDamaged, PersonalMismatch)
_NOT_TRIED: Final = (
    StateError,
    KeyFileError,
    KeysNeeded,
    LogInUse,
    MalformedNote,
    BadOrder,
    StoreUnavailable,
    OSError,
)


def exit_code_of(error: Exception, ctx: click.Context) -> int | None:
    """Tell what went wrong and give the exit code; None when it isn't known here."""
    code = _code_of(error)
    if code is None or isinstance(error, BrokenPipeError):
        return None
    if ctx.meta.get(WANTS_TRACEBACK):
        traceback.print_exception(error, file=sys.stderr)
    if ctx.meta.get(WANTS_JSON):
        print_json({"ok": False, "code": "refused" if code == NO else "not_tried", "message": _text_of(error)})
    else:
        click.echo(f"subak: {_text_of(error)}", err=True)
    return code


def _code_of(error: Exception) -> int | None:
    match error:
        case GatewayRefused():
            return NO if error.is_answer else NOT_TRIED
        case _ if isinstance(error, _ANSWERS):
            return NO
        case _ if isinstance(error, _NOT_TRIED):
            return NOT_TRIED
        case _:
            return None


def _text_of(error: Exception) -> str:
    match error:
        case StoreUnavailable():
            return f"the audit log can't be used now: {error}. Look at its disk or database, and try again."
        case BadOrder():
            return f"{error.path.removeprefix('$.')}: expected {error.expected}"
        case OSError():
            return f"{error.filename}: {error.strerror}" if error.filename else str(error)
        case _:
            return str(error)
