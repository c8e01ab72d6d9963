"""Builds a release into `dist/`, tries it in an environment of its own, and prints its figures.

  ./dev.py release           of the tree as it is
  ./dev.py release v0.1.0    of a commit that is ready for this tag, or it says what is missing

What comes out: sdist, wheel, the browser client's tarball, and the SBOM of what the wheel runs on.
"""

import hashlib
import http.client
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from zipfile import ZipFile

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.metadata import Metadata

from dev import CLIENT, ROOT, Step, StepError, python_with_pip, run_in_turn
from subak import __version__

DIST: Final = ROOT / "dist"
UPLOT: Final = ROOT / "src" / "subak" / "web" / "static" / "ops" / "uplot.js"
BOM: Final = "subak-sbom.cdx.json"
STARTS: Final = 7
STARTING_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Built:
    """The files of a release."""

    sdist: Path
    wheel: Path
    client: Path


@dataclass(frozen=True, slots=True)
class Installed:
    """An environment with nothing but Subak. Times in seconds, with pip's cache as it was."""

    folder: Path
    packages_s: float
    wheel_s: float

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def subak(self) -> Path:
        """Its `subak`."""
        return self.folder / "bin" / "subak"


def git(*arguments: str) -> str:
    """Give what git says. Raises: subprocess.CalledProcessError."""
    return subprocess.run(("git", *arguments), cwd=ROOT, check=True, capture_output=True, text=True).stdout


def tag_faults(tag: str, changelog: str, changed: str) -> list[str]:
    """Say what keeps a commit from being released as `tag`. `changed`: what `git status --porcelain` says."""
    dated = re.search(rf"^## \[{re.escape(__version__)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE)
    faults = {
        f"the tag is {tag}, the version {__version__}": tag != f"v{__version__}",
        f"CHANGELOG.md has no line ## [{__version__}] - YYYY-MM-DD": dated is None,
        f"not committed:\n{changed}": bool(changed),
    }
    return [fault for fault, is_there in faults.items() if is_there]


def export_tree(into: Path) -> Path:
    """Copy what git has or would take, and nothing that lies about. Returns: `into`."""
    names = git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, into / name)
    return into


def commit_time() -> str:
    """Give the time of the commit as SOURCE_DATE_EPOCH: the same commit gives the same bytes."""
    return git("log", "-1", "--format=%ct").strip()


def build(tree: Path, into: Path) -> Built:
    """Build everything of an exported tree; the wheel of the sdist, so that whoever has only that gets the same.

    Raises:
        StepError: a step failed, and printed why.
    """
    into.mkdir(parents=True, exist_ok=True)
    (tree / "clients" / "js" / "node_modules").symlink_to(CLIENT / "node_modules")
    run_in_turn(
        [
            python_step(tree, into),
            Step("pack the browser client", ("npm", "pack", "--pack-destination", str(into)), {}, tree / "clients/js"),
        ]
    )
    built = Built(*(next(into.glob(pattern)) for pattern in ("subak-*.tar.gz", "subak-*.whl", "subak-client-*.tgz")))
    check_metadata(built.wheel)
    return built


def python_step(tree: Path, into: Path, *arguments: str) -> Step:
    """Give the step that builds sdist and wheel with what `.venv` has."""
    command = (sys.executable, "-m", "build", "--no-isolation", "--outdir", str(into), *arguments, str(tree))
    return Step(f"build {' '.join(arguments) or 'sdist and wheel'}", command, {"SOURCE_DATE_EPOCH": commit_time()})


def check_metadata(wheel: Path) -> None:
    """Read a wheel's metadata as an index does. Raises: packaging.metadata's ExceptionGroup with all faults."""
    with ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        Metadata.from_email(archive.read(name), validate=True)


def install(wheel: Path, folder: Path) -> Installed:
    """Make an environment of what `requirements.lock` names, by its hashes, and the wheel. Raises: StepError."""
    run_in_turn([Step("make a clean environment", (sys.executable, "-m", "venv", "--without-pip", str(folder)))])
    pip = (python_with_pip(), "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet")
    locked = ("--require-hashes", "--requirement", str(ROOT / "requirements.lock"))
    packages, own = run_in_turn(
        [
            Step("install what it needs", (*pip, *locked)),
            Step("install the wheel", (*pip, "--no-deps", "--no-index", str(wheel))),
        ]
    )
    return Installed(folder, packages.duration_s, own.duration_s)


