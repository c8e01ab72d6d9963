"""HTML in which nothing becomes markup by accident: whatever wasn't made here is text, and is escaped."""

from collections.abc import Iterable
from html import escape
from typing import Final

_VOID: Final = frozenset({"br", "img", "input"})
"""Elements without an end tag."""


class Markup(str):
    """Text that is HTML already. Only this module makes it of other text."""

    __slots__ = ()


def element(name: str, /, *content: str, **attributes: str | bool | None) -> Markup:
    """Give an element. Attributes are named as in HTML, `class_` and `for_` with an underscore behind, others' for `-`.

    True is an attribute without a value, None and False leave it away.
    """
    given = "".join([_attribute(key, value) for key, value in attributes.items()]) if attributes else ""
    head = f"<{name}{given}>"
    return Markup(head if name in _VOID else f"{head}{joined(content)}</{name}>")


def joined(parts: Iterable[str]) -> Markup:
    """Give parts one after the other."""
    return Markup("".join([part if isinstance(part, Markup) else escape(part) for part in parts]))


def _attribute(name: str, value: str | bool | None) -> str:  # noqa: FBT001 - an attribute's value
    if value is None or value is False:
        return ""
    spelt = name.rstrip("_").replace("_", "-")
    return f" {spelt}" if value is True else f' {spelt}="{escape(value)}"'
