#!/usr/bin/env python3
"""The one door for people and CI. Needs Python 3.11 and pip, nothing else.

  ./dev.py up [--port N] [...]   install into .venv and start `subak demo`, with any further arguments
  ./dev.py test [pytest args]    install what the tests need, `check`, then every test
  ./dev.py check                 format, lint, types, layers and the fast tests: under a minute
  ./dev.py soak [pytest args]    every test with its full number of runs; without arguments it writes docs/soak.md
  ./dev.py bench [...]           run bench/run.py with these arguments
  ./dev.py rehearse [...]        the whole deployment on this machine, step by step; it writes docs/rehearsal.md
  ./dev.py lock [--upgrade]      write requirements*.lock anew from pyproject.toml
  ./dev.py release [TAG]         build a release into dist/, try it, print its figures; TAG: is it ready for that

Each step is one line with its duration; a step that fails prints all its output and ends the run with exit code 1.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 — whoever starts it with an older Python should read why it stops
    sys.exit(f"dev.py needs Python 3.11 or newer; this is {sys.version.split()[0]}. Try: python3.11 dev.py …")

import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

ROOT: Final = Path(__file__).resolve().parent
VENV: Final = ROOT / ".venv"
BIN: Final = VENV / "bin"
NODE: Final = ROOT / "tests" / "node"
CLIENT: Final = ROOT / "clients" / "js"

RUN_LOCKS: Final = ("requirements.lock", "requirements-build.lock")
DEV_LOCKS: Final = ("requirements-dev.lock", "requirements-build.lock")
LOCKS: Final = ("requirements.lock", "requirements-build.lock", "requirements-dev.lock")
FAST_TESTS: Final = ("tests/unit", "tests/contract", "tests/scenario", "tests/property")
FAST_MARKERS: Final = "not slow and not real and not browser"
SOAK_TIMEOUT_S: Final = 3600
SOAK_PAGE: Final = "docs/soak.md"
PIP_TOOLS: Final = "pip-tools==7.6.2"

# Command that the tests start → Debian package that brings it.
DEBIAN: Final[Mapping[str, str]] = MappingProxyType(
    {
        "caddy": "caddy",
        "chromium": "chromium",
        "curl": "curl",
        "faketime": "faketime",
        "nginx": "nginx-light",
        "node": "nodejs",
        "npm": "npm",
        "openssl": "openssl",
        "pg_ctlcluster": "postgresql",
        "prometheus": "prometheus",
        "systemd-analyze": "systemd",
    }
)


class StepError(Exception):
    """A step failed; it has already been said how."""


@dataclass(frozen=True, slots=True)
class Step:
    """A command to run quietly, and what to call it."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path = ROOT


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a step ended. `output` is stdout and stderr as they came."""

    step: Step
    code: int
    output: str
    duration_s: float


@dataclass(frozen=True, slots=True)
class DebianPlan:
    """What to do about missing commands: `steps` to run, or a `refusal` to print."""

    steps: tuple[Step, ...] = ()
    refusal: str = ""


def run(step: Step) -> Outcome:
    """Run a step to its end, silently."""
    started = time.monotonic()
    done = subprocess.run(
        step.command,
        cwd=step.folder,
        env={**os.environ, **step.environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return Outcome(step, done.returncode, done.stdout, time.monotonic() - started)


def report(outcome: Outcome) -> None:
    """Say how a step ended: one line, and all its output where it failed."""
    verdict = "ok" if outcome.code == 0 else f"FAILED, exit code {outcome.code}"
    print(f"{outcome.step.name:<28} {outcome.duration_s:6.1f} s  {verdict}", flush=True)
    if outcome.code != 0:
        print(f"$ {' '.join(outcome.step.command)}\n{outcome.output}", flush=True)


def run_in_turn(steps: Iterable[Step]) -> list[Outcome]:
    """Run steps one after the other, and give how they ended. Raises: StepError at the first that fails."""
    outcomes = []
    for step in steps:
        outcomes.append(outcome := run(step))
        report(outcome)
        if outcome.code != 0:
            raise StepError(step.name)
    return outcomes


def run_side_by_side(steps: Sequence[Step]) -> None:
    """Run all steps, as many at a time as there are cores. Raises: StepError when all have ended and one failed."""
    failed = []
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for ended in as_completed([pool.submit(run, step) for step in steps]):
            outcome = ended.result()
            report(outcome)
            if outcome.code != 0:
                failed.append(outcome.step.name)
    if failed:
        raise StepError(", ".join(failed))


def fingerprint(files: Iterable[Path], *facts: str) -> str:
    """Give a digest of the files' contents and of `facts`, in their order."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    for fact in facts:
        digest.update(hashlib.sha256(fact.encode()).digest())
    return digest.hexdigest()


