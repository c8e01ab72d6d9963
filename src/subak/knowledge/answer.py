"""Extractive answers: sentences of the library, picked and cited. No model, nothing invented.

The same question, with the same history, over the same library gives the same pieces. When nothing fits, the answer
says so and names what the library covers. The words are the library's own, so the language is too.
"""

import re
from collections.abc import AsyncGenerator, Sequence
from typing import Final, Protocol

import msgspec

from subak.core.question import Question
from subak.knowledge.dialect import Piece, PieceMaker, Source
from subak.knowledge.documents import SENTENCE_END
from subak.knowledge.index import Found, Holdings, Index, Passage, Query, title_head
from subak.knowledge.words import fold, terms_of

DEFAULT_MAX_PASSAGES: Final = 4

_ENOUGH_COVERAGE: Final = 0.5
"""A passage that holds half of the question's weight answers it."""
_SOME_COVERAGE: Final = 0.3
"""A third will do for a passage whose heading names two of the question's words."""
_WORDS_IN_HEADING: Final = 2
_ALSO_RANK: Final = 0.7
"""A further passage is quoted too when it ranks at least this high: the best one is at 1."""
_WHOLE_CHARS: Final = 750
_MAIN_UNITS: Final = 4
_FURTHER_UNITS: Final = 2
_SNIPPET_CHARS: Final = 240
_TITLES_NAMED: Final = 40
_FEW_TERMS: Final = 2
_POINTS_BACK: Final = re.compile(
    r"\b(?:it|its|that|this|these|those|them|they|one|same|there|quello|quella|questo|questa|esso|essa|itu|ini|tersebut|\w+nya)\b"
)
_TOKEN: Final = re.compile(r"\s*\S+\s*")


class Answerer(Protocol):
    """What can answer a question in pieces: by extracts (here) or by a language model (`llm.py`)."""

    @property
    def model(self) -> str:
        """Name what writes the answers, for `model_used`."""

    def answer(self, question: Question) -> AsyncGenerator[Sequence[Piece], None]:
        """Give the answer in batches of pieces; the last one is `done`.

        Raises:
            UpstreamError: while iterating: it can't answer, or broke off.
        """


class Answer(msgspec.Struct, frozen=True):
    """A whole answer."""

    text: str
    sources: tuple[Source, ...]


class ExtractiveAnswerer:
    """Answers from an index, without a model."""

    def __init__(self, index: Index, max_passages: int = DEFAULT_MAX_PASSAGES) -> None:
        self._index = index
        self._max_passages = max_passages

    @property
    def model(self) -> str:
        """Name what writes the answers."""
        return "subak-extracts"

    async def answer(self, question: Question) -> AsyncGenerator[Sequence[Piece], None]:
        """Give the answer, word by word, in one batch."""
        found = await self._index.search_aside(asked_for(question), self._max_passages)
        yield pieces_of(compose(found, self._index.holdings))


def asked_for(question: Question) -> str:
    """Give the words to search for. A follow-up that names nothing of its own goes with the last question before it."""
    own = terms_of(question.query)
    if len(own) > _FEW_TERMS:
        return question.query
    before = next(
        (
            turn.content
            for turn in reversed(question.conversation_history or ())
            if turn.role == "user" and terms_of(turn.content)
        ),
        "",
    )
    if not own:
        return before
    return f"{question.query} {before}" if _POINTS_BACK.search(fold(question.query)) else question.query


def is_answered(found: Found) -> bool:
    """Tell whether the best passage has enough of the question to be an answer."""
    if not found.passages:
        return False
    best = found.passages[0]
    if best.coverage >= _ENOUGH_COVERAGE:
        return True
    in_heading = found.query.matched(f"{best.title}\n{best.section}")
    return best.coverage >= _SOME_COVERAGE and len(in_heading) >= _WORDS_IN_HEADING


