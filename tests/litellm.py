"""LiteLLM's proxy in an environment of its own, inside `.venv`: it pins much of what Subak needs to other versions.

`python3 -m tests.litellm` installs it, `ensure_litellm()` does so when it isn't there; both by hashes, once. Standard
library only, and `dev`, so that a bare interpreter with pip can run it.
"""

import fcntl
import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Final

from dev import python_with_pip

ROOT: Final = Path(__file__).resolve().parent.parent
VENV: Final = ROOT / ".venv" / "litellm"
"""A place that git, ruff and pytest leave alone already."""
LOCK: Final = ROOT / "tests" / "litellm.lock"
STAMP: Final = VENV / ".stamp"


def ensure_litellm() -> Path:
    """Install LiteLLM unless that was done before for this lock and interpreter; give its command.

    Several processes may call it at the same time. Some 40 s on two cores, 310 MB.

    Raises:
        subprocess.CalledProcessError: pip can't; its output stands on stderr.
    """
    with LOCK.open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        mark = _mark(lock.read())
        if not STAMP.is_file() or STAMP.read_text(encoding="ascii") != mark:
            _run(sys.executable, "-m", "venv", "--without-pip", "--clear", str(VENV))
            _run(
                *(python_with_pip(), "-m", "pip", "--python", str(VENV / "bin" / "python"), "install"),
                *("--quiet", "--disable-pip-version-check", "--no-input", "--no-deps", "--require-hashes"),
                *("--only-binary", ":all:", "--requirement", str(LOCK)),
            )
            STAMP.write_text(mark, encoding="ascii")
    return VENV / "bin" / "litellm"


def _mark(lock: bytes) -> str:
    facts = "\0".join((sys.version, sys.base_prefix, str(VENV)))
    return hashlib.sha256(lock + facts.encode()).hexdigest()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)


if __name__ == "__main__":
    ensure_litellm()
