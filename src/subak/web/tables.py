"""Rows of HTML tables."""

from collections.abc import Iterable, Sequence

from subak.web.markup import Markup, element, joined


def rows(lines: Iterable[Sequence[str]], otherwise: str) -> Markup:
    """Give a table's rows: the first cell of each names it. Without any, a row that says so."""
    made = [element("tr", element("th", line[0], scope="row"), *map(_cell, line[1:])) for line in lines]
    return joined(made) if made else element("tr", element("td", otherwise, colspan="12", class_="none"))


def _cell(content: str) -> Markup:
    return content if isinstance(content, Markup) and content.startswith("<td") else element("td", content)


def figure(text: str, mood: str | None = None) -> Markup:
    """Give a cell for a number; `mood` is good, middling or bad."""
    return element("td", text, class_=f"figure {mood}" if mood else "figure")


def figures(*texts: str) -> list[Markup]:
    """Give cells for numbers."""
    return [figure(text) for text in texts]


def mood_of(value: float | None, limit: float) -> str | None:
    """Give what a figure is that shouldn't exceed a limit."""
    if value is None:
        return None
    return "bad" if value > limit else "good"
