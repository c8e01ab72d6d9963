"""What a release consists of, built and used as those who get it do: wheel, sdist, the browser client, the SBOM."""

import json
import os
import re
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any, Final, NamedTuple
from zipfile import ZipFile

import pytest
from packaging.utils import canonicalize_name

from dev import CLIENT, ROOT, run_in_turn
from subak import __version__
from tests.integration.clients import Exited, program, run
from tests.integration.gateway import ONE_LOOP, running
from tests.integration.test_browser_client_package import BUNDLES, SERVED
from tools.release import (
    Built,
    Installed,
    build,
    check_bom,
    export_tree,
    figures,
    install,
    python_step,
    tag_faults,
    write_bom,
)

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

TOOL_S: Final = 120.0
"""What npm, a browser or an environment may take on a busy machine."""
ALONE: Final = ("unshare", "--net", "--map-root-user", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
"""Runs a command in a network that has the loopback and nothing else."""


class Release(NamedTuple):
    """What was built of a copy of the tree."""

    tree: Path
    built: Built


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    folder = tmp_path_factory.mktemp("release")
    tree = export_tree(folder / "tree")
    return Release(tree, build(tree, folder / "dist"))


@pytest.fixture(scope="module")
def installed(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return install(release.built.wheel, tmp_path_factory.mktemp("installed") / "environment")


@pytest.fixture(scope="module")
def bom(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("bom") / "subak.cdx.json"
    write_bom(installed, file)
    return file.read_text(encoding="utf-8")


def wheel_files(wheel: Path) -> dict[str, bytes]:
    with ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def tar_files(archive: Path) -> dict[str, bytes]:
    """Give the files of a tar archive by their names below its one folder."""
    with tarfile.open(archive) as opened:
        files = {member.name: opened.extractfile(member) for member in opened if member.isfile()}
        assert len({name.partition("/")[0] for name in files}) == 1
        return {name.partition("/")[2]: content.read() for name, content in files.items() if content is not None}


def test_the_wheel_is_the_package_to_the_file_and_nothing_else(release: Release) -> None:
    files = wheel_files(release.built.wheel)
    about = f"subak-{__version__}.dist-info/"
    sources = release.tree / "src"
    expected = {str(path.relative_to(sources)): path.read_bytes() for path in sources.rglob("*") if path.is_file()}
    assert {name: content for name, content in files.items() if not name.startswith(about)} == expected
    assert {name.removeprefix(about) for name in files if name.startswith(about)} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
        "licenses/NOTICE",
    }


@pytest.mark.parametrize("kind", [".html", ".css", ".js", ".svg", ".md", ".sql", "py.typed"])
def test_the_wheel_has_what_is_not_python_too(release: Release, kind: str) -> None:
    assert [name for name in wheel_files(release.built.wheel) if name.endswith(kind)]


def test_its_metadata_has_the_readme_and_the_license(release: Release) -> None:
    metadata = wheel_files(release.built.wheel)[f"subak-{__version__}.dist-info/METADATA"].decode()
    assert metadata.endswith((ROOT / "README.md").read_text(encoding="utf-8"))
    for line in (
        f"Version: {__version__}",
        "License-Expression: Apache-2.0",
        "Description-Content-Type: text/markdown",
    ):
        assert f"{line}\n" in metadata


def test_the_sdist_has_sources_of_everything_and_no_tests_or_leftovers(release: Release) -> None:
    files = tar_files(release.built.sdist)
    own = {"PKG-INFO", ".gitignore", "pyproject.toml", "LICENSE", "NOTICE", "requirements.lock"}
    pages = {path.name for path in release.tree.glob("*.md")}
    assert {name for name in files if "/" not in name} == own | pages
    assert {name.partition("/")[0] for name in files if "/" in name} == {"src", "clients", "deploy", "docs"}
    assert "clients/js/src/index.ts" in files, "the sources of the bundles in src/subak/web/static"
    assert [name for name in files if re.search(r"__pycache__|\.pyc|node_modules|/dist/|/test|\.map$", name)] == [
        name for name in files if name.startswith("src/subak/testing/") or name == "docs/testing.md"
    ]
    assert {name: files[name] for name in own - {"PKG-INFO"}} == {
        name: (release.tree / name).read_bytes() for name in own - {"PKG-INFO"}
    }


def test_the_same_tree_gives_the_same_bytes_wherever_and_whenever_it_is(release: Release, tmp_path: Path) -> None:
    """The second wheel is built of the tree, the first was built of the sdist."""
    other = shutil.copytree(release.tree, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("node_modules"))
    for path in other.rglob("*"):
        if path.is_file():
            path.chmod(0o600)
            os.utime(path, (1_000_000_000, 1_000_000_000))
    made = tmp_path / "made"
    run_in_turn([python_step(other, made, "--sdist"), python_step(other, made, "--wheel")])
    for first in (release.built.sdist, release.built.wheel):
        assert (made / first.name).read_bytes() == first.read_bytes(), first.name


@ONE_LOOP
async def test_the_demo_of_the_wheel_answers_in_its_page_without_any_network(installed: Installed) -> None:
    probe = await run(*ALONE, "true")
    alone = ALONE if probe.code == 0 else ()
    visit = ("env", f"--chdir={ROOT}", sys.executable, "-m", "tests.integration.wheel_demo", installed.subak)
    ended = await run(*alone, *visit, timeout_s=TOOL_S)
    assert ended.code == 0, ended.err
    seen = json.loads(ended.out)
    assert "passport" in seen["shown"]
    assert seen["shown"] == seen["logged"]
    assert seen["sources"] > 0
    assert seen["complaints"] == []
    if not alone:
        pytest.skip(f"it answers; whether it would without a network can't be seen here: {probe.err.strip()}")
    assert seen["interfaces"] == ["lo"]


@ONE_LOOP
async def test_what_runs_there_is_the_wheel_and_what_the_lock_names(installed: Installed) -> None:
    """Nothing of this tree, and no package that nobody asked for."""
    script = "import importlib.metadata as m, subak; print(subak.__file__, *(d.name for d in m.distributions()))"
    said = await run("env", "PYTHONPATH=", installed.python, "-c", script, timeout_s=TOOL_S)
    file, *names = said.out.decode().split()
    locked = re.findall(r"^([\w.-]+)==", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)
    assert Path(file).is_relative_to(installed.folder)
    assert {canonicalize_name(name) for name in names} == {canonicalize_name(name) for name in (*locked, "subak")}


def test_the_figures_are_told(release: Release, installed: Installed) -> None:
    """They are for people: how fast a machine is that does other things is no matter of right or wrong."""
    files = (release.built.wheel, release.built.sdist, release.built.client)
    told = "\n".join(figures(files, installed, starts=2))
    print(told)  # noqa: T201 - they are for people
    assert re.search(rf"^subak-{re.escape(__version__)}-py3-none-any.whl +[\d,]+ KiB$", told, re.MULTILINE)
    assert re.search(r"^install the wheel +[\d.]+ s$", told, re.MULTILINE)
    for name in ("subak --help", "subak serve, to the first 200"):
        assert re.search(rf"^{name} +[\d,]+ ms at best of \d, median [\d,]+ ms$", told, re.MULTILINE)


@pytest.fixture
async def page(release: Release, tmp_path: Path) -> Path:
    """Give a project of somebody's that has the tarball installed, by npm and without a registry."""
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    wanted = ("--offline", "--ignore-scripts", "--no-audit", "--no-fund", release.built.client)
    ended = await run(program("npm"), "install", "--prefix", tmp_path, *wanted, timeout_s=TOOL_S)
    assert ended.code == 0, ended.err
    return tmp_path


@ONE_LOOP
async def test_the_client_reads_an_answer_as_a_module_of_node(page: Path) -> None:
    script = page / "ask.js"
    script.write_text(
        """import { SubakStream } from "subak-client";
        const stream = new SubakStream({ url: process.argv[2], question: { query: "What is a KITAS?" } });
        for await (const { type, data } of stream) if (type === "token") process.stdout.write(data);
        """
    )
    async with running() as gateway:
        ended = await run(program("node"), script, f"{gateway.url}/v1/streams", timeout_s=TOOL_S)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(b"A KITAS is")


@ONE_LOOP
async def test_the_client_has_types_that_know_right_from_wrong(page: Path) -> None:
    tsc = ("node", CLIENT / "node_modules" / "typescript" / "bin" / "tsc", "--noEmit", "--strict", "--target", "es2022")
    checked = (*tsc, "--module", "nodenext", "--types", "")
    use = 'import {{ SubakStream }} from "subak-client";\nexport const read = new SubakStream({{ {} }});\n'
    right, wrong = page / "right.ts", page / "wrong.ts"
    right.write_text(use.format('url: "https://a.example/v1/streams", question: { query: "?" }'))
    wrong.write_text(use.format('url: "https://a.example/v1/streams", question: { query: 1 }'))
    assert (await run(*checked, right, timeout_s=TOOL_S)) == Exited(0, b"", "")
    assert b"Type 'number' is not assignable to type 'string'" in (await run(*checked, wrong, timeout_s=TOOL_S)).out


@ONE_LOOP
async def test_the_client_is_a_classic_script_too(page: Path) -> None:
    """As a script element runs it: `Subak` is then a global name."""
    script = page / "classic.js"
    script.write_text(
        """import { readFileSync } from "node:fs";
        import { fileURLToPath } from "node:url";
        import { createContext, runInContext } from "node:vm";
        const window = createContext({});
        runInContext(readFileSync(fileURLToPath(import.meta.resolve("subak-client/classic")), "utf8"), window);
        console.log(JSON.stringify(runInContext("Object.keys(Subak)", window)));
        """
    )
    ended = await run(program("node"), script, timeout_s=TOOL_S)
    assert ended.err == ""
    assert {"SubakStream", "BaliZeroStreamClient", "SubakError"} <= set(json.loads(ended.out))


def test_the_client_is_what_the_gateway_serves_with_types_and_license_and_nothing_else(release: Release) -> None:
    files = tar_files(release.built.client)
    bundles = {name for name in files if name.endswith(".js")}
    assert bundles == {f"dist/{name}" for name in BUNDLES}
    for name in bundles:
        assert files[name] == (SERVED / Path(name).name).read_bytes(), name
    others = {name for name in files if not name.endswith((".js", ".d.ts"))}
    assert others == {"package.json", "README.md", "dist/LICENSE", "dist/NOTICE"}
    assert files["dist/LICENSE"] == (ROOT / "LICENSE").read_bytes()


def test_the_sbom_is_valid_and_names_no_place_of_the_machine_that_made_it(bom: str, installed: Installed) -> None:
    check_bom(bom)
    with pytest.raises(ValueError, match="not valid"):
        check_bom(bom.replace('"specVersion"', '"specVersoin"'))
    for place in (str(installed.folder), str(ROOT), "file:"):
        assert place not in bom


def test_the_sbom_names_what_is_locked_and_what_of_others_is_inside(bom: str) -> None:
    described: dict[str, Any] = json.loads(bom)
    assert described["metadata"]["component"]["purl"] == f"pkg:pypi/subak@{__version__}"
    purls = {component["purl"] for component in described["components"]}
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked = {
        f"pkg:pypi/{canonicalize_name(name)}@{version}"
        for name, version in re.findall(r"^([\w.-]+)==(\S+)", lock, re.MULTILINE)
    }
    (uplot,) = purls - locked
    assert locked <= purls
    assert uplot.removeprefix("pkg:npm/uplot@") in (ROOT / "NOTICE").read_text(encoding="utf-8")
    depends = {each["ref"]: set(each.get("dependsOn", [])) for each in described["dependencies"]}
    assert uplot in depends[described["metadata"]["component"]["bom-ref"]]
    assert {ref for refs in depends.values() for ref in refs} <= set(depends)


def test_a_tag_is_for_a_committed_tree_of_that_version_with_a_dated_changelog() -> None:
    dated, undated = f"## [{__version__}] - 2026-12-01\n", f"## [{__version__}] - unreleased\n"
    assert tag_faults(f"v{__version__}", f"# Changelog\n\n{dated}", "") == []
    (wrong,) = tag_faults("v9.9.9", dated, "")
    (early,) = tag_faults(f"v{__version__}", undated, "")
    (dirty,) = tag_faults(f"v{__version__}", dated, " M dev.py")
    assert wrong == f"the tag is v9.9.9, the version {__version__}"
    assert early.startswith("CHANGELOG.md has no line")
    assert dirty.endswith(" M dev.py")


def test_the_changelog_begins_with_this_version() -> None:
    heading = re.search(r"^## \[(?!Unreleased)([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert heading is not None
    assert heading[1] == __version__
