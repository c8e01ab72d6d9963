"""A real PostgreSQL in a folder of its own, reached by its socket alone. It doesn't run as root: then as `postgres`."""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg  # type: ignore[import-untyped]  # it has no types

_USER: Final = "postgres"
_PORT: Final = 5432  # names the socket; nothing listens on it
_START_S: Final = 30


@dataclass
class Postgres:
    """One that runs."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def dsn(self) -> str:
        """Its one database."""
        return f"postgresql://{_USER}@/{_USER}?host={self.folder}&port={_PORT}"

    def empty(self) -> None:
        """Drop everything in the database."""
        execute(self.dsn, "DROP SCHEMA public CASCADE")
        execute(self.dsn, "CREATE SCHEMA public")

    def files(self) -> Iterator[Path]:
        """Give all files of the server, its write-ahead log among them."""
        return (path for path in (self.folder / "data").rglob("*") if path.is_file())


def execute(dsn: str, statement: str, *values: object) -> list[Sequence[object]]:
    """Run one statement on a connection of its own."""

    async def run() -> list[Sequence[object]]:
        connection = await asyncpg.connect(dsn)
        try:
            rows: list[Sequence[object]] = await connection.fetch(statement, *values)
            return rows
        finally:
            await connection.close()

    with asyncio.Runner() as runner:
        return runner.run(run())


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Run one until left."""
    user = _USER if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="subak-postgres-") as name:
        folder = Path(name)
        if user is not None:
            shutil.chown(folder, user)
        made = subprocess.run(
            [_program("initdb"), "-D", folder / "data", "-U", _USER, "-A", "trust", "-E", "UTF8", "--no-sync"],
            user=user,
            capture_output=True,
            cwd=folder,
            check=False,
        )
        assert made.returncode == 0, made.stderr.decode()
        settings = (
            "-c",
            "listen_addresses=",
            "-c",
            "shared_buffers=32MB",
            "-c",
            "max_connections=40",
            "-c",
            "fsync=off",
        )
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [_program("postgres"), "-D", folder / "data", "-k", folder, "-p", str(_PORT), *settings],
                user=user,
                stderr=log,
                stdout=log,
                cwd=folder,
            )
        try:
            _wait_until_up(folder, process)
            yield Postgres(folder, process)
        finally:
            process.send_signal(signal.SIGINT)  # "fast": it doesn't wait for its clients
            process.wait(_START_S)


def _wait_until_up(folder: Path, process: subprocess.Popen[bytes]) -> None:
    waited = subprocess.run(
        [_program("pg_isready"), "-h", folder, "-p", str(_PORT), "-t", str(_START_S)], capture_output=True, check=False
    )
    while waited.returncode != 0:
        assert process.poll() is None, (folder / "log").read_text(encoding="utf-8")
        waited = subprocess.run(
            [_program("pg_isready"), "-h", folder, "-p", str(_PORT)], capture_output=True, check=False
        )


def _program(name: str) -> str:
    """Give the path of a server program, which Debian keeps off the PATH."""
    folders = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    found = shutil.which(name, path=os.pathsep.join((os.defpath, *folders)))
    assert found is not None, f"{name} isn't installed: apt-get install postgresql"
    return found
