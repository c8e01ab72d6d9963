"""`./dev.py rehearse`: the deployment of docs/deployment.md on this machine, from the first phase to the last.

Real processes: a RAG backend, `subak serve`, nginx in front, Prometheus. Each phase is one line with its duration; the
first expectation that isn't met ends the run with exit code 1. A run that passed writes docs/rehearsal.md.
"""

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.rehearsal.chat import learn
from tests.rehearsal.course import Course
from tests.rehearsal.deployment import ROOT, deployed
from tests.rehearsal.expect import Unmet
from tests.rehearsal.load import Load, Ways
from tests.rehearsal.report import Circumstances, Rehearsed, write
from tests.rehearsal.watching import Alerts

PAGES: Final = ROOT / "docs"


def say(line: str) -> None:
    """Tell the person who started it."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def rehearse(folder: Path, *, is_lenient: bool) -> Rehearsed:
    """Go through it all; files of the run stand in the folder.

    Raises:
        Unmet: something isn't as it is expected.
    """
    circumstances = Circumstances.begin()
    async with deployed(folder) as deployment:
        ways = Ways(deployment.backend.url, deployment.gateway.url, deployment.proxy.url)
        load = Load(ways, await learn(deployment.backend.url))
        alerts = Alerts(deployment.prometheus, lambda: load.now_s)
        course = Course(deployment, load, alerts, say, is_lenient=is_lenient)
        async with asyncio.TaskGroup() as tasks, load.running():
            watching = tasks.create_task(alerts.watch())
            await course.run()
            watching.cancel()
    return Rehearsed.of(circumstances, course, load, alerts)


def main() -> int:
    """Rehearse. Returns: the exit code."""
    parser = argparse.ArgumentParser(prog="./dev.py rehearse", description="Rehearse the deployment on this machine.")
    parser.add_argument("--out", type=Path, default=PAGES, metavar="FOLDER", help="where the report goes: docs")
    parser.add_argument(
        "--lenient", action="store_true", help="wider bounds of time, for a machine that others use; the report says so"
    )
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="subak-rehearsal-"))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # either way the processes are stopped
    try:
        rehearsed = asyncio.run(rehearse(folder, is_lenient=given.lenient))
    except BaseExceptionGroup as errors:
        unmet = errors.subgroup(Unmet)
        if unmet is None:
            raise
        say(f"Not as expected: {_first(unmet)}\nWhat the processes said is in {folder}")
        return 1
    except KeyboardInterrupt:
        return 130
    shutil.rmtree(folder)
    write(rehearsed, given.out)
    say(f"Passed in {rehearsed.took_s / 60:.1f} min: {given.out / 'rehearsal.md'}")
    return 0


def _first(errors: BaseException) -> BaseException:
    """Give the first error of groups in groups."""
    return _first(errors.exceptions[0]) if isinstance(errors, BaseExceptionGroup) else errors


if __name__ == "__main__":
    sys.exit(main())
