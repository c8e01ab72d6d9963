"""Full-text search over a folder of documents: SQLite FTS5 in memory, ranked by bm25.

The index is built once at start and never written again. Everything is bounded: files, bytes a file, bytes in all.
What can't be read is skipped and reported, never fatal, unless nothing is left.

A question never reaches FTS5's query language: it is taken apart into words (`words.py`), each of which goes in as a
quoted string, so there is no operator, column filter or syntax error to reach from outside.

**Score**, 0..1, is what `similarity` says in sources. It joins two things: *coverage*, the share of the question's
weight that the passage holds (each word weighs its inverse document frequency, ln(1 + (N - n + 0.5) / (n + 0.5)) over
N passages of which n hold it; a word that no passage holds weighs most), and the passage's bm25 value b by FTS5,
squashed to b / (b + 8): score = coverage x (0.5 + 0.5 x b / (b + 8)). Half rests on coverage alone because FTS5's
bm25 is next to zero for a word that stands in more than half of the passages, as it is bound to in a small folder.
"""

import asyncio
import math
import os
import re
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from subak.core.errors import SubakError
from subak.knowledge.documents import KNOWN_SUFFIXES, Document, Unreadable, read_document
from subak.knowledge.words import STOP_WORDS, Term, fold, pattern_of, terms_of

BUNDLED_LIBRARY: Final = Path(__file__).with_name("library")

INLINE_PASSAGES: Final = 500
"""Up to here a search runs on the event loop, above in a thread.

Measured 2026-11-23 (CPython 3.11.7, SQLite 3.40.1, 2-core machine), CPU time of one search over passages of 110
words, for a question of one word and for one of nine common words: 100 passages (the bundled library) 0.5 and 1.2 ms,
500 passages 0.5 and 2.3 ms, 3 000 passages 1.0 and 5.8 ms, 10 000 passages 2.6 and 18 ms.
"""

_CANDIDATES: Final = 16
"""What bm25 alone selects, before the passages are ranked by coverage too."""
_TITLE_WEIGHT: Final = 5.0
_SECTION_WEIGHT: Final = 4.0
_TEXT_WEIGHT: Final = 1.0
_BM25_HALF: Final = 8.0
_SHORTEST_PREFIX_CHARS: Final = 4
_MOST_SKIPPED_NAMED: Final = 50
_NEARLY_ALL: Final = 0.95
_TITLE_END: Final = re.compile(r"[,:;]")
_WORD: Final = re.compile(r"[^\W_]+")

_SCHEMA: Final = (
    "CREATE VIRTUAL TABLE passages USING fts5(title, section, text, tokenize = 'porter unicode61 remove_diacritics 2')"
)
_RANKED: Final = """
    SELECT rowid, -bm25(passages, ?, ?, ?) AS value FROM passages WHERE passages MATCH ?
    ORDER BY value DESC, rowid LIMIT ?
"""
_COUNT: Final = "SELECT count(*) FROM passages WHERE passages MATCH ?"


class LibraryError(SubakError):
    """The folder can't be answered from. The message names it and says what to do."""

    code = "library_unusable"


class Bounds(msgspec.Struct, frozen=True):
    """What a library may grow to. Beyond any of them files are skipped and reported.

    Memory is some four times the text: about 250 MB at the default of 64 MiB, measured with 36 MB of text.
    """

    max_files: int = 5_000
    max_file_bytes: int = 2 * 1024 * 1024
    max_total_bytes: int = 64 * 1024 * 1024


class Skipped(msgspec.Struct, frozen=True):
    """A file that was left out, and why, in a few words."""

    path: str
    reason: str


class Holdings(msgspec.Struct, frozen=True):
    """What a library holds. `skipped` names the first of the `skipped_count` files that were left out."""

    titles: tuple[str, ...]
    passage_count: int
    size_bytes: int
    skipped: tuple[Skipped, ...]
    skipped_count: int


class Passage(msgspec.Struct, frozen=True):
    """A run of text that may hold an answer. `source` is the document's path; `score` is in 0..1 (see the module).

    `rank` orders the passages of one search: 1.0 for the best.
    """

    source: str
    title: str
    section: str
    text: str
    score: float
    coverage: float
    rank: float
    date: str
    official: tuple[str, ...]
    note: str


class Query(msgspec.Struct, frozen=True):
    """A question, weighed. `pattern` finds its terms in folded text (see `words.pattern_of`), `weights` are theirs."""

    terms: tuple[Term, ...]
    weights: tuple[float, ...]
    pattern: re.Pattern[str]

    def matched(self, text: str) -> frozenset[int]:
        """Give the places of the terms that stand in this text, 0-based."""
        return frozenset(match.lastindex - 1 for match in self.pattern.finditer(fold(text)) if match.lastindex)

    def share(self, places: Iterable[int]) -> float:
        """Give what these terms weigh, as a share of the whole question: 0..1."""
        total = sum(self.weights)
        return sum(self.weights[place] for place in places) / total if total else 0.0


