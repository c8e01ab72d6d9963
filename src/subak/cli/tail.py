"""`subak tail`: ask a gateway, or follow an answer, and print it as it comes, through whatever happens to the line.

The answer goes to stdout, everything else to stderr. Text of an answer is foreign: a terminal gets no control
characters of it.
"""

import asyncio
import json
import re
import sys
from typing import TYPE_CHECKING, NamedTuple

import rich_click as click

from subak.cli.options import debug_option, header_option, read_headers

if TYPE_CHECKING:  # `subak tail --help` needs no HTTP client
    from subak.client import AnswerStream, ClientError, Content, Options, Wait

DEFAULT_URL = "http://127.0.0.1:8080"
_STREAM_URL = re.compile(r"(https?://.+)/v1/streams/(st_[A-Za-z0-9_-]{28})(?:/events)?/?(?:\?last_event_id=(\S+))?")
_CURSOR = re.compile(r"st_[A-Za-z0-9_-]{28}(?:\.\d+)?")
_CONTROL = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)], "\N{REPLACEMENT CHARACTER}")
_WHOLE = frozenset({"stop", "length", "content_filter"})
_ENDINGS = {
    "length": "the answer was cut short: it reached the model's limit",
    "content_filter": "the answer was cut short by the model's content filter",
    "cancelled": "the answer was stopped",
    "abandoned": "the answer was ended because nobody listened",
}


class _Target(NamedTuple):
    """What to follow, and where; without a cursor a question is asked there."""

    url: str
    cursor: str | None


@click.command("tail")
@click.argument("target", metavar="URL|CURSOR")
@click.option("-q", "--question", metavar="TEXT", help="Ask this; - reads it from stdin.")
@click.option("--url", metavar="URL", help=f"The gateway of a bare cursor. Default: {DEFAULT_URL}.")
@header_option
@click.option("--json", "as_json", is_flag=True, help="Print every event as one line of JSON.")
@debug_option
@click.pass_context
def command(
    ctx: click.RichContext,
    /,
    target: str,
    *,
    question: str | None,
    url: str | None,
    headers: tuple[str, ...],
    as_json: bool,
) -> None:
    """Ask a gateway, or follow an answer, and print it as it comes.

    Give a gateway's URL with --question, or what to follow: the URL of a stream, its id, or a cursor to go on from. A
    line that is cut is taken up where it broke. Ctrl-C leaves: the answer goes on for a while, and how to come back to
    it is printed. Exit code 0 means that the answer is whole; 1, that it failed, was refused, stopped or left; 2, wrong
    usage.
    """
    from subak.client import Options

    place = _target(target, url)
    if (place.cursor is None) is (question is None):
        told = "an answer is followed without --question" if question else "give --question, or the cursor of an answer"
        raise click.UsageError(told)
    options = Options(headers=read_headers(headers), on_wait=_tell_wait)
    ctx.exit(_run(_answer(place, _question(question), options), place, as_json=as_json))


def _target(text: str, url: str | None) -> _Target:
    if _CURSOR.fullmatch(text):
        return _Target(url or DEFAULT_URL, text)
    if url is not None:
        raise click.UsageError("--url goes with a bare cursor only")
    found = _STREAM_URL.fullmatch(text)
    if found is None:
        return _Target(text, None)
    return _Target(found[1], found[3] or found[2])


def _question(text: str | None) -> str:
    return sys.stdin.read().strip() if text == "-" else text or ""


def _answer(place: _Target, question: str, options: "Options") -> "AnswerStream":
    from subak.client import resume, stream

    try:
        if place.cursor is None:
            return stream(place.url, query=question, options=options)
        return resume(place.url, place.cursor, options=options)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="URL|CURSOR") from error


def _run(answer: "AnswerStream", place: _Target, *, as_json: bool) -> int:
    """Print an answer; give the exit code."""
    from subak.client import ClientError

    printer = _Printer(as_json=as_json)
    try:
        asyncio.run(_print(answer, printer))
    except KeyboardInterrupt:
        printer.finish()
        _say(_way_back(answer, place))
        return 1
    except ClientError as error:
        printer.fail(error)
        return 1
    printer.finish()
    assert answer.done is not None, "what ends without it raises"
    reason = answer.done.finish_reason
    if reason != "stop":
        _say(f"subak: {_ENDINGS.get(reason, f'the answer ended: {reason}')}")
    return 0 if reason in _WHOLE else 1


async def _print(answer: "AnswerStream", printer: "_Printer") -> None:
    async with answer:
        async for content in answer:
            printer.print(content)


class _Printer:
    """Prints an answer's events: text, or JSON lines."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._is_terminal = sys.stdout.isatty()
        self._is_at_line_start = True
        self._named: list[str] = []

    def print(self, content: "Content") -> None:
        """Print one event, at once."""
        import msgspec

        from subak.client import Replaced, Sources, Token

        if self._as_json:
            click.echo(msgspec.json.encode(content))
            return
        match content:
            case Token():
                self._write(content.text)
            case Replaced():
                self.finish()
                _say("subak: what stands above is not what the answer says now; its text so far:")
                self._write(content.text)
            case Sources():
                self._named += [source.source for source in content.items if source.source not in self._named]
            case _:
                pass

    def fail(self, error: "ClientError") -> None:
        """Print why there is no whole answer."""
        self.finish()
        if self._as_json:
            told = {"type": "error", "code": error.code, "message": str(error), "retryable": error.is_retryable}
            click.echo(json.dumps(told, ensure_ascii=False, separators=(",", ":")))
        else:
            _say(f"subak: {error}")

    def finish(self) -> None:
        """End the line, and name the sources."""
        if not self._is_at_line_start:
            self._write("\n")
        if self._named:
            _say(f"Sources: {', '.join(name.translate(_CONTROL) for name in self._named)}")
            self._named = []

    def _write(self, text: str) -> None:
        if not text:
            return
        shown = text.translate(_CONTROL) if self._is_terminal else text
        click.echo(shown, nl=False, color=True)  # in colour or not, it is left as it is
        self._is_at_line_start = text.endswith("\n")


def _tell_wait(wait: "Wait") -> None:
    told = {"cut": "the line was cut", "silent": "the line fell silent", "unreachable": "nobody answers there"}
    about = told.get(wait.reason, wait.reason if wait.status is None else f"{wait.status} {wait.reason}")
    _say(f"subak: {about}; coming back in {wait.seconds:.1f} s (attempt {wait.attempt})")


def _way_back(answer: "AnswerStream", place: _Target) -> str:
    if not answer.cursor:
        return "subak: left before the gateway had answered"
    url = re.sub(r"(/api/v2/bali-zero/chat-stream|/v1/streams)?/?(\?.*)?$", "", place.url)
    where = "" if url == DEFAULT_URL else f" --url {url}"
    return f"subak: left; the answer goes on for a while. To go on reading: subak tail {answer.cursor}{where}"


def _say(line: str) -> None:
    click.echo(line, err=True)
