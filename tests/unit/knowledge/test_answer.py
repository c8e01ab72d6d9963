"""Extractive answers, and what the bundled library is able to say."""

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from subak.core.events import DONE, SOURCES, TOKEN
from subak.core.question import Question, Turn
from subak.knowledge.answer import Answer, ExtractiveAnswerer, asked_for, compose, is_answered, pieces_of
from subak.knowledge.dialect import Piece, Source
from subak.knowledge.documents import SENTENCE_END
from subak.knowledge.index import BUNDLED_LIBRARY, Index
from tests.unit.knowledge.conftest import Indexed


def ask(index: Index, query: str, *before: Turn) -> Answer:
    found = index.search(asked_for(Question(query, conversation_history=before)), 4)
    return compose(found, index.holdings)


async def pieces(index: Index, query: str) -> list[Piece]:
    return [piece async for batch in ExtractiveAnswerer(index).answer(Question(query)) for piece in batch]


def user(content: str) -> Turn:
    return Turn("user", content)


def assistant(content: str) -> Turn:
    return Turn("assistant", content)


def test_what_a_kitas_is_gets_a_definition_with_its_source(library: Index) -> None:
    answer = ask(library, "What is a KITAS?")
    assert answer.text.startswith("A KITAS is the card that shows a limited stay permit")
    assert "[1]" in answer.text
    assert answer.sources[0].source == "KITAS, the limited stay permit: What it is (kitas.md)"
    assert "https://www.imigrasi.go.id" in answer.text
    assert "not advice" in answer.text


def test_the_documents_for_a_b211a_visa_come_as_a_sourced_list_with_what_replaced_it(library: Index) -> None:
    answer = ask(library, "What documents do I need for B211A visa?")
    assert "B211A is no longer issued" in answer.text
    assert "C1 (tourism)" in answer.text
    assert "\n- a passport valid for at least six months" in answer.text
    assert "(b211a.md)" in answer.sources[0].source
    assert "https://evisa.imigrasi.go.id" in answer.text


@pytest.mark.parametrize(
    ("query", "source", "words"),
    [
        ("kitas", "kitas.md", "limited stay permit"),
        ("How do I get a KITAP?", "kitap.md", "conversion"),
        ("how long can I stay on a visa on arrival?", "visa-on-arrival.md", "30 days"),
        ("How do I extend my e-VOA?", "visa-on-arrival.md", "fingerprints"),
        ("What replaced B211A?", "b211a.md", "C class"),
        ("minimum investment of a PT PMA", "pt-pma.md", "IDR 10 billion"),
        ("PT PMA paid-up capital", "pt-pma.md", "IDR 2.5 billion"),
        ("What is a KBLI code?", "kbli.md", "five-digit code"),
        ("what is an NIB", "oss-nib.md", "13 digits"),
        ("NPWP for foreigners", "npwp.md", "16 digits"),
        ("Am I a tax resident after 183 days?", "tax-residency.md", "183 days"),
        ("How much is VAT?", "taxes.md", "11 %"),
        ("can a foreigner buy a house in Bali", "property.md", "Hak Milik"),
        ("how much is the tourist levy in Bali", "bali-tourist-levy.md", "IDR 150,000"),
        ("What happens if I overstay?", "overstaying.md", "IDR 1,000,000"),
        ("how do I report my address", "address-reporting.md", "APOA"),
        ("digital nomad visa", "remote-worker-e33g.md", "E33G"),
        ("golden visa", "golden-visa.md", "USD 350,000"),
        ("investor KITAS minimum shares", "investor-kitas-e28a.md", "IDR 10 billion"),
        ("can I drive a scooter with my licence", "driving.md", "international driving permit"),
        ("BPJS for my employees", "bpjs.md", "BPJS Kesehatan"),
        ("Che documenti servono per il visto B211A?", "b211a.md", "a passport"),
        ("Quali tasse paga un'azienda?", "taxes.md", "22 %"),
        ("Apa itu KITAS?", "kitas.md", "limited stay permit"),
        ("Berapa denda overstay per hari?", "overstaying.md", "IDR 1,000,000"),
        ("What is Subak?", "subak-what-it-is.md", "gateway"),
        ("How do I resume a stream?", "subak-resuming.md", "Last-Event-ID"),
        ("ENABLE_SSE_STREAMING", "subak-feature-flag.md", "off by default"),
    ],
)
def test_the_bundled_library_answers(library: Index, query: str, source: str, words: str) -> None:
    answer = ask(library, query)
    assert f"({source})" in answer.sources[0].source
    assert words in answer.text


