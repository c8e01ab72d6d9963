"""The pages for whoever deploys Subak: their links lead somewhere, and what they name is there."""

import asyncio
import re
import shlex
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import msgspec
import pytest
import rich_click as click
from aiohttp import web

from subak.admission.api_keys import KeyStore
from subak.audit.inspection import OLD_NAMES
from subak.audit.keys import KEY_FILE
from subak.audit.operations import Operation
from subak.audit.sqlite import LOG_FILE
from subak.cli import cli
from subak.settings import catalogue
from subak.smoke.findings import Check
from subak.web.admin import make_admin_app
from subak.web.routes import make_app
from tests.integration.gateway import running
from tests.settings import child_environment

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
API: Final = DOCS / "api.md"
DEPLOYMENT: Final = DOCS / "deployment.md"
CHECKLIST: Final = DOCS / "checklist.md"
SUMMARY: Final = DOCS / "implementation-summary.md"
INDEX: Final = DOCS / "README.md"
OURS: Final = (API, DEPLOYMENT, CHECKLIST, SUMMARY, INDEX)
PAGES: Final = (*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md")), *sorted((ROOT / "bench").glob("*.md")))
MANY: Final = 30
NO_SETTINGS: Final = {"SUBAK_CONFIG", KEY_FILE, LOG_FILE, *Operation, *OLD_NAMES}
"""What looks like a setting: the variable that is read before there are any, files, operations."""
KEY: Final = "a-key-of-16-or-more-characters"
CURL: Final = "curl -sS -m 10 -w '\\n%{http_code}' "
ENDED_ALREADY: Final = "/-/rollout/abort"
"""Of the commands the one that is refused where it stands, as the page says."""


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def anchors_of(page: Path) -> set[str]:
    """Give what can stand behind `#`: headings as the hosts of such pages spell them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links_of(page: Path) -> Iterator[tuple[Path, str]]:
    """Give each relative link of a page: the file it leads to, and the anchor there or nothing."""
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        parts = urlsplit(target)
        if not parts.scheme:
            yield (page.parent / parts.path).resolve() if parts.path else page, parts.fragment


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_link_leads_somewhere(page: Path) -> None:
    lost = [
        f"{target}#{anchor}"
        for target, anchor in links_of(page)
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors_of(target))
    ]
    assert lost == []


def test_every_page_is_one_step_from_the_index() -> None:
    pages = {page.resolve() for page in DOCS.glob("*.md")} - {INDEX}
    assert pages - {target for target, _ in links_of(INDEX)} == set()


def test_the_index_is_one_step_from_the_readme() -> None:
    assert INDEX in {target for target, _ in links_of(ROOT / "README.md")}


class Command(NamedTuple):
    """A line of the page: `port` is U, the public one, or A."""

    line: str
    port: str
    method: str
    path: str


def commands() -> list[Command]:
    """Give the page's curl lines in their order."""
    found = []
    for line in re.findall(r"^curl .+$", API.read_text(encoding="utf-8"), re.MULTILINE):
        (port, path), *_ = re.findall(r'"\$([UA])(/[^"?]*)', line)
        method = re.search(r"-X (\w+)", line)
        found.append(Command(line, port, method[1] if method else "GET", path))
    return found


def routes_of_the_page() -> dict[str, set[tuple[str, str]]]:
    """Give method and path of each row, by port."""
    _, public, admin, *_ = re.split(r"^## ", API.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {
        port: set(re.findall(r"^\| `([A-Z]+) (/[^`]*)` \|", part, re.MULTILINE))
        for port, part in (("U", public), ("A", admin))
    }


def pattern_of(path: str) -> str:
    return re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path))


@pytest.mark.parametrize("port", ["U", "A"])
def test_every_route_has_its_command_and_every_command_its_route(port: str) -> None:
    wanted = routes_of_the_page()[port]
    called = [(command.method, command.path) for command in commands() if command.port == port]
    served = {
        (method, path)
        for method, path in wanted
        if any(method == given and re.fullmatch(pattern_of(path), asked) for given, asked in called)
    }
    assert served == wanted
    assert len(called) == len(wanted)


class Started(NamedTuple):
    """A gateway with everything on that has a route. `routes`: what its two ports answer, by port."""

    variables: Mapping[str, str]
    routes: Mapping[str, set[tuple[str, str]]]


@pytest.fixture
async def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Started]:
    routes: dict[str, set[tuple[str, str]]] = {}

    def noted(port: str, make: Callable[..., web.Application]) -> Callable[..., web.Application]:
        def make_and_note(*parts: object) -> web.Application:
            made = make(*parts)
            routes[port] = {
                (route.method, route.resource.canonical)
                for route in made.router.routes()
                if route.resource is not None and route.method != "OPTIONS"
            }
            return made

        return make_and_note

    monkeypatch.setattr("subak.app.make_app", noted("U", make_app))
    monkeypatch.setattr("subak.app.make_admin_app", noted("A", make_admin_app))
    variables = {"SUBAK_STATE_DIR": str(tmp_path), "SUBAK_AUDIT__ENABLED": "true", "API_KEYS_INTERNAL": KEY}
    key = user_key(tmp_path)
    async with running(variables=variables) as running_one:
        gateway = running_one.gateway
        assert gateway.admin_token is not None
        ports = {"U": gateway.url, "A": gateway.admin_url, "TOKEN": gateway.admin_token.text, "KEY": key}
        yield Started(ports, routes)


