"""The commands of a page: every line of its shell blocks, and every span that is one.

```sh           each line is a command; so is what stands behind `$ ` in a ```console block
`subak check`   a span is a command when its first word is a program that readers have
<!-- not run: why -->   behind a span, or above a block: tests don't run it, for this reason
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

PROGRAMS: Final = r"subak|curl|promtool|\./dev\.py|pip|python3|kill|for|export|sh|nginx|docker|systemctl|npm|openssl"
_TOKEN: Final = re.compile(
    r"<!-- not run: (?P<why>.+?) -->|^## (?P<section>[^\n]+)$"
    r"|^```(?P<kind>\w*)\n(?P<block>.*?)^```|`(?P<span>[^`\n]+)`",
    re.DOTALL | re.MULTILINE,
)
_COMMAND: Final = re.compile(rf"(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?(?:{PROGRAMS}) \S")
_GIVES: Final = re.compile(r" (?:gives|has) `([^`\n]+)`")
_SHELLS: Final = frozenset({"sh", "bash", "shell"})
_MARK: Final = re.compile(r" <!-- not run: (.+?) -->")


class Command(NamedTuple):
    """A command as it stands on a page. `not_run`: the reason, empty for one that is run; `gives`: what it prints."""

    line: str
    section: str
    not_run: str = ""
    gives: str = ""


class MarksNothing(Exception):
    """A mark stands neither behind a command nor above a block of them."""


def commands_of(page: Path) -> list[Command]:
    """Give the commands of a page in their order. Raises: MarksNothing."""
    return list(commands_in(page.read_text(encoding="utf-8")))


def commands_in(text: str) -> Iterator[Command]:
    """Give the commands of a page's text. Raises: MarksNothing."""
    section = why = ""
    marks = text.count("<!-- not run: ")
    for token in _TOKEN.finditer(text):
        behind = text[token.end() :]
        if token["section"]:
            section = token["section"]
        elif token["why"]:
            why = token["why"] if behind.startswith("\n```") else ""
        elif token["block"] is not None:
            lines = list(_lines_of(token["kind"], token["block"]))
            marks -= bool(why and lines)
            yield from (Command(line, section, why) for line in lines)
            why = ""
        elif _COMMAND.match(token["span"]):
            mark, gives = _MARK.match(behind), _GIVES.match(behind)
            marks -= mark is not None
            yield Command(token["span"], section, mark[1] if mark else "", gives[1] if gives else "")
    if marks:
        raise MarksNothing(f"{marks} marks of what isn't run mark nothing")


def _lines_of(kind: str, block: str) -> Iterator[str]:
    for line in block.splitlines():
        if kind in _SHELLS and line.strip():
            yield re.sub(r"\s+# .*$", "", line)
        elif kind == "console" and line.startswith("$ "):
            yield line.removeprefix("$ ")