def is_stamped(stamp: Path, mark: str) -> bool:
    """Tell whether `stamp` was written with this mark."""
    return stamp.is_file() and stamp.read_text(encoding="ascii") == mark


def interpreter_mark() -> str:
    """Give what a virtual environment depends on: the interpreter and the place of the tree."""
    return fingerprint((), sys.version, sys.base_prefix, str(ROOT))


def install_mark() -> str:
    """Give what an installation depends on: all locks, pyproject.toml and the interpreter."""
    return fingerprint([ROOT / name for name in (*LOCKS, "pyproject.toml")], interpreter_mark())


def pip(*arguments: str) -> tuple[str, ...]:
    """Give the command that runs this interpreter's pip on `.venv`, which has none of its own."""
    options = ("--disable-pip-version-check", "--no-input", "--quiet")
    return (sys.executable, "-m", "pip", "--python", str(BIN / "python"), "install", *options, *arguments)


def python_with_pip() -> str:
    """Give this interpreter, or in an environment without pip the one that it was made from."""
    if importlib.util.find_spec("pip") is not None:
        return sys.executable
    return str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}")


def pip_refusal(*, has_pip: bool, is_venv: bool) -> str:
    """Give what a person should do before pip can be used; empty where it can be."""
    if has_pip:
        return ""
    if is_venv:
        return "This Python belongs to a virtual environment without pip. Leave it first: deactivate"
    return f"{sys.executable} has no pip. On Debian: apt-get install python3-pip"


def require_pip() -> None:
    """Stop where nothing can be installed. Raises: StepError."""
    refusal = pip_refusal(has_pip=importlib.util.find_spec("pip") is not None, is_venv=sys.prefix != sys.base_prefix)
    if refusal:
        print(refusal, file=sys.stderr)
        raise StepError("pip")


def make_venv() -> None:
    """Make `.venv` unless it is there for this interpreter and this place. Raises: StepError."""
    stamp, mark = VENV / ".stamp-interpreter", interpreter_mark()
    if is_stamped(stamp, mark) and (BIN / "python").exists():
        return
    require_pip()
    clear = ("--clear",) if stamp.exists() else ()
    run_in_turn([Step("make .venv", (sys.executable, "-m", "venv", "--without-pip", *clear, str(VENV)))])
    stamp.write_text(mark, encoding="ascii")


def install(name: str, locks: Sequence[str]) -> None:
    """Install what `locks` name, by their hashes, then the tree itself; nothing if that was done before."""
    make_venv()
    stamp, mark = VENV / f".stamp-{name}", install_mark()
    if is_stamped(stamp, mark):
        return
    require_pip()
    wanted = [argument for lock in locks for argument in ("-r", lock)]
    run_in_turn(
        [
            Step(f"install {name} packages", pip("--require-hashes", *wanted)),
            Step("install subak", pip("--no-build-isolation", "--no-deps", "--editable", ".")),
        ]
    )
    stamp.write_text(mark, encoding="ascii")


def install_for_running() -> None:
    """Install what Subak needs to run; an installation for development has that too."""
    make_venv()
    if not is_stamped(VENV / ".stamp-development", install_mark()):
        install("run-time", RUN_LOCKS)


def install_for_development() -> None:
    """Install what Subak needs to run, be checked and be tested."""
    install("development", DEV_LOCKS)