def user_key(state_dir: Path) -> str:
    """Make an API key of a user's, as `subak keys create web-shop --user 42` does."""
    return KeyStore(state_dir).create("web-shop", user="42", now=datetime.now(tz=UTC))[1]


async def test_the_tables_are_the_routes_of_the_code(started: Started) -> None:
    assert routes_of_the_page() == started.routes


async def test_the_commands_run_as_they_stand_there(started: Started, tmp_path: Path) -> None:
    variables = dict(started.variables)
    answers = {}
    for command in commands():
        body, status = await call(command.line, variables, tmp_path)
        answers[command.line] = status
        if (command.method, command.path) == ("POST", "/v1/streams"):
            variables["ID"] = msgspec.json.decode(body)["id"]
        if command.path == "/-/audit/hold":
            variables["HOLD"] = str(msgspec.json.decode(body)["seq"])
    refused = [line for line, status in answers.items() if status >= HTTPStatus.BAD_REQUEST]
    assert [line for line in refused if ENDED_ALREADY not in line] == []
    assert len(refused) == 1


async def call(line: str, variables: Mapping[str, str], where: Path) -> tuple[str, int]:
    """Run a command of the page; give the body and the status that it got."""
    process = await asyncio.create_subprocess_shell(
        line.replace("curl ", CURL, 1),
        env=child_environment(**variables),
        cwd=where,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, f"{line}: {err.decode()}"
    body, _, status = out.decode().rpartition("\n")
    return body, int(status)


def command_lines(page: Path) -> Iterator[str]:
    """Give every `subak …` of a page's code, without what the shell does with it."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:sh|console)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    for line in [line for block in blocks for line in block.splitlines()] + spans:
        for part in re.split(r"&&|;", line.partition(" # ")[0]):
            if found := re.match(r"\s*(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?subak (?=[a-z])(.+)", part):
                yield found[1].strip()


def unknown_words(line: str) -> Iterator[str]:
    """Give what of a command line `subak` doesn't know: a command, an option."""
    found: click.Command = cli
    for word in shlex.split(line.partition(">")[0]):
        context = click.Context(found)
        if isinstance(found, click.Group) and not word.startswith("-"):
            below = found.resolve_command(context, [word])[1] if word in found.list_commands(context) else None
            if below is None:
                yield word
                return
            found = below
        elif word.startswith("--") and word not in {name for each in found.params for name in each.opts}:
            yield word


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_the_commands_that_a_page_names_exist(page: Path) -> None:
    assert [(line, word) for line in command_lines(page) for word in unknown_words(line)] == []


@pytest.mark.parametrize("line", ["audit backup --all", "smokes", "flags set --of"])
def test_a_command_that_is_not_there_is_found_out(line: str) -> None:
    assert list(unknown_words(line))


def test_every_check_of_a_smoke_test_is_told_of() -> None:
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([a-z0-9.]+)` \|", page.partition("## Every check of")[2], re.MULTILINE) == list(Check)


def test_the_checklist_has_a_command_in_nearly_every_line() -> None:
    lines = re.findall(r"^- \[ \] .+$", CHECKLIST.read_text(encoding="utf-8"), re.MULTILINE)
    bare = [line for line in lines if "`" not in line]
    assert len(lines) > MANY
    assert bare == ["- [ ] backend's own database backed up: its business"]


@pytest.mark.parametrize("page", OURS, ids=page_id)
def test_the_settings_that_a_page_names_exist(page: Path) -> None:
    known = {name for each in catalogue() for name in (each.key, each.variable, each.notes.alias)}
    sections = "|".join({each.key.partition(".")[0] for each in catalogue()})
    text = page.read_text(encoding="utf-8")
    dotted = set(re.findall(rf"`((?:{sections})\.[a-z_]+)(?:=[^`]*)?`", text))
    variables = set(
        re.findall(r"\bSUBAK_[A-Z_]*[A-Z]\b|\bENABLE_SSE_STREAMING\b|\bRAG_BACKEND_URL\b|\bAPI_KEYS_\w+", text)
    )
    assert (dotted | variables) - known - NO_SETTINGS == set()


def test_the_tests_that_the_summary_names_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", SUMMARY.read_text(encoding="utf-8")))
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > MANY
    assert named - set(re.findall(r"def (test_\w+)", sources)) == set()


def test_the_files_of_the_code_that_the_summary_names_exist() -> None:
    named = set(re.findall(r"`([a-z]+/\w+\.py)`", SUMMARY.read_text(encoding="utf-8")))
    assert [name for name in named if not (ROOT / "src" / "subak" / name).is_file()] == []


def test_the_alerts_that_the_checklist_names_exist() -> None:
    rules = (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text(encoding="utf-8")
    named = set(re.findall(r"`(Subak\w+)`", CHECKLIST.read_text(encoding="utf-8")))
    assert named - set(re.findall(r"- alert: (\w+)", rules)) == set()
