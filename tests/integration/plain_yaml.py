"""Reads the plain YAML of deploy/: mappings and lists in block style, and scalars on one line. All else is an error.

No anchors, tags, flow style, block scalars or comments behind values: what is refused here would surprise a reader too.
"""

import re
from collections import deque
from typing import Final, NamedTuple, TypeAlias

Yaml: TypeAlias = "str | int | bool | list[Yaml] | dict[str, Yaml] | None"

_KEY: Final = re.compile(r"([A-Za-z_][\w.-]*):(?: (.*))?")
_QUOTED: Final = re.compile(r'"([^"\\]*)"')
_UNSAFE: Final = re.compile(
    r"""[&*!|>%@`\[\]{}"'?,]|- |.* #|.*: |.*:$|(?:yes|no|on|off|null|~|[0-9.]+e[0-9]+|0[0-9]+)$""", re.IGNORECASE
)
"""What YAML takes for something else than the text that it looks like, or two versions of it for two things."""


class _Line(NamedTuple):
    number: int
    indent: int
    text: str


def parse(text: str) -> Yaml:
    """Give what a document says.

    Raises:
        ValueError: it isn't plain; the message has the line's number.
    """
    lines = deque(
        _Line(number, len(line) - len(line.lstrip(" ")), line.strip(" "))
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.lstrip().startswith("#")
    )
    found = _block(lines)
    _refuse(lines)
    return found


def _block(lines: deque[_Line]) -> Yaml:
    indent = lines[0].indent
    return _list(lines, indent) if lines[0].text.startswith("- ") else _mapping(lines, indent)


def _mapping(lines: deque[_Line], indent: int) -> dict[str, Yaml]:
    found: dict[str, Yaml] = {}
    while lines and lines[0].indent == indent and not lines[0].text.startswith("- "):
        matched = _KEY.fullmatch(lines[0].text)
        if matched is None or matched[1] in found:
            _refuse(lines)
            break
        line = lines.popleft()
        if matched[2]:
            found[matched[1]] = _scalar(line.number, matched[2])
        else:
            found[matched[1]] = _block(lines) if lines and lines[0].indent > indent else None
    return found


def _list(lines: deque[_Line], indent: int) -> list[Yaml]:
    found: list[Yaml] = []
    while lines and lines[0].indent == indent and lines[0].text.startswith("- "):
        number, _, text = lines.popleft()
        item = text.removeprefix("- ")
        if _KEY.fullmatch(item):
            lines.appendleft(_Line(number, indent + 2, item))
            found.append(_mapping(lines, indent + 2))
        else:
            found.append(_scalar(number, item))
    return found


def _scalar(number: int, text: str) -> str | int | bool:
    if quoted := _QUOTED.fullmatch(text):
        return quoted[1]
    if _UNSAFE.match(text):
        raise ValueError(f"line {number}: quote {text!r}, or write it in block style")
    if text in ("true", "false"):
        return text == "true"
    return int(text) if text.isdecimal() else text


def _refuse(lines: deque[_Line]) -> None:
    if lines:
        raise ValueError(f"line {lines[0].number}: {lines[0].text!r} doesn't belong there")