def missing_commands(wanted: Iterable[str] = DEBIAN) -> list[str]:
    """Give which of `wanted` this machine lacks; servers also live where only root looks."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))
    return [command for command in wanted if shutil.which(command, path=path) is None]


def debian_plan(missing: Sequence[str], *, is_root: bool, has_apt: bool) -> DebianPlan:
    """Decide how the missing commands come here.

    Only their packages are asked for: where node comes from elsewhere, Debian's npm would be in conflict with it.
    """
    if not missing:
        return DebianPlan()
    if not has_apt:
        return DebianPlan(refusal=f"The tests need these commands, and this is no Debian: {', '.join(missing)}")
    packages = sorted({DEBIAN[command] for command in missing})
    wanted = ("apt-get", "install", "--yes", "--no-install-recommends", *packages)
    if not is_root:
        return DebianPlan(
            refusal=f"The tests need {', '.join(missing)}. As root: apt-get update && {' '.join(wanted)}",
        )
    # Runlevel 1 keeps System V init from starting what is installed. systemd may start nginx all the same: it is left
    # alone, tests use servers and ports of their own.
    quiet = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    return DebianPlan(
        steps=(
            Step("update Debian's lists", ("apt-get", "update"), quiet),
            Step(f"install {' '.join(packages)}", wanted, quiet),
        )
    )


def install_debian_packages(wanted: Iterable[str] = DEBIAN) -> None:
    """Install those of the commands of `DEBIAN` that are wanted, if they are missing. Raises: StepError."""
    plan = debian_plan(missing_commands(wanted), is_root=os.geteuid() == 0, has_apt=shutil.which("apt-get") is not None)
    if plan.refusal:
        print(plan.refusal, file=sys.stderr)
        raise StepError("Debian packages")
    run_in_turn(plan.steps)


def install_node_packages(folder: Path) -> None:
    """Install what a folder's package-lock.json names."""
    stamp, locked = folder / "node_modules" / ".stamp", [folder / "package.json", folder / "package-lock.json"]
    mark = fingerprint(locked)
    if is_stamped(stamp, mark):
        return
    command = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
    run_in_turn([Step(f"npm ci in {folder.relative_to(ROOT)}", command, folder=folder)])
    stamp.write_text(mark, encoding="ascii")


def check_steps() -> list[Step]:
    """Give the steps of `check`, the longest first."""
    python = str(BIN / "python")
    folders = [folder for folder in FAST_TESTS if (ROOT / folder).is_dir()]
    return [
        Step("types", (python, "-m", "mypy")),
        Step(
            "fast tests",
            (python, "-m", "pytest", "-q", "-m", FAST_MARKERS, *folders),
            {"SUBAK_TEST_PROFILE": "fast"},
        ),
        Step("layers", (str(BIN / "lint-imports"), "--no-logo")),
        Step("format", (python, "-m", "ruff", "format", "--check", "--quiet", ".")),
        Step("lint", (python, "-m", "ruff", "check", "--quiet", ".")),
    ]


def install_tools() -> None:
    """Install the programs that the tests start: servers, browsers, clients of other languages."""
    install_debian_packages()
    install_node_packages(NODE)  # the clients of others, that the tests drive
    install_node_packages(CLIENT)  # what builds and tests our own
    install_litellm()


def install_litellm() -> None:
    """Install LiteLLM, which the tests put the gateway in front of, into an environment of its own, once."""
    run_in_turn([Step("install LiteLLM", (sys.executable, "-m", "tests.litellm"))])


def run_tests(profile: str, arguments: Sequence[str]) -> int:
    """Run pytest in the open, so that its own closing line comes last. Returns: its exit code.

    Two workers, each with whole files: many tests wait for sockets, and fixtures of a file are made once.
    """
    workers = () if {"-n", "--numprocesses"} & set(arguments) else ("-n", "2", "--dist", "loadfile")
    command = (str(BIN / "python"), "-m", "pytest", *workers, *arguments)
    environment = {**os.environ, "SUBAK_TEST_PROFILE": profile}
    return subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, check=False).returncode


