"""The commands that deployers copy: README, deployment, checklist and troubleshooting, each run as it stands there.

What is run is what the page says, but for what `STANDS_FOR` puts in place of the reader's own host, folders and
minutes. A page has a gateway of its own; a command that can't be run is marked on the page, with the reason.
"""

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import msgspec
import pytest
import rich_click as click

from subak.admission.api_keys import KeyStore
from subak.audit.keys import load_keys
from subak.cli import cli
from tests.docs.commands import Command, MarksNothing, commands_in, commands_of
from tests.integration.gateway import Running, ask, get, running
from tests.settings import child_environment

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = ("docs/checklist.md", "docs/deployment.md", "README.md", "docs/troubleshooting.md")
KEY: Final = "a-key-of-16-or-more-characters"
STANDS_FOR: Final = (
    (r"https://your\.(host|site)|http://127\.0\.0\.1:8080", "$U"),
    (r"http://127\.0\.0\.1:9464", "$A"),
    (r"\.venv/bin/subak", "subak"),
    (r"st_BtuyU18wmJ8C_8TC8BcnFCxkpLhQ", "$ID"),
    (r"'([^']*\$(?:U|ID)[^']*)'", r'"\1"'),
    (r"(?<= )/(vault|backup)/", "./"),
    (r"--port 8000", "--port 0"),
    (r"audit erase ", "audit erase --yes "),
    (r"--streams 120 --duration 5m", "--streams 5 --duration 1s"),
    (r"_mean=\d+ms", "_mean=20s"),
    (r"^curl ", "curl -sS -w '" + r"\\n[%{http_code}]" + "' "),
)
"""The reader's own places, and what a reader types; minutes, 120 streams and objectives want a machine of their own."""
GOES_ON: Final = re.compile(r"\bsubak (?:serve|demo|backend)\b|--watch\b")
"""It is ended when it has said something: a server where it listens."""
REFUSED: Final = re.compile(r"\n\[(?:400|404|405|5\d\d)\]\Z")
"""What curl was told of a path or a question that is wrong; for its exit code all answers are alike."""
WRONG_USAGE: Final = 2
PATIENCE_S: Final = 200.0
GROUNDS: Final = {
    "SUBAK_AUDIT__ENABLED": "true",
    "SUBAK_LIMITS__ENABLED": "true",
    "SUBAK_LIMITS__CHAT": "40",
    "SUBAK_KNOWLEDGE__PACE_MS": "2",
    "API_KEYS_INTERNAL": KEY,
    "ENABLE_SSE_STREAMING": "true",
}
"""More questions than the commands of a page ask, before those that must be refused."""


class Stage(NamedTuple):
    """Where a page's commands run: their folder, their variables, and the gateway that they are about."""

    folder: Path
    variables: Mapping[str, str]
    gateway: Running


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """Give a gateway with an answer, a caller of its own, and a folder with what the pages speak of."""
    async with staged(tmp_path) as ready:
        yield ready


@asynccontextmanager
async def staged(folder: Path) -> AsyncIterator[Stage]:
    state_dir = folder / "state"
    state_dir.mkdir(mode=0o700)
    key = KeyStore(state_dir).create("smoke", user="7", now=datetime.now(tz=UTC))[1]
    own = {**GROUNDS, "SUBAK_STATE_DIR": str(state_dir), "SUBAK_AUDIT__ANCHOR_FILE": str(folder / "anchors")}
    async with running(variables=own) as started:
        gateway = started.gateway
        assert gateway.admin_token is not None
        question = b'{"query": "What is a KITAS?"}'
        asked = await ask(gateway.url, "POST", "/v1/streams", [("Content-Type", "application/json")], question)
        stream_id = msgspec.json.decode(asked.body)["id"]
        (folder / "subak").write_text(f'#!/bin/sh\nexec {sys.executable} -m subak "$@"\n', encoding="utf-8")
        (folder / "subak").chmod(0o755)
        (folder / "caller.txt").write_text(f"x-api-key: {key}\n", encoding="ascii")
        (folder / "deploy").symlink_to(ROOT / "deploy")
        variables = own | {
            "U": gateway.url,
            "A": gateway.admin_url,
            "TOKEN": gateway.admin_token.text,
            "ID": stream_id,
            "CURSOR": f"{stream_id}.1",
            "INTERNAL_KEY": KEY,
            "VKEY": str(load_keys(state_dir).first_vkey),
            "ANCHORS": "anchors",
            "SUBAK_ADMIN__PORT": str(urlsplit(gateway.admin_url).port),
            "PATH": f"{folder}:/usr/bin:/bin",
            "PYTHONPATH": str(ROOT / "src"),
            "PYTHONPYCACHEPREFIX": str(folder / "pycache"),  # each process compiles nothing that one before it has
            "PYTHONDONTWRITEBYTECODE": "",
        }
        yield Stage(folder, variables, started)


@pytest.mark.slow
@pytest.mark.timeout(900)  # some hundred processes: a busy machine takes minutes
@pytest.mark.parametrize("page", PAGES)
async def test_the_commands_of_the_page_run(page: str, stage: Stage) -> None:
    failed = []
    for command in commands_of_its_own(page):
        await set_the_flag(command.section, stage)
        line = as_run(command.line)
        code, printed = await (go_on if GOES_ON.search(line) else run)(line, stage)
        if code == WRONG_USAGE and re.fullmatch(r"subak( [a-z-]+)+", line):
            continue  # named only: `subak bench` wants to be told of whom
        if code or command.gives not in printed or REFUSED.search(printed):
            failed.append(f"{command.line}\nexit code {code}: {printed[-2000:]}")
    assert not failed, "\n\n".join(failed)