@pytest.mark.parametrize(
    "query",
    [
        "What is the capital of France?",
        "Who won the world cup in 2022?",
        "How do I bake bread?",
        "What is the weather in Bali today?",
        "quantum physics of black holes",
        "xyzzy",
    ],
)
def test_what_the_library_does_not_hold_gets_a_plain_no_and_what_it_covers(library: Index, query: str) -> None:
    answer = ask(library, query)
    assert answer.text.startswith("The library has no answer to this. It covers: ")
    assert "KITAS" in answer.text
    assert answer.sources == ()


@pytest.mark.parametrize("query", ["Hello!", "grazie", "What is it?", "  ?! "])
def test_small_talk_is_told_what_answers_here(library: Index, query: str) -> None:
    answer = ask(library, query)
    assert answer.text.startswith("This is a machine that answers by quoting a library.")
    assert answer.sources == ()


def test_every_quoted_sentence_stands_in_the_library(library: Index) -> None:
    everything = " ".join(path.read_text() for path in sorted(BUNDLED_LIBRARY.glob("*.md")))
    everything = " ".join(re.sub(r"(?<!\w)[*`]|[*`](?!\w)", "", everything).split())
    for query in ("What is a KITAS?", "minimum capital for PT PMA", "visa on arrival", "work permit", "tax"):
        for paragraph in ask(library, query).text.split("\n\n")[:-1]:
            for line in re.sub(r" \[\d+\]$", "", paragraph).split("\n"):
                for sentence in SENTENCE_END.split(line):
                    assert " ".join(sentence.split()) in everything


def test_each_citation_has_its_source_and_each_source_its_citation(library: Index) -> None:
    for query in ("visa", "tax", "PT PMA capital", "KITAS", "property"):
        answer = ask(library, query)
        assert re.findall(r"\[(\d+)\]", answer.text) == [str(number + 1) for number in range(len(answer.sources))]


def test_a_follow_up_without_words_of_its_own_is_about_the_last_question(library: Index) -> None:
    before = (user("How much is the tourist levy?"), assistant("IDR 150,000."))
    assert "(bali-tourist-levy.md)" in ask(library, "Tell me more?", *before).sources[0].source


def test_a_follow_up_that_points_back_is_read_with_the_last_question(library: Index) -> None:
    before = (user("What is the second home visa?"), assistant("…"), user("ok, thanks"))
    assert "(second-home-visa.md)" in ask(library, "And what deposit does it want?", *before).sources[0].source


def test_a_question_of_its_own_is_not_mixed_with_earlier_ones(library: Index) -> None:
    before = (user("What is a KITAS?"), assistant("…"))
    assert ask(library, "How much is VAT?", *before) == ask(library, "How much is VAT?")


def test_what_the_assistant_said_is_no_question(library: Index) -> None:
    assert ask(library, "And then?", assistant("KITAS KITAS KITAS")).sources == ()


async def test_the_same_question_gives_the_same_pieces(library: Index, indexed: Indexed) -> None:
    again = indexed(BUNDLED_LIBRARY)
    assert await pieces(library, "What is a KITAS?") == await pieces(again, "What is a KITAS?")


async def test_tokens_are_words_with_the_space_after_them_and_join_to_the_text(library: Index) -> None:
    query = "What documents do I need for B211A visa?"
    tokens = [
        msgspec.json.decode(piece.data, type=str) for piece in await pieces(library, query) if piece.type == TOKEN
    ]
    assert tokens[:3] == ["B211A ", "is ", "no "]
    assert all(re.fullmatch(r"\S+\s+", token) for token in tokens[:-1])
    assert "".join(tokens) == ask(library, query).text


