"""The browser client's own tests, on Node, and the bundles that were built of its sources."""

import re
from pathlib import Path
from typing import Final

import msgspec
import pytest

from subak import __version__
from tests.integration.clients import run
from tests.integration.gateway import ONE_LOOP
from tests.settings import runs

pytestmark = pytest.mark.real

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "clients" / "js"
SERVED: Final = ROOT / "src" / "subak" / "web" / "static"
BUNDLES: Final = ("bali-zero-stream-client.js", "subak-client.classic.js", "subak-client.js")
NODE_S: Final = 120.0


@ONE_LOOP
async def test_the_bundles_that_are_served_are_built_of_the_sources(tmp_path: Path) -> None:
    """Mend it by `npm run build` in clients/js; its types are checked on the way."""
    built = await run("node", PACKAGE / "build.mjs", tmp_path, timeout_s=NODE_S)
    assert built.code == 0, built.err + built.out.decode()
    assert {path.name for path in tmp_path.iterdir()} == set(BUNDLES)
    for name in BUNDLES:
        assert (tmp_path / name).read_bytes() == (SERVED / name).read_bytes(), name


@ONE_LOOP
async def test_the_package_passes_its_own_tests() -> None:
    examples = str(runs(fast=50, default=300, soak=10_000))
    command: list[str | Path] = [
        "env",
        f"SUBAK_TEST_RUNS={examples}",
        "node",
        "--test",
        *sorted((PACKAGE / "test").glob("*.test.mjs")),
    ]
    tested = await run(*command, timeout_s=NODE_S)
    said = tested.out.decode()
    assert tested.code == 0, said[-5_000:]
    found = re.search(r"^# pass (\d+)$", said, re.MULTILINE)
    assert found is not None, said[-500:]
    assert int(found[1]) > 100


def test_it_has_the_gateways_version_and_a_lock_that_names_no_registry() -> None:
    package = msgspec.json.decode((PACKAGE / "package.json").read_bytes(), type=dict[str, object])
    assert package["version"] == __version__
    assert "dependencies" not in package
    locked = (PACKAGE / "package-lock.json").read_text("utf-8")
    assert f'"version": "{__version__}"' in locked
    assert '"resolved"' not in locked
