"""`subak bench`: how fast answers come, by questions at a rate, and whether that is what was promised.

The report goes to stdout, progress to stderr and only to a terminal.
"""

import asyncio
import resource
import signal
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import rich_click as click

from subak.cli.options import debug_option, header_option, read_headers, seconds_of

if TYPE_CHECKING:  # `subak bench --help` needs no HTTP client
    from rich.console import Console

    from subak.bench.objectives import Objective
    from subak.bench.run import Benchmark, Progress, Report
    from subak.bench.target import Fields, Target
    from subak.bench.words import Table

    OnProgress = Callable[[Progress], None]
    Run = Callable[[OnProgress], Coroutine[None, None, Report]]

DEFAULT_QUESTIONS = 10
MOST_STREAMS = 20_000
LONGEST_S = 4 * 3600.0
URL_VARIABLE = "BENCHMARK_URL"
QUESTIONS_VARIABLE = "BENCHMARK_ITERATIONS"
_SPARE_FILES = 64
_LEAVE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _seconds(_ctx: click.Context, _param: click.Parameter, text: str | None) -> float | None:
    """Read `30s`, `5m`, `30`."""
    if text is None:
        return None
    seconds = seconds_of(text) or seconds_of(f"{text}s") or 0.0
    if not 0 < seconds <= LONGEST_S:
        raise click.BadParameter("expected a time such as 30s or 5m, of 4 hours at most")
    return seconds


@click.command("bench")
@click.argument("url", metavar="[URL]", required=False)
@click.option("--embedded", is_flag=True, help="Start an upstream and a gateway, and measure what the gateway adds.")
@click.option("--streams", metavar="N", type=click.IntRange(1, MOST_STREAMS), help="Answers open at the same time.")
@click.option("--rate", metavar="R", type=click.FloatRange(0, 10_000, min_open=True), help="Questions a second.")
@click.option("--closed", is_flag=True, help="Ask again when an answer has ended, instead of at a rate.")
@click.option("--duration", metavar="TIME", callback=_seconds, help="Ask for so long: 30s, 5m.")
@click.option(
    "--questions",
    metavar="N",
    type=click.IntRange(1, 10_000_000),
    help=f"Ask so many questions. Default, without --duration: {QUESTIONS_VARIABLE}, else {DEFAULT_QUESTIONS}.",
)
@click.option(
    "--finish", metavar="TIME", callback=_seconds, default="30s", show_default=True, help="Time of the last answers."
)
@click.option("--max-tokens", metavar="N", type=click.IntRange(1), help="Stop each answer after so many tokens.")
@click.option("--method", type=click.Choice(["post", "get"]), default="post", show_default=True, help="How to ask.")
@header_option
@click.option(
    "--query-file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Questions, one a line, as text or as a JSON object of the question's fields; asked in turn.",
)
@click.option("--keep-alive", is_flag=True, help="Use connections again; otherwise each question has its own.")
@click.option("--tokens", type=click.IntRange(1, 10_000), default=40, show_default=True, help="Of an embedded answer.")
@click.option(
    "--pace", metavar="MS", type=click.FloatRange(0, 10_000), default=35, show_default=True, help="Between its tokens."
)
@click.option("--slo", metavar="LIST", default="", help="Objectives: first_token_p95=100ms,inter_token_p95=50ms,…")
@click.option(
    "--json", "json_file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON."
)
@click.option(
    "--html", "html_file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Write a page."
)
@debug_option
@click.pass_context
def command(
    ctx: click.RichContext,
    /,
    url: str | None,
    *,
    embedded: bool,
    streams: int | None,
    rate: float | None,
    closed: bool,
    duration: float | None,
    questions: int | None,
    finish: float,
    max_tokens: int | None,
    method: Literal["post", "get"],
    headers: tuple[str, ...],
    query_file: Path | None,
    keep_alive: bool,
    tokens: int,
    pace: float,
    slo: str,
    json_file: Path | None,
    html_file: Path | None,
) -> None:
    """Measure how fast answers come, and hold it against objectives.

    Questions come at their times whatever became of the others, and latencies count from there. With --streams alone
    one question tells how long an answer takes, and the rate follows, so that so many answers are open on average.
    URL is a gateway's, or that of its chat-stream route; without it, BENCHMARK_URL. Exit code 1: an objective was
    missed, an event was lost, or no answer was whole; 2: wrong usage.
    """
    from subak.bench.load import Plan
    from subak.bench.reading import Wanted
    from subak.bench.run import Benchmark
    from subak.settings import environment

    if rate is not None and closed:
        raise click.UsageError("--rate and --closed exclude each other")
    env = environment()
    asked_url = url or (None if embedded else env.get(URL_VARIABLE, "").strip() or None)
    if (asked_url is None) is not embedded:
        raise click.UsageError(f"give a URL (or {URL_VARIABLE}), or --embedded, which has its own")
    if embedded and headers:
        raise click.UsageError("--header goes with a URL: an embedded gateway asks for none")
    plan = Plan(
        rate=rate,
        is_closed=closed,
        streams=_places(streams, rate),
        questions=questions or _default_questions(env.get(QUESTIONS_VARIABLE, "").strip(), duration),
        duration_s=duration,
        finish_s=finish,
        wanted=Wanted(max_tokens or 0),
        keep_alive=keep_alive,
    )
    target = None if asked_url is None else _target(asked_url, method, read_headers(headers))
    benchmark = Benchmark(plan, _questions(query_file), _objectives(slo, is_compared=embedded))
    run = partial(benchmark.of_gateway, env, tokens, pace) if target is None else partial(benchmark.of_target, target)
    report = _run(benchmark, run)
    _write(report, json_file, html_file)
    _print(report)
    ctx.exit(0 if report.is_good else 1)