def commands_of_its_own(page: str) -> list[Command]:
    """Give what is run for a page: each command once, and not what is run for a page before it.

    Those that change something, or are said to give something, are run wherever they stand.
    """
    before = PAGES[: PAGES.index(page)]
    seen = {as_run(command.line) for other in before for command in commands_of(ROOT / other) if not command.not_run}
    kept = []
    for command in commands_of(ROOT / page):
        line = as_run(command.line)
        if command.not_run or is_a_name(command.line):
            continue
        if line not in seen or command.gives or " set " in line:
            kept.append(command)
        seen.add(line)
    return kept


def as_run(line: str) -> str:
    """Give a command as it is run: as it stands on the page, but for `STANDS_FOR`."""
    for pattern, instead in STANDS_FOR:
        line = re.sub(pattern, instead, line)
    return line


async def set_the_flag(section: str, stage: Stage) -> None:
    """In the checklist's first phase streaming is off, before the gateway's next answer."""
    is_on = not section.startswith("Phase 1")
    flags = stage.gateway.gateway.flags
    flags.on_deadline(0)  # what a command before has set is seen within a second; here it is now
    if (await get(stage.gateway, "/v1/features")).json == {"sse": is_on}:
        return
    if section.startswith("Phase"):
        await run(f"subak flags set {'--on' if is_on else '--off'}", stage)
        flags.on_deadline(0)


async def run(line: str, stage: Stage) -> tuple[int, str]:
    """Run a command; give its exit code and all that it printed. It has no terminal."""
    process = await begin(line, stage)
    async with asyncio.timeout(PATIENCE_S):
        out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


async def go_on(line: str, stage: Stage) -> tuple[int, str]:
    """Run what goes on until it has said that it does; give 0 if it then ends when it is told to."""
    own = {"SUBAK_SERVER__PORT": "0", "SUBAK_ADMIN__PORT": "0"}
    if "serve" in line:
        own["SUBAK_STATE_DIR"] = str(stage.folder / "another")
        own["SUBAK_AUDIT__ANCHOR_FILE"] = str(stage.folder / "anchors-of-another")
    process = await begin(f"exec env {line}", stage, **own)
    printed = b""
    marker = b"http://" if "--watch" not in line else b"\n"
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        while marker not in printed and (more := await process.stdout.readline()):
            printed += more
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        out, _ = await process.communicate()
    endings = {0, -signal.SIGTERM} if "--watch" in line else {0}
    is_well = marker in printed and process.returncode in endings
    return 0 if is_well else 1, (printed + out).decode()


async def begin(line: str, stage: Stage, **more: str) -> asyncio.subprocess.Process:
    """Start a command in a shell."""
    return await asyncio.create_subprocess_shell(
        line,
        env=child_environment(**(dict(stage.variables) | more)),
        cwd=stage.folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


def is_a_name(line: str) -> bool:
    """Tell whether a span names a command, as `subak flags` does: it has others below, or wants more to be run."""
    if not re.fullmatch(r"subak(?: [a-z-]+)+(?: --[a-z-]+)?", line):
        return False
    found: click.Command | None = cli
    words = line.split()[1:]
    while isinstance(found, click.Group):
        if not words:
            return True
        _, found, words = found.resolve_command(click.Context(found), words)
    assert found is not None
    try:
        found.make_context(found.name, words)
    except click.UsageError:
        return True
    return False


@pytest.mark.parametrize("page", PAGES)
def test_what_is_not_run_has_a_reason(page: str) -> None:
    marked = [command for command in commands_of(ROOT / page) if command.not_run]
    assert [command.line for command in marked if len(command.not_run.split()) < 3] == []
    named = {name for command in marked for name in re.findall(r"[a-z]+/[\w/]+\.(?:py|md)", command.not_run)}
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_lines_of_shell_blocks_and_spans_with_a_program_are_commands() -> None:
    page = """## Phase 1: x
`subak check` and `subak`, with `audit.mode`; `curl $U/v1/features` gives `{"sse":false}`.

<!-- not run: it takes days -->
```sh
make all  # comment
X=1 subak serve
```

```console
$ curl -N $U
: ok
```

`kill -TERM $PID` <!-- not run: others need it --> is done, as `A=b subak serve` is.
"""
    assert list(commands_in(page)) == [
        Command("subak check", "Phase 1: x"),
        Command("curl $U/v1/features", "Phase 1: x", gives='{"sse":false}'),
        Command("make all", "Phase 1: x", "it takes days"),
        Command("X=1 subak serve", "Phase 1: x", "it takes days"),
        Command("curl -N $U", "Phase 1: x"),
        Command("kill -TERM $PID", "Phase 1: x", "others need it"),
        Command("A=b subak serve", "Phase 1: x"),
    ]


@pytest.mark.parametrize("text", ["<!-- not run: x -->\n\ntext", "`a.b` <!-- not run: x -->", "<!-- not run: x -->"])
def test_a_mark_that_marks_nothing_is_found_out(text: str) -> None:
    with pytest.raises(MarksNothing):
        list(commands_in(text))


@pytest.mark.parametrize("line", ["subak flags", "subak tail", "subak doctor --url", "subak audit backup"])
def test_a_name_is_no_command(line: str) -> None:
    assert is_a_name(line)


@pytest.mark.parametrize("line", ["subak check", "subak doctor --no-question", "subak flags set --off", "subak serve"])
def test_a_command_is_no_name(line: str) -> None:
    assert not is_a_name(line)


@pytest.mark.parametrize("line", ["subak flags set --of", "curl -f $U/none", "subak smoke $U --expect off"])
async def test_a_command_that_fails_is_found_out(line: str, stage: Stage) -> None:
    assert (await run(line, stage))[0] != 0
