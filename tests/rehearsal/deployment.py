"""The deployment: backend, gateway, nginx and Prometheus as processes on this machine, and the product's own commands.

All of it listens on the loopback only, and keeps its files in one folder.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Final

import msgspec

from subak.state import ADMIN_TOKEN_FILE
from tests.integration.gateway import STARTING_S, ask
from tests.integration.nginx import Nginx, documented, nginx
from tests.integration.prometheus import Prometheus, free_port, prometheus
from tests.rehearsal.expect import Unmet, expect
from tests.settings import child_environment
from tests.tokens import WITH_TOKENS

ROOT: Final = Path(__file__).parents[2]
COMMAND_S: Final = 60.0
_LOOK_S: Final = 0.02
_GONE: Final = (0, -signal.SIGTERM)


class Server:
    """A process that serves; what it says goes into two files."""

    def __init__(self, name: str, folder: Path, url: str, ready_path: str) -> None:
        """`ready_path` answers 200 when it is ready."""
        self.url = url
        self.out = folder / f"{name}.log"
        self.err = folder / f"{name}.err"
        self._name = name
        self._ready_path = ready_path
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, *command: str | Path, **environment: str) -> None:
        """Start it; return when it is ready.

        Raises:
            Unmet: it ends, or isn't ready in time.
        """
        with self.out.open("ab") as out, self.err.open("ab") as err:
            self._process = await asyncio.create_subprocess_exec(
                *command, stdout=out, stderr=err, cwd=ROOT, env=child_environment(**environment)
            )
        try:
            async with asyncio.timeout(STARTING_S):
                while not await self._is_ready():
                    expect(self._process.returncode is None, f"{self._name} runs: {self.err.read_text('utf-8')[-800:]}")
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            raise Unmet(f"{self._name} isn't ready after {STARTING_S:g} s") from None

    async def stop(self) -> None:
        """End it kindly; return when it is gone. Nothing to do where it doesn't run.

        Raises:
            Unmet: it doesn't go in time, or not as it should.
        """
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(STARTING_S):
                code = await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise Unmet(f"{self._name} ends within {STARTING_S:g} s of SIGTERM") from None
        expect(code in _GONE, f"{self._name} ends well: exit code {code}, {self.err.read_text('utf-8')[-800:]}")

    async def _is_ready(self) -> bool:
        try:
            return (await ask(self.url, "GET", self._ready_path)).status == HTTPStatus.OK
        except OSError:
            return False


@dataclass
class Deployment:
    """All that runs."""

    folder: Path
    backend: Server
    gateway: Server
    admin_url: str
    proxy: Nginx
    prometheus: Prometheus
    settings: Mapping[str, str]
    commands: list[str] = field(default_factory=list)
    """What the product's own command line was asked, in order."""

    async def start_gateway(self, *, is_permitted: bool) -> None:
        """Start the gateway with `ENABLE_SSE_STREAMING` so."""
        await _start_gateway(self.gateway, self.settings, is_permitted=is_permitted)

    def break_streams(self) -> None:
        """Give the backend a bad release."""
        _fault(self.folder).touch()

    def mend_streams(self) -> None:
        """Take it back."""
        _fault(self.folder).unlink()

    async def subak(self, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        """Run a command beside the gateway; give what it prints.

        Raises:
            Unmet: it fails, or takes too long.
        """
        process = await self.spawn(*arguments, environment=environment)
        try:
            async with asyncio.timeout(COMMAND_S):
                out, err = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise Unmet(f"`subak {' '.join(arguments)}` ends within {COMMAND_S:g} s") from None
        said = (out + err).decode(errors="replace")
        expect(process.returncode == 0, f"`subak {' '.join(arguments)}` succeeds: it said\n{said}")
        return out.decode()

    async def spawn(self, *arguments: str, environment: Mapping[str, str] | None = None) -> asyncio.subprocess.Process:
        """Start a command beside the gateway."""
        self.commands.append(f"subak {' '.join(arguments)}")
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "subak", *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self.folder,
            env=_environment(self.settings, dict(environment or {})),
        )

    async def admin(self, path: str) -> bytes:
        """GET a route of the admin port; give the body."""
        login = [("Authorization", f"Bearer {_token(self.folder)}")]
        answer = await ask(self.admin_url, "GET", path, login)
        expect(answer.status == HTTPStatus.OK, f"{path} answers: {answer.status}")
        return answer.body

    def logged(self, event: str) -> list[dict[str, object]]:
        """Give the gateway's log lines of one kind."""
        lines = (msgspec.json.decode(line, type=dict[str, object]) for line in self.gateway.out.open("rb"))
        return [line for line in lines if line["event"] == event]


@asynccontextmanager
async def deployed(folder: Path) -> AsyncIterator[Deployment]:
    """Start it all, the flag off; stop it in the end."""
    backend = Server("backend", folder, f"http://127.0.0.1:{free_port()}", "/health")
    gateway = Server("gateway", folder, f"http://127.0.0.1:{free_port()}", "/readyz")
    admin_port = free_port()
    settings = _settings(folder, backend.url, gateway.url, admin_port)
    try:
        await backend.start(
            *(sys.executable, "-m", "tests.rehearsal.backend", backend.url.rpartition(":")[2], _fault(folder)),
            **_environment({}, {}),
        )
        await _start_gateway(gateway, settings, is_permitted=False)
        async with (
            nginx(documented(gateway.url)) as proxy,
            prometheus(f"127.0.0.1:{admin_port}", _token(folder)) as scraper,
        ):
            admin_url = f"http://127.0.0.1:{admin_port}"
            yield Deployment(folder, backend, gateway, admin_url, proxy, scraper, settings)
    finally:
        await gateway.stop()
        await backend.stop()


async def _start_gateway(gateway: Server, settings: Mapping[str, str], *, is_permitted: bool) -> None:
    given = _environment(settings, {"ENABLE_SSE_STREAMING": str(is_permitted).lower()})
    await gateway.start(sys.executable, "-m", "subak", "serve", **given)


def _settings(folder: Path, backend_url: str, gateway_url: str, admin_port: int) -> dict[str, str]:
    """Give what the gateway is told; what isn't here is as it comes: limits, audit trail, bounds."""
    return {
        **WITH_TOKENS,
        "RAG_BACKEND_URL": backend_url,
        "SUBAK_STATE_DIR": str(folder / "state"),
        "SUBAK_SERVER__PORT": gateway_url.rpartition(":")[2],
        "SUBAK_ADMIN__PORT": str(admin_port),
        "SUBAK_HTTP__TRUSTED_PROXIES": "127.0.0.1/32",
        "SUBAK_AUDIT__ANCHOR_FILE": str(folder / "anchors"),
        "SUBAK_LOG__FORMAT": "json",
    }


def _environment(settings: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    return child_environment(PYTHONPATH=f"{ROOT / 'src'}:{ROOT}") | dict(settings) | dict(more)


def _fault(folder: Path) -> Path:
    return folder / "fault"


def _token(folder: Path) -> str:
    return (folder / "state" / ADMIN_TOKEN_FILE).read_text(encoding="ascii").strip()
