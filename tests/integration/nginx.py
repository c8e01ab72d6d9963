"""A real nginx in a folder of its own: its port, its pid file, its logs; no daemon, one process."""

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from subak.testing import PATIENCE_S
from tests.integration.clients import program
from tests.integration.gateway import eventually

SNIPPET: Final = Path(__file__).parents[2] / "deploy" / "nginx" / "subak.conf"
_ATTEMPTS: Final = 5


@dataclass
class Nginx:
    """One that runs."""

    url: str
    folder: Path

    @property
    def access_log(self) -> str:
        """What it noted of requests."""
        return (self.folder / "access.log").read_text(encoding="utf-8")


HttpBlock = Callable[[int, Path], str]
"""What stands in nginx's http block, for a port to listen on and a folder for its files."""


def documented(gateway_url: str) -> HttpBlock:
    """Give the snippet of the documentation, with its three places filled in."""

    def block(port: int, folder: Path) -> str:
        text = SNIPPET.read_text(encoding="utf-8")
        for old, new in (
            ("server 127.0.0.1:8080;", f"server {gateway_url.removeprefix('http://')};"),
            ("listen 80;", f"listen 127.0.0.1:{port};"),
            ("/var/log/nginx/subak.log", str(folder / "access.log")),
        ):
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        return text

    return block


def bare(gateway_url: str, *directives: str) -> HttpBlock:
    """Give a proxy with nginx's defaults: HTTP/1.0 to what it proxies, buffering on. `directives` stand beside."""

    def block(port: int, _folder: Path) -> str:
        lines = "\n".join(directives)
        return f"server {{ listen 127.0.0.1:{port}; {lines}\n location / {{ proxy_pass {gateway_url}; }} }}"

    return block


@asynccontextmanager
async def nginx(block: HttpBlock) -> AsyncIterator[Nginx]:
    """Run one until left."""
    with tempfile.TemporaryDirectory(prefix="subak-nginx-") as name:
        folder = Path(name)
        process, port = await _start(block, folder)
        try:
            yield Nginx(f"http://127.0.0.1:{port}", folder)
        finally:
            process.terminate()
            async with asyncio.timeout(PATIENCE_S):
                await process.wait()


async def _start(block: HttpBlock, folder: Path) -> tuple[asyncio.subprocess.Process, int]:
    """Start it on a free port; somebody else may take that first, then on another."""
    for _ in range(_ATTEMPTS):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        config = folder / "nginx.conf"
        config.write_text(_config(block(port, folder), folder), encoding="utf-8")
        with (folder / "stderr").open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(program("nginx"), "-p", folder, "-c", config, stderr=stderr)
        if await _is_up(process, port):
            return process, port
        said = (folder / "stderr").read_text(encoding="utf-8")
        assert "Address already in use" in said, said
    raise AssertionError("no free port")


async def _is_up(process: asyncio.subprocess.Process, port: int) -> bool:
    """Whether it listens; it doesn't if it has ended."""
    await eventually(lambda: process.returncode is not None or _listens(port), lambda: "nginx doesn't start")
    return process.returncode is None


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _config(http_block: str, folder: Path) -> str:
    temporary = "\n".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{ worker_connections 4096; }}
http {{
access_log off;
{temporary}
{http_block}
}}
"""