class Found(msgspec.Struct, frozen=True):
    """The outcome of a search, best passage first."""

    query: Query
    passages: tuple[Passage, ...]


class Index:
    """A library that can be searched. Made by `build_index`; searches from several threads wait for each other."""

    def __init__(self, documents: Sequence[Document], skipped: Sequence[Skipped], skipped_count: int) -> None:
        self._connection = sqlite3.connect(":memory:", check_same_thread=False)
        self._lock = threading.Lock()
        self._places: list[tuple[Document, int]] = []
        self._fill(documents)
        self.holdings = Holdings(
            titles=tuple(document.title for document in documents),
            passage_count=len(self._places),
            size_bytes=sum(len(excerpt.text) for document in documents for excerpt in document.excerpts),
            skipped=tuple(skipped),
            skipped_count=skipped_count,
        )

    def close(self) -> None:
        """Give the memory back; no search may follow."""
        with self._lock:
            self._connection.close()

    def search(self, question: str, limit: int) -> Found:
        """Give the passages that fit the question best, at most `limit`. The same question gives the same answer."""
        with self._lock:
            terms, counts = self._known(terms_of(question))
            candidates = self._candidates(terms)
        weights = tuple(self._weight(count) for count in counts)
        query = Query(terms, weights, pattern_of(terms))
        return Found(query, self._ranked(query, candidates, limit))

    async def search_aside(self, question: str, limit: int) -> Found:
        """Do what `search` does without holding up the event loop: a large library is searched in a thread."""
        if self.holdings.passage_count <= INLINE_PASSAGES:
            return self.search(question, limit)
        return await asyncio.to_thread(self.search, question, limit)

    def _fill(self, documents: Sequence[Document]) -> None:
        rows: list[tuple[int, str, str, str]] = []
        for document in documents:
            for position, excerpt in enumerate(document.excerpts):
                self._places.append((document, position))
                rows.append((len(self._places), document.title, excerpt.section, excerpt.text))
        self._connection.execute(_SCHEMA)
        self._connection.executemany("INSERT INTO passages(rowid, title, section, text) VALUES (?, ?, ?, ?)", rows)
        self._connection.execute("INSERT INTO passages(passages) VALUES ('optimize')")
        self._connection.commit()
        self._connection.execute("PRAGMA query_only = ON")

    def _known(self, terms: tuple[Term, ...]) -> tuple[tuple[Term, ...], list[int]]:
        """Give the terms and in how many passages each stands; one that is in none is taken for the start of a word."""
        known: list[Term] = []
        counts: list[int] = []
        for term in terms:
            chosen, count = term, self._count(_match_expression((term,)))
            if count == 0 and len(term.forms[0]) >= _SHORTEST_PREFIX_CHARS:
                prefix = Term(term.forms, is_prefix=True)
                count = self._count(_match_expression((prefix,)))
                chosen = prefix if count else term
            known.append(chosen)
            counts.append(count)
        return tuple(known), counts

    def _weight(self, count: int) -> float:
        return math.log(1 + (len(self._places) - count + 0.5) / (count + 0.5))

    def _count(self, expression: str) -> int:
        (count,) = self._connection.execute(_COUNT, (expression,)).fetchone()
        return int(count)

    def _candidates(self, terms: tuple[Term, ...]) -> list[tuple[int, float]]:
        if not terms:
            return []
        weights = (_TITLE_WEIGHT, _SECTION_WEIGHT, _TEXT_WEIGHT)
        return self._connection.execute(_RANKED, (*weights, _match_expression(terms), _CANDIDATES)).fetchall()

    def _ranked(self, query: Query, candidates: list[tuple[int, float]], limit: int) -> tuple[Passage, ...]:
        greatest = max((value for _, value in candidates), default=0.0) or 1.0
        ranked: list[tuple[float, int, float, float]] = []
        for row, bm25 in candidates:
            document, position = self._places[row - 1]
            value = max(bm25, 0.0)
            coverage = _coverage(query, document, position)
            rank = coverage * (0.25 + value / greatest) * _aptness(query, document, position)
            if rank > 0:
                score = coverage * (0.5 + 0.5 * value / (value + _BM25_HALF))
                ranked.append((-rank, row, coverage, round(score, 3)))
        ranked.sort()
        return tuple(
            self._passage(row, coverage, rank / ranked[0][0], score) for rank, row, coverage, score in ranked[:limit]
        )

    def _passage(self, row: int, coverage: float, rank: float, score: float) -> Passage:
        document, position = self._places[row - 1]
        return Passage(
            source=document.path,
            title=document.title,
            section=document.excerpts[position].section,
            text=document.excerpts[position].text,
            score=score,
            coverage=coverage,
            rank=rank,
            date=document.date,
            official=document.official,
            note=document.note,
        )


