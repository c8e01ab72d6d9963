"""Where the textbook relay lives: an environment of its own in `.venv/relay`, made for the bench, not in the locks."""

import importlib.util
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENV = HERE.parent / ".venv" / "relay"
STAMP = VENV / ".stamp"
PACKAGES = ("fastapi==0.165.0", "uvicorn[standard]==0.54.0", "httpx==0.28.1")


class RelayError(Exception):
    """The relay can't be installed; the message says what to do."""


def relay_command(port: int, origin_port: int) -> list[str]:
    """The command that starts it, installed if that was not done before. Raises: RelayError."""
    install()
    server = [str(VENV / "bin" / "uvicorn"), "relay:app", "--app-dir", str(HERE), "--port", str(port)]
    quiet = ["--no-access-log", "--log-level", "warning", "--backlog", "4096"]
    return ["env", f"ORIGIN=http://127.0.0.1:{origin_port}", *server, *quiet]


def relay_versions() -> str:
    """What it runs on."""
    return ", ".join(PACKAGES)


def install() -> None:
    """Installs it from the package index, once for these versions and this interpreter. Raises: RelayError."""
    mark = "\n".join((*PACKAGES, sys.version, str(VENV)))
    if STAMP.is_file() and STAMP.read_text("utf-8") == mark:
        return
    pip = [python_with_pip(), "-m", "pip", "--python", str(VENV / "bin" / "python"), "install"]
    options = ["--quiet", "--disable-pip-version-check", "--no-input"]
    for command in (
        [sys.executable, "-m", "venv", "--without-pip", "--clear", str(VENV)],
        [*pip, *options, *PACKAGES],
    ):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RelayError(f"leave the relay out with --targets, or mend this: {' '.join(command)}\n{done.stderr}")
    STAMP.write_text(mark, "utf-8")


def python_with_pip() -> str:
    """This interpreter, or in an environment without pip the one that it was made from."""
    if importlib.util.find_spec("pip") is not None:
        return sys.executable
    return str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}")