def compose(found: Found, holdings: Holdings) -> Answer:
    """Write the answer to what was found."""
    if not found.query.terms:
        return Answer(
            f"This is a machine that answers by quoting a library. {_coverage(holdings)} What would you like to know?",
            (),
        )
    if not is_answered(found):
        return Answer(f"The library has no answer to this. {_coverage(holdings)}", ())
    paragraphs: list[str] = []
    quoted: list[Passage] = []
    seen: set[str] = set()
    for passage in found.passages:
        if passage.rank < _ALSO_RANK:
            break
        units = _FURTHER_UNITS if quoted else _MAIN_UNITS
        quote = _quote(passage, found.query, units, seen)
        if quote:
            quoted.append(passage)
            paragraphs.append(f"{quote} [{len(quoted)}]")
    paragraphs.append(_closing(quoted))
    return Answer("\n\n".join(filter(None, paragraphs)), sources_of(quoted))


def sources_of(passages: Sequence[Passage]) -> tuple[Source, ...]:
    """Give the sources in the order of their citations: [1] is the first."""
    return tuple(
        Source(
            source=_name(passage),
            snippet=_snippet(passage.text),
            similarity=passage.score,
            date_last_crawled=passage.date or None,
        )
        for passage in passages
    )


def _name(passage: Passage) -> str:
    section = f": {passage.section}" if passage.section not in {"", passage.title} else ""
    return f"{passage.title}{section} ({passage.source})"


def pieces_of(answer: Answer) -> list[Piece]:
    """Cut an answer into pieces: each word with the space after it is a token; joined they are the text."""
    maker = PieceMaker()
    pieces = [maker.token(word) for word in _TOKEN.findall(answer.text)]
    if answer.sources:
        pieces.append(maker.sources(answer.sources))
    pieces.append(maker.done())
    return pieces


def _coverage(holdings: Holdings) -> str:
    named = "; ".join(map(title_head, holdings.titles[:_TITLES_NAMED]))
    more = len(holdings.titles) - _TITLES_NAMED
    return f"It covers: {named}{f'; and {more} more' if more > 0 else ''}."


def _quote(passage: Passage, query: Query, most_units: int, seen: set[str]) -> str:
    """Give what of a passage bears on the question, in its order; nothing that was quoted before."""
    units = [unit for unit in _units(passage.text) if unit not in seen]
    if most_units < _MAIN_UNITS:
        units = _best([unit for unit in units if not unit.startswith("- ")], query, most_units)
    elif len(passage.text) > _WHOLE_CHARS:
        units = _best(units, query, most_units)
    seen.update(units)
    return _joined(units)


def _units(text: str) -> list[str]:
    """Cut a passage into sentences and lists; a list stays whole, and so does a sentence that announces it."""
    units: list[str] = []
    for block in text.split("\n\n"):
        if not block.startswith("- "):
            units += SENTENCE_END.split(block)
        elif units and units[-1].endswith(":"):
            units[-1] = f"{units[-1]}\n{block}"
        else:
            units.append(block)
    return units


def _best(units: list[str], query: Query, most: int) -> list[str]:
    def worth(place: int) -> tuple[float, int]:
        leads = 0.25 if place == 0 else 0.0
        return (query.share(query.matched(units[place])) + leads, -place)

    chosen = sorted(sorted(range(len(units)), key=worth, reverse=True)[:most])
    return [units[place] for place in chosen]


def _joined(units: list[str]) -> str:
    text = ""
    for unit in units:
        if not text:
            text = unit
        elif "\n- " in unit or unit.startswith("- ") or text.rpartition("\n")[2].startswith("- "):
            text += f"\n\n{unit}"
        else:
            text += f" {unit}"
    return text


def _closing(passages: Sequence[Passage]) -> str:
    """Say how old the quoted pages are, where the official source is, and what else they want said."""
    dates = sorted({passage.date for passage in passages if passage.date})
    official = list(dict.fromkeys(passage.official[0] for passage in passages if passage.official))
    notes = dict.fromkeys(passage.note for passage in passages if passage.note)
    sentences = []
    if dates:
        sentences.append(f"As of {dates[0]}." if len(dates) == 1 else f"As of {dates[0]} to {dates[-1]}.")
    sentences += notes
    if official:
        sentences.append(f"Official source{'s' if len(official) > 1 else ''} to check: {', '.join(official)}")
    return " ".join(sentences)


def _snippet(text: str) -> str:
    """Give the beginning of a passage on one line, cut between words."""
    line = " ".join(text.split())
    if len(line) <= _SNIPPET_CHARS:
        return line
    return f"{line[:_SNIPPET_CHARS].rpartition(' ')[0] or line[:_SNIPPET_CHARS]} …"