def help_s(subak: Path) -> float:
    """Give how long `subak --help` takes."""
    started = time.perf_counter()
    subprocess.run((str(subak), "--help"), env=_without_tree(), check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def cold_start_s(subak: Path) -> float:
    """Give how long it is from starting `subak serve` to the first 200 of /livez."""
    with tempfile.TemporaryDirectory() as state_dir:
        own = {"SUBAK_STATE_DIR": state_dir, "SUBAK_ADMIN__PORT": "0", "ENABLE_SSE_STREAMING": "true"}
        started = time.perf_counter()
        command = (str(subak), "serve", "--port", "0")
        with subprocess.Popen(
            command,
            cwd=state_dir,
            env={**_without_tree(), **own},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as gateway:
            try:
                return _first_answer(gateway) - started
            finally:
                gateway.terminate()


def _without_tree() -> dict[str, str]:
    """Give an environment in which what is installed runs, and not this tree."""
    return {**os.environ, "PYTHONPATH": ""}


def _first_answer(gateway: "subprocess.Popen[str]") -> float:
    assert gateway.stderr is not None
    said = ""
    for line in gateway.stderr:
        said += line
        if found := re.search(r"http://[^ /]+:\d+", line):
            with closing(http.client.HTTPConnection(urlsplit(found[0]).netloc, timeout=STARTING_S)) as connection:
                connection.request("GET", "/livez")
                assert connection.getresponse().status == http.HTTPStatus.OK
                return time.perf_counter()
    raise AssertionError(f"subak serve ended: {said}")


def write_bom(installed: Installed, file: Path) -> None:
    """Write what the wheel runs on as CycloneDX: the installed packages, and the script of others that is inside.

    Raises:
        StepError: cyclonedx-py can't; it printed why.
    """
    about = ("--pyproject", str(ROOT / "pyproject.toml"), "--no-validate", "--output-reproducible")
    command = (sys.executable, "-m", "cyclonedx_py", "environment", *about, "-o", str(file), str(installed.python))
    run_in_turn([Step("SBOM", command, {"SOURCE_DATE_EPOCH": commit_time()})])
    bom = json.loads(file.read_bytes())
    root, uplot = bom["metadata"]["component"], uplot_component()
    root |= {"version": __version__, "purl": f"pkg:pypi/subak@{__version__}"}
    bom["components"].append(uplot)
    (depends,) = (each for each in bom["dependencies"] if each["ref"] == root["bom-ref"])
    depends["dependsOn"].append(uplot["bom-ref"])
    bom["dependencies"].append({"ref": uplot["bom-ref"]})
    file.write_text(json.dumps(bom, indent=2) + "\n", encoding="utf-8")


def check_bom(text: str) -> None:
    """Hold an SBOM to the schema of CycloneDX, which takes some seconds. Raises: ValueError."""
    if fault := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise ValueError(f"the SBOM is not valid: {fault}")


def uplot_component() -> dict[str, Any]:
    """Give uPlot as a component: the operations page draws with it. NOTICE has its license."""
    script = UPLOT.read_bytes()
    version = re.match(rb"/\*! https://github.com/leeoniya/uPlot \(v([\d.]+)\) \*/", script)
    assert version is not None
    purl = f"pkg:npm/uplot@{version[1].decode()}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": "uplot",
        "version": version[1].decode(),
        "purl": purl,
        "licenses": [{"license": {"id": "MIT"}}],
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(script).hexdigest()}],
    }


def figures(files: Sequence[Path], installed: Installed, starts: int) -> Iterator[str]:
    """Give the lines to print: sizes; times, of that many starts."""
    for file in files:
        yield f"{file.name:<34} {file.stat().st_size / 1024:8,.0f} KiB"
    yield f"{'install what it needs':<34} {installed.packages_s:8.1f} s"
    yield f"{'install the wheel':<34} {installed.wheel_s:8.1f} s"
    for name, measure in (("subak --help", help_s), ("subak serve, to the first 200", cold_start_s)):
        yield f"{name:<34} {_best_and_median([measure(installed.subak) for _ in range(starts)])}"


def _best_and_median(taken: Sequence[float]) -> str:
    return f"{min(taken) * 1000:8,.0f} ms at best of {len(taken)}, median {statistics.median(taken) * 1000:,.0f} ms"


def main(arguments: Sequence[str]) -> int:
    """Release. Returns: the exit code; 2 where the tag can't be given."""
    changed = git("status", "--porcelain")
    faults = [
        fault for tag in arguments for fault in tag_faults(tag, (ROOT / "CHANGELOG.md").read_text("utf-8"), changed)
    ]
    if faults:
        print("\n".join(faults), file=sys.stderr)
        return 2
    shutil.rmtree(DIST, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        built = build(export_tree(Path(folder) / "tree"), DIST)
        installed = install(built.wheel, Path(folder) / "environment")
        bom = DIST / BOM
        write_bom(installed, bom)
        check_bom(bom.read_text(encoding="utf-8"))
        commit = git("rev-parse", "--short", "HEAD").strip()
        print(f"\n{commit}{', with what is not committed' if changed else ''}")
        for line in figures((built.wheel, built.sdist, built.client, bom), installed, STARTS):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except StepError:
        sys.exit(1)