def _places(streams: int | None, rate: float | None) -> int:
    """Give how many answers may be open; where a rate is given, as many as there can be unless somebody says less.

    Raises:
        click.BadParameter: there are not so many open files.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    room = MOST_STREAMS if soft == resource.RLIM_INFINITY else min(MOST_STREAMS, soft - _SPARE_FILES)
    wanted = (room if rate is not None else 1) if streams is None else streams
    if wanted > room:
        raise click.BadParameter(f"{room} at most with this limit of open files: ulimit -Hn", param_hint="--streams")
    return wanted


def _default_questions(text: str, duration: float | None) -> int | None:
    if duration is not None:
        return None
    if not text:
        return DEFAULT_QUESTIONS
    if not text.isdecimal() or int(text) < 1:
        raise click.UsageError(f"{QUESTIONS_VARIABLE}: expected a number of questions")
    return int(text)


def _target(url: str, method: Literal["post", "get"], headers: dict[str, str]) -> "Target":
    from subak.bench.target import Target

    try:
        return Target.of(url, method=method, headers=headers)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _questions(file: Path | None) -> "Sequence[Fields]":
    from subak.bench.target import DEFAULT_QUERY, QuestionFileError, read_questions

    if file is None:
        return [{"query": DEFAULT_QUERY}]
    try:
        return read_questions(file.read_text(encoding="utf-8"))
    except (QuestionFileError, UnicodeDecodeError) as error:
        raise click.BadParameter(str(error), param_hint="--query-file") from error


def _objectives(text: str, *, is_compared: bool) -> "Sequence[Objective]":
    from subak.bench.objectives import ALWAYS, ObjectiveError, read_objectives

    try:
        given = read_objectives(text)
    except ObjectiveError as error:
        raise click.BadParameter(str(error), param_hint="--slo") from error
    named = {objective.name for objective in given}
    if not is_compared and any(name.startswith("added_") for name in named):
        raise click.BadParameter("what a gateway adds is measured with --embedded", param_hint="--slo")
    return [*given, *(each for each in read_objectives(ALWAYS) if each.name not in named)]


def _run(benchmark: "Benchmark", run: "Run") -> "Report":
    """Run it, with a bar where somebody looks. The first Ctrl-C ends it early, the second at once."""
    from subak.bench.embedded import NotStarted
    from subak.bench.loop import loop_factory

    async def with_signals(on_progress: "OnProgress") -> "Report":
        loop = asyncio.get_running_loop()

        def end() -> None:
            for number in _LEAVE:
                loop.remove_signal_handler(number)
            benchmark.end()

        for number in _LEAVE:
            loop.add_signal_handler(number, end)
        return await run(on_progress)

    try:
        with _bar() as on_progress, asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(with_signals(on_progress))
    except NotStarted as error:
        raise click.ClickException(str(error)) from error


@contextmanager
def _bar() -> "Iterator[OnProgress]":
    """Show how far it is, on stderr; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[told]}"))
    with Bar(*columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", told="", total=None)

        def show(progress: "Progress") -> None:
            told = f"{progress.asked} asked, {progress.open} open, {progress.failed} failed"
            total = None if progress.share is None else 1.0
            bar.update(task, description=progress.name, told=told, total=total, completed=progress.share or 0.0)

        yield show


def _write(report: "Report", json_file: Path | None, html_file: Path | None) -> None:
    """Write the files that were asked for."""
    import msgspec

    from subak.bench.page import page

    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    if html_file is not None:
        html_file.write_text(page(report), encoding="utf-8")


def _print(report: "Report") -> None:
    """Print the tables, what to do, and under what circumstances it was."""
    from rich.console import Console

    from subak.bench import words

    console = Console(highlight=False, markup=False, soft_wrap=True)
    run = report.main
    console.print(run.url)
    _print_table(console, words.counts(report.runs))
    _print_table(console, words.times(run))
    if report.comparison is not None:
        _print_table(console, words.comparison_table(report.comparison))
    if run.errors:
        _print_table(console, words.errors(run))
    _print_table(console, words.objectives(report.objectives))
    for sentence in (*report.advice, *words.notes(report)):
        console.print(sentence, style="red" if sentence.startswith("WARNING") else "")


def _print_table(console: "Console", table: "Table") -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(box=SIMPLE_HEAD, pad_edge=False)
    for number, cell in enumerate(table.head):
        grid.add_column(Text(cell), justify="left" if number == 0 else "right", no_wrap=True)
    for row in table.rows:
        missed = row[-1] == "MISSED"
        grid.add_row(*map(Text, row), style="red" if missed else "")
    console.print(grid)