def _coverage(query: Query, document: Document, position: int) -> float:
    excerpt = document.excerpts[position]
    return query.share(query.matched(f"{document.title}\n{excerpt.section}\n{excerpt.text}"))


def _aptness(query: Query, document: Document, position: int) -> float:
    """Prefer documents whose title, up to its first comma or colon, is what was asked for, and their beginning."""
    head = title_head(document.title)
    words = [word for word in _WORD.findall(fold(head)) if word not in STOP_WORDS]
    asked = sum(1 for word in words if query.pattern.fullmatch(word)) / len(words) if words else 0.0
    is_lead_wanted = position == 0 and query.share(query.matched(document.title)) > _NEARLY_ALL
    return (1 + 0.5 * asked) * (1.1 + asked if is_lead_wanted else 1.0)


def title_head(title: str) -> str:
    """Give a title up to its first comma, colon or semicolon: what the document is about, in short."""
    return _TITLE_END.split(title, maxsplit=1)[0]


def _match_expression(terms: Iterable[Term]) -> str:
    """Give an FTS5 expression of quoted words only, joined by OR. Words are letters and digits (`words.terms_of`)."""
    return " OR ".join(f'"{form}"{"*" if term.is_prefix else ""}' for term in terms for form in term.forms)


def build_index(*folders: Path, bounds: Bounds | None = None) -> Index:
    """Read everything readable below the folders and index it; for the bundled library a few hundredths of a second.

    Files are taken in the order of their names, so that the same folder gives the same index. Names that begin with a
    dot are left alone, and links that lead out of the folder aren't followed.

    Raises:
        LibraryError: a folder isn't there, or nothing in it could be read.
    """
    reader = _Reader(bounds or Bounds())
    for folder in folders:
        reader.read(folder)
    if not reader.documents:
        kinds = " ".join(sorted(KNOWN_SUFFIXES))
        why = f" ({reader.skipped[0].path}: {reader.skipped[0].reason})" if reader.skipped else ""
        names = ", ".join(map(str, folders))
        raise LibraryError(f"{names}: nothing to answer from{why}. Give a folder with files of these kinds: {kinds}")
    return Index(reader.documents, reader.skipped, reader.skipped_count)


class _Reader:
    """Reads folders within bounds, and keeps account of what it left out."""

    def __init__(self, bounds: Bounds) -> None:
        self.documents: list[Document] = []
        self.skipped: list[Skipped] = []
        self.skipped_count = 0
        self._bounds = bounds
        self._room_bytes = bounds.max_total_bytes

    def read(self, folder: Path) -> None:
        """Read one folder.

        Raises:
            LibraryError: it isn't there.
        """
        root = folder.resolve()
        if not root.is_dir():
            raise LibraryError(f"{folder}: no such folder. Give an existing one, or none for the bundled library")
        for directory, directories, names in os.walk(root, onerror=self._skip_directory):
            directories[:] = sorted(name for name in directories if not name.startswith("."))
            for name in sorted(names):
                if not name.startswith(".") and Path(name).suffix.lower() in KNOWN_SUFFIXES:
                    self._read_file(Path(directory, name), root)

    def _read_file(self, path: Path, root: Path) -> None:
        name = path.relative_to(root).as_posix()
        try:
            self._check(path, root)
            document = read_document(path, name, self._bounds.max_file_bytes)
        except Unreadable as error:
            self._skip(name, error.reason)
            return
        self._room_bytes -= sum(len(excerpt.text.encode()) for excerpt in document.excerpts)
        self.documents.append(document)

    def _check(self, path: Path, root: Path) -> None:
        if len(self.documents) >= self._bounds.max_files:
            raise Unreadable(f"over {self._bounds.max_files} files")
        if self._room_bytes <= 0:
            raise Unreadable(f"over {self._bounds.max_total_bytes} bytes in all")
        if not path.is_file():
            raise Unreadable("not a regular file")
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            raise Unreadable("a link that leads out of the folder")

    def _skip_directory(self, error: OSError) -> None:
        self._skip(str(error.filename), "folder can't be listed")

    def _skip(self, path: str, reason: str) -> None:
        self.skipped_count += 1
        if len(self.skipped) < _MOST_SKIPPED_NAMED:
            self.skipped.append(Skipped(path, reason))
