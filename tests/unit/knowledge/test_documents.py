"""From files to passages."""

import os
from pathlib import Path

import pytest

from subak.knowledge.documents import MAX_PASSAGE_CHARS, Document, Unreadable, read_document

LARGE = 1024 * 1024


def read(folder: Path, name: str, content: str | bytes, max_bytes: int = LARGE) -> Document:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_document(path, name, max_bytes)


def texts(document: Document) -> list[str]:
    return [excerpt.text for excerpt in document.excerpts]


def test_markdown_is_split_by_heading(tmp_path: Path) -> None:
    document = read(tmp_path, "a.md", "# One\n\nFirst.\n\n## Two\n\nSecond\nline.\n")
    assert document.title == "One"
    assert [(excerpt.section, excerpt.text) for excerpt in document.excerpts] == [
        ("One", "First."),
        ("Two", "Second line."),
    ]


def test_front_matter_gives_title_date_sources_and_note(tmp_path: Path) -> None:
    front = (
        '---\ntitle: "A title"\ndate: 2026-11-20\n'
        "official: https://a.example/x, https://b.example\nnote: Check.\nx: y\n---\n"
    )
    document = read(tmp_path, "a.md", f"{front}# Heading\n\nText.\n")
    assert (document.title, document.date, document.note) == ("A title", "2026-11-20", "Check.")
    assert document.official == ("https://a.example/x", "https://b.example")
    assert texts(document) == ["Text."]


def test_a_rule_at_the_top_is_no_front_matter_without_its_end(tmp_path: Path) -> None:
    assert texts(read(tmp_path, "a.md", "---\n\nText.\n")) == ["Text."]


def test_a_list_stays_with_the_sentence_that_announces_it(tmp_path: Path) -> None:
    document = read(tmp_path, "a.md", "You need:\n\n- a passport\n  that is valid\n- a photograph\n1. a form\n")
    assert texts(document) == ["You need:\n\n- a passport that is valid\n- a photograph\n- a form"]


def test_a_list_right_after_its_sentence_is_a_list_too(tmp_path: Path) -> None:
    assert texts(read(tmp_path, "a.md", "You need:\n- a passport\n")) == ["You need:\n\n- a passport"]


def test_marks_of_markdown_are_taken_away(tmp_path: Path) -> None:
    document = read(
        tmp_path, "a.md", "A **bold** _word_, `snake_case`, [a link](https://x.example 'y') and ![art](i.png).\n"
    )
    assert texts(document) == ["A bold word, snake_case, [a link](https://x.example 'y') and art."]


def test_a_link_keeps_its_words(tmp_path: Path) -> None:
    assert texts(read(tmp_path, "a.md", 'See [the page](https://x.example/a_b "title").\n')) == ["See the page."]


def test_underlined_headings_tables_code_and_comments_are_understood(tmp_path: Path) -> None:
    text = "Title\n=====\n\n<!-- hidden\n-->\n\n| a | b |\n|---|---|\n| c | d |\n\n```\ncode here\n```\n\n> quoted\n"
    document = read(tmp_path, "a.md", text)
    assert document.title == "Title"
    assert texts(document) == ["a, b.\n\nc, d.\n\ncode here\n\nquoted"]


def test_html_gives_text_without_scripts_styles_and_menus(tmp_path: Path) -> None:
    page = (
        "<html><head><title>The &amp; title</title><meta name='date' content='2026-01-02'>"
        "<link rel=canonical href='https://x.example/p'><style>p{}</style></head><body><nav><a>Menu</a></nav>"
        "<h1>Head</h1><p>One <b>bold</b> word.<script>alert('no')</script></p><h2>List</h2>"
        "<ul><li><p>first</p></li><li>second</li></ul></body></html>"
    )
    document = read(tmp_path, "a.html", page)
    assert (document.title, document.date, document.official) == ("The & title", "2026-01-02", ("https://x.example/p",))
    assert [(excerpt.section, excerpt.text) for excerpt in document.excerpts] == [
        ("Head", "One bold word."),
        ("List", "- first\n- second"),
    ]


def test_broken_html_still_gives_its_text(tmp_path: Path) -> None:
    assert texts(read(tmp_path, "a.htm", "<p>One<div><li>two</p></ul></b>three &bogus; <")) == [
        "One\n\n- two\n\nthree &bogus; <"
    ]


def test_plain_text_is_split_by_empty_lines_and_named_by_its_file(tmp_path: Path) -> None:
    document = read(tmp_path, "house-rules.txt", "One\r\nline.\r\n\r\nTwo.\n\n- a\n- b\n")
    assert document.title == "house rules"
    assert texts(document) == ["One line.\n\nTwo.\n\n- a\n- b"]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    assert read(tmp_path, "a.md", b"\xef\xbb\xbf# Title\n\nText.\n").title == "Title"


@pytest.mark.parametrize("text", ["word " * 5000, "x" * 20_000, "A sentence of words. " * 1000])
def test_a_long_paragraph_is_cut_into_bounded_passages_that_lose_nothing(tmp_path: Path, text: str) -> None:
    document = read(tmp_path, "a.txt", text)
    assert len(document.excerpts) > 1
    assert all(len(passage) <= MAX_PASSAGE_CHARS for passage in texts(document))
    assert "".join("".join(texts(document)).split()) == "".join(text.split())


def test_a_long_list_is_cut_into_bounded_passages(tmp_path: Path) -> None:
    document = read(tmp_path, "a.md", "\n".join(f"- item {number} " + "y" * 50 for number in range(100)))
    assert all(len(passage) <= MAX_PASSAGE_CHARS for passage in texts(document))
    assert sum(passage.count("item") for passage in texts(document)) == 100


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x7fELF\0\0\0", "binary"),
        (b"caf\xe9", "not UTF-8"),
        (b"", "holds no text"),
        (b"---\ntitle: x\n---\n", "holds no text"),
        (b"x" * 200, "larger than 100 bytes"),
    ],
)
def test_what_is_no_document_is_refused_with_a_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(Unreadable) as caught:
        read(tmp_path, "a.md", content, max_bytes=100)
    assert caught.value.reason == reason


def test_a_file_of_exactly_the_bound_is_read(tmp_path: Path) -> None:
    assert texts(read(tmp_path, "a.md", "x" * 100, max_bytes=100)) == ["x" * 100]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("x")
    (tmp_path / "a.md").chmod(0)
    with pytest.raises(Unreadable, match="can't be opened"):
        read_document(tmp_path / "a.md", "a.md", LARGE)


def test_a_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="can't be opened"):
        read_document(tmp_path / "gone.md", "gone.md", LARGE)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("unit", ["<!--", "[", "[a](", "# ", "- ", "|-", "**", "---\n", "![](", "a\n=\n"])
def test_hostile_repetition_is_read_in_reasonable_time(tmp_path: Path, unit: str) -> None:
    read(tmp_path, "a.md", f"x {unit * 50_000} x\n\nend.")
