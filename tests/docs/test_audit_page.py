"""docs/audit.md is what the code of the audit trail says of itself."""

import re
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Final

import pytest
import rich_click as click

from subak.audit.operations import FIELDS, TERM_DAYS, Basis, Operation, Purpose
from subak.audit.verdict import Doubt, Flaw
from subak.audit.verify import MAX_UNSEALED_ROWS
from subak.audit.writer import MAX_SILENCE_MS, MAX_UNSEALED_MS
from subak.cli.audit import command as audit

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "audit.md"


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def operations() -> str:
    """Give the tables of what may be written where, and why."""
    rows = [
        (
            f"`{operation}`",
            operation.rule.about,
            _coded(name for name in FIELDS if name in operation.rule.fields),
            _coded(sorted(operation.rule.personal)),
            operation.rule.purpose.name.lower(),
            operation.rule.basis.name.lower(),
            f"{operation.rule.term_days} days",
            "evidence" if operation.rule.is_evidence and operation.rule.personal else "",
        )
        for operation in Operation
    ]
    heads = ("operation", "written when", "core fields", "personal fields", "purpose", "basis", "term", "")
    return "\n\n".join(
        (
            _table(heads, rows),
            _table(("purpose", "what for"), _meanings(Purpose)),
            _table(("basis", "of the processing"), _meanings(Basis)),
            _table(("core field", "form"), ((f"`{name}`", form.about) for name, form in FIELDS.items())),
        )
    )


def flaws() -> str:
    """Give the tables of what a verifier finds."""
    return "\n\n".join(
        (
            _table(("finding", ""), ((f"`{one.name}`", one.value) for one in Flaw)),
            _table(("warning", ""), ((f"`{one.name}`", one.value) for one in Doubt)),
        )
    )


def _coded(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _meanings(words: type[StrEnum]) -> Iterable[tuple[str, str]]:
    return ((one.name.lower(), one.value) for one in words)


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ("---",) * len(heads), *rows))


PARTS: Final = {"operations": operations(), "flaws": flaws()}


@pytest.mark.parametrize("name", PARTS)
def test_the_tables_are_what_the_code_says(page: str, name: str) -> None:
    (found,) = re.findall(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", page, re.DOTALL)
    assert found == PARTS[name], f"docs/audit.md should have:\n{PARTS[name]}"


def test_the_page_names_the_bounds_that_the_code_has(page: str) -> None:
    for bound in (MAX_UNSEALED_ROWS, MAX_UNSEALED_MS, MAX_SILENCE_MS):
        assert f"{bound:_}".replace("_", " ") in page
    assert f"{TERM_DAYS} days" in page


def test_the_labels_of_digests_are_those_of_the_code(page: str) -> None:
    """Whoever changes one changes the format, and the page with it."""
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src/subak/audit").glob("*.py"))
    labels = set(re.findall(r'"(subak\.audit\.[a-z.-]+\.v\d)"', sources))
    assert len(labels) >= 11
    assert labels == set(re.findall(r'"(subak\.audit\.[a-z.-]+\.v\d)"', page))


@pytest.mark.parametrize("name", ["audit.md", "privacy.md"])
def test_the_commands_of_the_page_exist_with_their_options(name: str) -> None:
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    commands = re.findall(r"^subak audit ([^#\n]+?)(?:  |$)", page, re.MULTILINE)
    commands += re.findall(r"`subak audit ([^`]+)`", page)
    assert len(commands) > 5
    for command in commands:
        assert not list(_unknown_words(command.split())), command


def _unknown_words(words: list[str]) -> Iterator[str]:
    """Give what of a command line `subak audit` doesn't know: its command, and each option."""
    found: click.Command = audit
    while isinstance(found, click.Group):
        known = found.commands.get(words[0])
        if known is None:
            yield words[0]
            return
        found, words = known, words[1:]
    options = {option for parameter in found.params for option in parameter.opts}
    yield from (word for word in words if word.startswith("--") and word not in options)