@pytest.mark.parametrize("text", [" leading", "trailing \n", "", "one", "a  b\n\n- c\u2028d", "\u00a0x"])
def test_any_text_survives_the_cut_into_tokens(text: str) -> None:
    parts = [msgspec.json.decode(piece.data, type=str) for piece in pieces_of(Answer(text, ())) if piece.type == TOKEN]
    assert "".join(parts) == text


async def test_an_answer_is_tokens_then_sources_then_done(library: Index) -> None:
    kinds = [piece.type for piece in await pieces(library, "What is a KITAS?")]
    assert kinds == [TOKEN] * (len(kinds) - 2) + [SOURCES, DONE]


async def test_an_answer_without_sources_has_no_sources_piece(library: Index) -> None:
    assert SOURCES not in [piece.type for piece in await pieces(library, "xyzzy")]


def test_sources_have_the_members_of_the_contract(library: Index) -> None:
    (source,) = msgspec.json.decode(msgspec.json.encode(ask(library, "What is a KITAS?").sources))
    assert list(source) == ["source", "snippet", "similarity", "dateLastCrawled"]
    assert 0 < source["similarity"] < 1
    assert len(source["snippet"]) <= 243
    assert source["snippet"].endswith(" …")


def test_a_source_without_a_date_leaves_the_member_out(indexed: Indexed, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Rice is watered in turns.")
    answer = ask(indexed(tmp_path), "How is rice watered?")
    assert answer.text == "Rice is watered in turns. [1]"
    assert answer.sources == (Source("a (a.txt)", "Rice is watered in turns.", answer.sources[0].similarity),)
    assert b"dateLastCrawled" not in msgspec.json.encode(answer.sources)


def test_of_a_long_passage_the_sentences_that_fit_are_picked_in_their_order(indexed: Indexed, tmp_path: Path) -> None:
    filler = " ".join(f"Filler sentence number {number} says nothing." for number in range(20))
    (tmp_path / "a.txt").write_text(f"Opening words. {filler} Zebras eat grass. {filler[:200]} Zebras sleep standing.")
    text = ask(indexed(tmp_path), "zebras").text
    assert text.index("Zebras eat grass.") < text.index("Zebras sleep standing.")
    assert text.count("Filler") <= 2


def test_is_answered_wants_half_of_the_question_or_a_heading_that_names_it(library: Index) -> None:
    assert is_answered(library.search("KITAS", 4))
    assert not is_answered(library.search("capital of France", 4))
    assert not is_answered(library.search("", 4))


def library_pages() -> Sequence[Path]:
    return sorted(BUNDLED_LIBRARY.glob("*.md"))


@pytest.mark.parametrize("path", library_pages(), ids=lambda path: path.name)
def test_every_page_of_the_library_is_dated_and_names_its_official_source(path: Path) -> None:
    front = path.read_text().split("---\n")[1]
    assert re.search(r"^title: \S", front, re.MULTILINE)
    assert re.search(r"^date: 2026-\d\d-\d\d$", front, re.MULTILINE)
    if not path.name.startswith("subak-"):
        assert re.search(r"^official: https://\S+", front, re.MULTILINE)
        assert "not advice" in front


def test_the_library_covers_what_people_ask_about() -> None:
    pages = {path.stem for path in library_pages()}
    assert pages >= {"kitas", "kitap", "pt-pma", "kbli", "npwp", "visa-on-arrival", "b211a", "subak-what-it-is"}
    assert len(pages) >= 24


def test_of_many_documents_some_are_named_and_the_others_counted(indexed: Indexed, tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"page-{number:02}.txt").write_text("Rice.")
    text = ask(indexed(tmp_path), "xyzzy").text
    assert text.endswith("; page 39; and 10 more.")