def lock_steps(python: str, arguments: Sequence[str]) -> list[Step]:
    """Give the steps that write the locks: what runs, what builds and, within the bounds of both, what tests."""
    fixed = "--generate-hashes --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --strip-extras"
    base = (python, "-m", "piptools", "compile", "--quiet", "--allow-unsafe", *fixed.split(), *arguments)
    # The machine's pip configuration may add other indexes: their files have other hashes.
    alone = {
        "CUSTOM_COMPILE_COMMAND": "./dev.py lock",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
    }
    run_time, build, development = LOCKS
    bounds = ("-c", run_time)
    for_build = ("--build-deps-for", "editable", "--only-build-deps")
    return [
        Step(run_time, (*base, "-o", run_time, "pyproject.toml"), alone),
        Step(build, (*base, *bounds, *for_build, "-o", build, "pyproject.toml"), alone),
        Step(
            development,
            (*base, *bounds, "-c", build, "--extra", "dev", "-o", development, "pyproject.toml"),
            alone,
        ),
    ]


def foreign_lines(lock: str) -> list[str]:
    """Give the lines of a lock that name a place to fetch from: it should install from whatever index one uses."""
    return [line for line in lock.splitlines() if "://" in line or "file:/" in line or line.startswith("--")]


def up(arguments: Sequence[str]) -> int:
    """Install if needed, then become `subak demo`."""
    install_for_running()
    os.execv(BIN / "subak", ["subak", "demo", *arguments])


def check(_arguments: Sequence[str] = ()) -> int:
    """Run everything that needs no server and no browser."""
    install_for_development()
    run_side_by_side(check_steps())
    return 0


def test(arguments: Sequence[str]) -> int:
    """Check, install what else the tests need, then run every test."""
    check()
    install_tools()
    return run_tests("default", arguments)


def soak(arguments: Sequence[str]) -> int:
    """Run every test with its full counts. The whole of them writes its result into the documentation."""
    install_for_development()
    install_tools()
    return run_tests("soak", soak_arguments(arguments))


def soak_arguments(arguments: Sequence[str]) -> list[str]:
    """Give pytest's arguments for a soak: a part of the tests says nothing about all of them."""
    report = () if arguments else (f"--soak-report={SOAK_PAGE}",)
    return [f"--timeout={SOAK_TIMEOUT_S}", *report, *arguments]


def bench(arguments: Sequence[str]) -> int:
    """Become the benchmark."""
    install_for_running()
    os.execv(BIN / "python", [str(BIN / "python"), str(ROOT / "bench" / "run.py"), *arguments])


def rehearse(arguments: Sequence[str]) -> int:
    """Become the rehearsal, which starts the servers of the tests."""
    install_for_development()
    install_debian_packages(("nginx", "prometheus"))
    os.chdir(ROOT)
    os.execv(BIN / "python", [str(BIN / "python"), "-m", "tests.rehearsal", *arguments])


def lock(arguments: Sequence[str]) -> int:
    """Write the locks anew, by pip-tools in an environment of its own."""
    if sys.version_info[:2] != (3, 11):
        print("Lock with Python 3.11, the oldest we support: it needs packages that newer ones don't.", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        python = str(Path(folder) / "bin" / "python")
        run_in_turn(
            [
                Step("make an environment", (sys.executable, "-m", "venv", "--without-pip", folder)),
                Step(PIP_TOOLS, (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", PIP_TOOLS)),
                *lock_steps(python, arguments),
            ]
        )
    bad = [line for name in LOCKS for line in foreign_lines((ROOT / name).read_text("utf-8"))]
    print("".join(f"names a place to fetch from: {line}\n" for line in bad), end="")
    return 1 if bad else 0


def release(arguments: Sequence[str]) -> int:
    """Install what builds a release, then become what does it."""
    install_for_development()
    install_debian_packages(("node", "npm"))
    install_node_packages(CLIENT)
    os.chdir(ROOT)
    os.execv(BIN / "python", [str(BIN / "python"), "-m", "tools.release", *arguments])


COMMANDS: Final[Mapping[str, Callable[[Sequence[str]], int]]] = MappingProxyType(
    {
        "up": up,
        "test": test,
        "check": check,
        "soak": soak,
        "bench": bench,
        "rehearse": rehearse,
        "lock": lock,
        "release": release,
    }
)


def main(arguments: Sequence[str]) -> int:
    """Run one command. Returns: the exit code; 2 where there is no such command."""
    if arguments and arguments[0] in ("-h", "--help", "help"):
        print(__doc__)
        return 0
    if not arguments or arguments[0] not in COMMANDS:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        return COMMANDS[arguments[0]](arguments[1:])
    except StepError:
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
