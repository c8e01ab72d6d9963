"""Full-text search over a folder."""

import os
import time
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subak.knowledge.documents import Document, Excerpt
from subak.knowledge.index import BUNDLED_LIBRARY, INLINE_PASSAGES, Bounds, Index, LibraryError, build_index
from tests.unit.knowledge.conftest import Indexed

HOSTILE = [
    '"',
    '" OR "1"="1',
    "title:kitas",
    "kitas NEAR(visa, 2)",
    "kitas* AND NOT visa",
    "{title section}: visa",
    "^kitas",
    "kitas) OR (visa",
    "-visa +kitas",
    "'; DROP TABLE passages; --",
    "kitas\0visa",
    "\ud800 kitas",
    "*",
    "AND OR NOT NEAR",
    "𝕂𝕀𝕋𝔸𝕊 ＫＩＴＡＳ",
    "\u202ekitas\u2028visa",
]


def folder_of(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.md").write_text(text)
    return folder


@pytest.mark.parametrize("question", HOSTILE)
def test_a_question_never_becomes_search_syntax(library: Index, question: str) -> None:
    library.search(question, 4)
    assert library.holdings.passage_count > 0
    assert library.search("KITAS", 1).passages[0].source == "kitas.md"


@given(question=st.text(st.characters(codec=None), max_size=200))
def test_any_text_can_be_searched_for(library: Index, question: str) -> None:
    for passage in library.search(question, 4).passages:
        assert 0 < passage.score <= 1
        assert 0 < passage.coverage <= 1.0001


@pytest.mark.parametrize("question", ["B211A", "b211a", "What about b-211a?", "B211a VISA", "b211"])
def test_a_code_is_found_in_any_spelling(library: Index, question: str) -> None:
    assert library.search(question, 1).passages[0].source == "b211a.md"


def test_accents_make_no_difference(indexed: Indexed, tmp_path: Path) -> None:
    index = indexed(folder_of(tmp_path, a="# Città\n\nLa perequazione è già qui.\n", b="# Other\n\nNothing.\n"))
    assert index.search("CITTA perequazióne", 4).passages[0].source == "a.md"


def test_the_beginning_of_a_word_finds_it_when_the_word_itself_is_not_there(library: Index) -> None:
    found = library.search("immigr", 4)
    assert found.passages
    assert all("mmigr" in f"{passage.section} {passage.text}" for passage in found.passages)


def test_a_question_without_content_finds_nothing(library: Index) -> None:
    assert library.search("what is the", 4).passages == ()


def test_the_same_question_gives_the_same_passages(library: Index, indexed: Indexed) -> None:
    again = indexed(BUNDLED_LIBRARY)
    for question in ("What is a KITAS?", "tax", "visa permit company stay Indonesia"):
        assert library.search(question, 10).passages == again.search(question, 10).passages


def test_no_more_passages_come_than_asked_for_and_the_best_comes_first(library: Index) -> None:
    passages = library.search("visa", 3).passages
    assert len(passages) == 3
    assert [passage.rank for passage in passages] == sorted((passage.rank for passage in passages), reverse=True)
    assert passages[0].rank == 1.0


def test_equal_passages_come_in_the_order_of_their_files(indexed: Indexed, tmp_path: Path) -> None:
    index = indexed(folder_of(tmp_path, c="Rice fields.\n", a="Rice fields.\n", b="Rice fields.\n"))
    assert [passage.source for passage in index.search("rice", 3).passages] == ["a.md", "b.md", "c.md"]


def test_a_folder_with_one_passage_still_scores_sensibly(indexed: Indexed, tmp_path: Path) -> None:
    (passage,) = indexed(folder_of(tmp_path, a="Rice is watered in turns.\n")).search("rice", 4).passages
    assert passage.coverage == 1.0
    assert 0.5 <= passage.score <= 0.6


def test_a_word_that_is_nowhere_lowers_coverage(library: Index) -> None:
    alone = library.search("tourist levy", 1).passages[0]
    diluted = library.search("tourist levy zeppelin", 1).passages[0]
    assert alone.coverage > 0.99
    assert diluted.coverage < alone.coverage
    assert diluted.score < alone.score


def test_markdown_html_and_text_are_read_from_sub_folders_and_others_are_left_alone(
    indexed: Indexed, tmp_path: Path
) -> None:
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    (tmp_path / "sub" / "deep" / "one.HTML").write_text("<p>Rice.</p>")
    (tmp_path / "two.txt").write_text("Rice.")
    (tmp_path / "three.markdown").write_text("Rice.")
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\0")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "secret.md").write_text("Rice.")
    (tmp_path / ".secret.md").write_text("Rice.")
    index = indexed(tmp_path)
    assert {passage.source for passage in index.search("rice", 9).passages} == {
        "sub/deep/one.HTML",
        "three.markdown",
        "two.txt",
    }
    assert index.holdings.skipped_count == 0


def test_files_that_cannot_be_read_are_skipped_and_named(indexed: Indexed, tmp_path: Path) -> None:
    outside = tmp_path / "outside.md"
    outside.write_text("Not yours.")
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "good.md").write_text("Rice.")
    (folder / "binary.md").write_bytes(b"\0\1\2")
    (folder / "huge.md").write_text("x" * 300)
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    (folder / "link.md").symlink_to(outside)
    (folder / "loop.md").symlink_to(folder / "loop.md")
    os.mkfifo(folder / "pipe.md")
    index = indexed(folder, bounds=Bounds(max_file_bytes=200))
    assert index.holdings.titles == ("good",)
    assert {(skipped.path, skipped.reason) for skipped in index.holdings.skipped} == {
        ("binary.md", "binary"),
        ("huge.md", "larger than 200 bytes"),
        ("latin.txt", "not UTF-8"),
        ("link.md", "a link that leads out of the folder"),
        ("loop.md", "not a regular file"),
        ("pipe.md", "not a regular file"),
    }
    assert index.holdings.skipped_count == 6


