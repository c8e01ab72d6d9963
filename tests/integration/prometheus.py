"""A real Prometheus in a folder of its own, which scrapes what a test tells it to, and its tool."""

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec

from tests.integration.clients import program
from tests.integration.gateway import STARTING_S, ask, eventually

RULES: Final = Path(__file__).parents[2] / "deploy" / "prometheus"
_ATTEMPTS: Final = 5
_NAP_S: Final = 0.05


class Sample(msgspec.Struct):
    """One series of an instant query: its labels, and (time, figure)."""

    metric: dict[str, str]
    value: tuple[float, str]


class Rule(msgspec.Struct):
    """One alert."""

    name: str
    query: str


class _Series(msgspec.Struct):
    result: list[Sample]


class _Group(msgspec.Struct):
    rules: list[Rule]


class _Groups(msgspec.Struct):
    groups: list[_Group]


class _QueryReply(msgspec.Struct):
    data: _Series | None = None
    error: str = ""


class _RulesReply(msgspec.Struct):
    data: _Groups


@dataclass
class Prometheus:
    """One that runs."""

    url: str

    async def query(self, expression: str) -> list[Sample]:
        """Give what an expression comes to now; raise AssertionError where Prometheus can't make sense of it."""
        answer = await ask(self.url, "GET", f"/api/v1/query?query={quote(expression)}")
        reply = msgspec.json.decode(answer.body, type=_QueryReply)
        assert reply.data is not None, f"{expression}: {reply.error}"
        return reply.data.result

    async def alerts(self) -> list[Rule]:
        """Give the alerts that it has read."""
        answer = await ask(self.url, "GET", "/api/v1/rules")
        reply = msgspec.json.decode(answer.body, type=_RulesReply)
        return [rule for group in reply.data.groups for rule in group.rules]

    async def has_data(self, expression: str, timeout_s: float = STARTING_S) -> list[Sample]:
        """Give what an expression comes to, once that is something other than nothing or NaN.

        Raises:
            AssertionError: it still wasn't after `timeout_s`.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    if samples := [sample for sample in await self.query(expression) if sample.value[1] != "NaN"]:
                        return samples
                    await asyncio.sleep(_NAP_S)
        except TimeoutError:
            raise AssertionError(f"no data: {expression}") from None


@asynccontextmanager
async def prometheus(target: str, token: str | None = None) -> AsyncIterator[Prometheus]:
    """Run one that scrapes `target` (host and port) every quarter of a second, with our rules, until left.

    `token`: it logs in with it, as it says in a file.
    """
    with tempfile.TemporaryDirectory(prefix="subak-prometheus-") as name:
        folder = Path(name)
        (folder / "token").write_text(token or "", encoding="utf-8")
        login = "" if token is None else f", authorization: {{ credentials_file: '{folder / 'token'}' }}"
        (folder / "prometheus.yml").write_text(_settings(target, login), encoding="utf-8")
        process, url = await _start(folder)
        try:
            yield Prometheus(url)
        finally:
            process.terminate()
            async with asyncio.timeout(STARTING_S):
                await process.wait()


async def promtool(*arguments: str, given: bytes = b"") -> tuple[int, str]:
    """Run its tool in the folder of the rules; give exit code and all that it says."""
    started = await asyncio.create_subprocess_exec(
        program("promtool"),
        *arguments,
        cwd=RULES,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await started.communicate(given)
    assert started.returncode is not None
    return started.returncode, output.decode()


def _settings(target: str, login: str) -> str:
    return (
        "global: { scrape_interval: 250ms, scrape_timeout: 200ms, evaluation_interval: 250ms }\n"
        f"rule_files: ['{RULES / 'alerts.yml'}']\n"
        f"scrape_configs: [{{ job_name: subak, static_configs: [{{ targets: ['{target}'] }}]{login} }}]\n"
    )


async def _start(folder: Path) -> tuple[asyncio.subprocess.Process, str]:
    """Start it on a free port; it can't choose one and tell, so another one is tried where somebody was faster."""
    for _ in range(_ATTEMPTS):
        port = free_port()
        process = await asyncio.create_subprocess_exec(
            program("prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        if await _is_ready(process, port):
            return process, f"http://127.0.0.1:{port}"
    raise AssertionError("Prometheus doesn't start")


async def _is_ready(process: asyncio.subprocess.Process, port: int) -> bool:
    """Whether it answers; it doesn't if it has ended."""
    await eventually(
        lambda: process.returncode is not None or _listens(port), lambda: "Prometheus doesn't listen", STARTING_S
    )
    async with asyncio.timeout(STARTING_S):
        while process.returncode is None:
            if (await ask(f"http://127.0.0.1:{port}", "GET", "/-/ready")).status == HTTPStatus.OK:
                return True
            await asyncio.sleep(_NAP_S)
    return False


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """Give a port that nobody listens on now."""
    with socket.socket() as raw:
        raw.bind(("127.0.0.1", 0))
        port: int = raw.getsockname()[1]
        return port
