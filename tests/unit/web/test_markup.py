"""Text stays text, whatever it holds; and figures are written as people read them."""

from datetime import UTC, datetime, timedelta, timezone
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subak.web.markup import Markup, element, joined
from subak.web.tables import figure, rows
from subak.web.wording import counted, duration, milliseconds, moment, number, percent, share, size


class Reader(HTMLParser):
    """What a browser would find."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


HOSTILE = st.text() | st.text("<>&\"'/!-=;a# ")


@given(HOSTILE, HOSTILE)
def test_text_and_attributes_hold_anything_and_remain_what_they_are(text: str, value: str) -> None:
    found = Reader(element("p", text, title=value))
    assert found.tags == [("p", {"title": value})]
    assert found.text == text


def test_a_browser_finds_no_element_in_a_cell() -> None:
    found = Reader(rows([["<script>a()</script>", '"><img src=x onerror=a()>', figure("</td><b>")]], "nothing"))
    assert [tag for tag, _ in found.tags] == ["tr", "th", "td", "td"]
    assert found.text == '<script>a()</script>"><img src=x onerror=a()></td><b>'


def test_only_markup_that_was_made_here_is_left_alone() -> None:
    assert joined([element("b", "x"), "<b>"]) == "<b>x</b>&lt;b&gt;"
    assert isinstance(joined([]), Markup)


def test_attributes_are_spelt_as_in_html() -> None:
    made = element("td", "x", class_="figure", aria_current=None, hidden=True, title=False)
    assert made == '<td class="figure" hidden>x</td>'


def test_a_table_without_rows_says_so() -> None:
    assert Reader(rows([], "Nothing <yet>.")).text == "Nothing <yet>."


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (number(None), "–"),
        (number(12345), "12 345"),
        (counted(1, "reader"), "1 reader"),
        (counted(1000, "reader"), "1 000 readers"),
        (milliseconds(4.21), "4.2 ms"),
        (milliseconds(61.9), "62 ms"),
        (milliseconds(12_140), "12.1 s"),
        (duration(0.04), "0.0 s"),
        (duration(119.9), "119.9 s"),
        (duration(120), "2 min"),
        (duration(12_600), "3.5 h"),
        (duration(432_000), "5 d"),
        (size(0), "0 B"),
        (size(999), "999 B"),
        (size(1_234_567), "1.2 MB"),
        (size(None), "–"),
        (share(0.0041), "0.4 %"),
        (percent(100), "100 %"),
        (percent(None), "–"),
    ],
)
def test_figures_are_short(shown: str, expected: str) -> None:
    assert shown.replace("\u202f", " ") == expected


def test_moments_are_in_utc() -> None:
    at = datetime(2026, 11, 23, 8, 30, tzinfo=timezone(timedelta(hours=8)))
    expected = '<time datetime="2026-11-23T00:30:00+00:00">2026-11-23 00:30:00</time>'
    assert moment(at) == moment(int(at.astimezone(UTC).timestamp() * 1000)) == expected