def test_more_files_than_the_bound_are_skipped(indexed: Indexed, tmp_path: Path) -> None:
    folder_of(tmp_path, **{f"f{number}": "Rice." for number in range(5)})
    index = indexed(tmp_path, bounds=Bounds(max_files=3))
    assert index.holdings.titles == ("f0", "f1", "f2")
    assert index.holdings.skipped_count == 2


def test_more_bytes_than_the_bound_are_skipped(indexed: Indexed, tmp_path: Path) -> None:
    folder_of(tmp_path, a="x" * 60, b="y" * 60, c="z" * 60)
    index = indexed(tmp_path, bounds=Bounds(max_total_bytes=100))
    assert index.holdings.titles == ("a", "b")
    assert index.holdings.skipped[0].reason == "over 100 bytes in all"


def test_of_many_skipped_files_some_are_named_and_all_are_counted(indexed: Indexed, tmp_path: Path) -> None:
    folder_of(tmp_path, **{f"f{number:03}": "" for number in range(200)}, good="Rice.")
    holdings = indexed(tmp_path).holdings
    assert holdings.skipped_count == 200
    assert len(holdings.skipped) == 50


def test_a_folder_that_is_not_there_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match="no such folder"):
        build_index(tmp_path / "nowhere")


def test_a_folder_without_documents_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "empty.md").write_text("")
    with pytest.raises(LibraryError, match=r"nothing to answer from \(empty.md: holds no text\). Give a folder"):
        build_index(tmp_path)


async def test_a_large_library_is_searched_aside_with_the_same_result() -> None:
    excerpts = tuple(Excerpt("", f"Field {number} is watered.") for number in range(INLINE_PASSAGES + 1))
    with closing(Index([Document("a.md", "Fields", "", (), "", excerpts)], [], 0)) as index:
        assert (await index.search_aside("field 77", 4)).passages == index.search("field 77", 4).passages
        assert index.search("field 77", 1).passages[0].text == "Field 77 is watered."


def test_a_search_of_the_bundled_library_takes_less_than_three_milliseconds_of_cpu(library: Index) -> None:
    questions = [
        "What is a KITAS?",
        "What documents do I need for B211A visa?",
        "As a Dutch citizen living in Rotterdam, how do I extend my visa on arrival?",
        "foreigner company Indonesia permit visa stay investment tax property Bali",
    ]
    assert library.holdings.passage_count <= INLINE_PASSAGES

    def cpu_ms(question: str) -> float:
        start = time.thread_time()
        library.search(question, 4)
        return (time.thread_time() - start) * 1000

    for question in questions:
        assert min(cpu_ms(question) for _ in range(10)) < 10
