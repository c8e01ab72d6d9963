"""From a question to its words."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subak.knowledge.words import MAX_QUESTION_CHARS, MAX_TERMS, fold, pattern_of, terms_of


def asked(question: str) -> list[str]:
    return [term.forms[0] for term in terms_of(question)]


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("What is a KITAS?", ["kitas"]),
        ("Che cos'è il KITAS?", ["kitas"]),
        ("Apa itu KITAS?", ["kitas"]),
        ("What documents do I need for B211A visa?", ["documents", "b211a", "visa"]),
        ("Hello! Good morning, thanks", []),
        ("Ciao, grazie", []),
        ("Terima kasih", []),
        ("", []),
    ],
)
def test_stop_words_of_three_languages_are_dropped(question: str, words: list[str]) -> None:
    assert asked(question) == words


def test_case_accents_and_underscores_make_no_difference() -> None:
    assert fold("Perché KITAS_x") == "perche kitas x"


def test_a_code_written_with_a_hyphen_is_the_code() -> None:
    assert asked("b-211a") == ["b211a"]


def test_a_word_said_twice_is_one_term() -> None:
    assert asked("visa Visa VISA") == ["visa"]


def test_words_that_mean_the_same_are_one_term() -> None:
    assert len(terms_of("cost price fee")) == 1
    assert "document" in terms_of("documenti")[0].forms


def test_a_long_question_gives_a_bounded_number_of_terms() -> None:
    assert len(terms_of(" ".join(f"word{number}" for number in range(1000)))) == MAX_TERMS


def test_what_comes_after_the_bound_of_a_question_is_not_read() -> None:
    assert asked("x" * 3 + " " * MAX_QUESTION_CHARS + "kitas") == ["xxx"]


@pytest.mark.parametrize(
    ("question", "text", "is_found"),
    [
        ("company", "several companies", True),
        ("companies", "a company", True),
        ("documents", "documentation", True),
        ("remotely", "remote work", True),
        ("tax", "taxes", True),
        ("tax", "a taxi", False),
        ("visa", "revisable", False),
        ("e33g", "E33F", False),
    ],
)
def test_the_pattern_finds_a_words_other_forms_and_no_other_word(question: str, text: str, *, is_found: bool) -> None:
    assert bool(pattern_of(terms_of(question)).search(fold(text))) is is_found


def test_the_pattern_says_which_term_it_found() -> None:
    pattern = pattern_of(terms_of("visa passport"))
    assert [match.lastindex for match in pattern.finditer("passports and visas")] == [2, 1]


def test_the_pattern_of_no_terms_finds_nothing() -> None:
    assert pattern_of(()).search("anything") is None


@given(st.text(st.characters(codec=None)))
def test_any_text_gives_plain_words_and_a_pattern(question: str) -> None:
    terms = terms_of(question)
    assert all(re.fullmatch(r"[^\W_]+", form) for term in terms for form in term.forms)
    pattern_of(terms).search(fold(question))
