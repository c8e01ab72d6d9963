"""From files to passages: Markdown, HTML and plain text, read within bounds and split by heading and paragraph.

A document may begin with a block between two `---` lines, `name: value` each: `title`, `date` (when it was written or
checked), `official` (addresses of the official source, separated by spaces) and `note` (one sentence that goes with
every answer from it). Other names are ignored. HTML says the same by `<title>`, `<meta name="date">` and `<link
rel="canonical">`.
"""

import re
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

import msgspec

MARKDOWN_SUFFIXES: Final = frozenset({".md", ".markdown"})
HTML_SUFFIXES: Final = frozenset({".html", ".htm"})
TEXT_SUFFIXES: Final = frozenset({".txt", ".text"})
KNOWN_SUFFIXES: Final = MARKDOWN_SUFFIXES | HTML_SUFFIXES | TEXT_SUFFIXES

MAX_PASSAGE_CHARS: Final = 1_200
"""What one passage holds at most: enough for a list of documents to bring, little enough to be quoted."""
MAX_TITLE_CHARS: Final = 200

SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+(?=[\"“(]?[A-Z0-9À-Þ])")
"""Between two sentences. An abbreviation before a capital is taken for an end: harmless, since pieces stay in order."""

_BLOCK_ELEMENTS: Final = """
    address article aside blockquote body br caption dd details div dl dt fieldset figcaption figure footer form head
    header hr html main ol p pre section summary table tbody td tfoot th thead tr ul
"""
_FRONT_MATTER: Final = re.compile(r"\A---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
_FIELD: Final = re.compile(r"^([a-z_]+):[ \t]*(.*?)[ \t]*$", re.MULTILINE)
_HEADING: Final = re.compile(r"^ {0,3}#{1,6}[ \t]+(.*)$")
_UNDERLINE: Final = re.compile(r"^(?:=+|-+)[ \t]*$")
_ITEM: Final = re.compile(r"^[ \t]*(?:[-*+]|\d{1,3}[.)])[ \t]+(.*)$")
_FENCE: Final = re.compile(r"^ {0,3}(?:```|~~~)")
_TABLE_RULE: Final = re.compile(r"^[ \t]*[|:-][ \t:|-]*$")
_IMAGE_OR_LINK: Final = re.compile(r"!?\[([^\[\]\n]{0,500})\]\([^()\s]{0,2000}(?:[ \t]+\"[^\"\n]{0,500}\")?\)")
_EMPHASIS: Final = re.compile(r"(\*\*|__|(?<!\w)[*_](?=\S)|(?<=\S)[*_](?!\w)|`)")
_URL: Final = re.compile(r"https?://[^\s,;]+")


class Unreadable(Exception):
    """A file that can't be read as a document. `reason` is for the operator: short, without the file's content."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Excerpt(msgspec.Struct, frozen=True):
    """A run of paragraphs under one heading.

    Paragraphs are lines, separated by an empty one; an item of a list is a line that begins with `- `.
    `section` is the nearest heading, empty before the first one.
    """

    section: str
    text: str


class Document(msgspec.Struct, frozen=True):
    """One file, read. `path` is relative to its folder, with `/`; `date` is as it was written, or empty."""

    path: str
    title: str
    date: str
    official: tuple[str, ...]
    note: str
    excerpts: tuple[Excerpt, ...]


def read_document(path: Path, name: str, max_bytes: int) -> Document:
    """Read one file; `name` is what it is called in sources.

    Raises:
        Unreadable: larger than `max_bytes`, not to be opened, binary, not UTF-8, or without any text.
    """
    text = _read_text(path, max_bytes)
    suffix = path.suffix.lower()
    if suffix in HTML_SUFFIXES:
        document = _from_html(name, text)
    elif suffix in MARKDOWN_SUFFIXES:
        document = _from_markdown(name, text)
    else:
        document = _from_text(name, text)
    if not document.excerpts:
        raise Unreadable("holds no text")
    return document


def _read_text(path: Path, max_bytes: int) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(max_bytes + 1)
    except OSError as error:
        raise Unreadable(f"can't be opened ({error.strerror or type(error).__name__})") from error
    if len(raw) > max_bytes:
        raise Unreadable(f"larger than {max_bytes} bytes")
    if b"\0" in raw:
        raise Unreadable("binary")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable("not UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


class _Outline:
    """Collects headings, paragraphs and items in reading order, and packs them into excerpts."""

    def __init__(self) -> None:
        self.first_heading = ""
        self._section = ""
        self._blocks: list[str] = []
        self._excerpts: list[Excerpt] = []

    def heading(self, text: str) -> None:
        """Begin a section."""
        self._flush()
        self._section = text[:MAX_TITLE_CHARS]
        self.first_heading = self.first_heading or self._section

    def paragraph(self, text: str) -> None:
        """Add a paragraph; one that is too long for a passage is cut between sentences, else between words."""
        for piece in _pieces(" ".join(text.split())):
            self._add(piece)

    def items(self, items: Iterable[str]) -> None:
        """Add a list. It stays with the paragraph before it, which says what it is a list of, as far as it fits."""
        for text in items:
            for piece in _pieces(" ".join(text.split())):
                self._add(f"- {piece}")

    def excerpts(self) -> tuple[Excerpt, ...]:
        """Give what was collected."""
        self._flush()
        return tuple(self._excerpts)

    def _add(self, block: str) -> None:
        if self._blocks and sum(len(one) + 2 for one in self._blocks) + len(block) > MAX_PASSAGE_CHARS:
            self._flush()
        self._blocks.append(block)

    def _flush(self) -> None:
        if not self._blocks:
            return
        text = self._blocks[0]
        for before, block in zip(self._blocks, self._blocks[1:], strict=False):
            is_same_list = block.startswith("- ") and before.startswith("- ")
            text += ("\n" if is_same_list else "\n\n") + block
        self._excerpts.append(Excerpt(self._section, text))
        self._blocks.clear()


def _pieces(text: str) -> Iterable[str]:
    """Cut a text into pieces of at most `MAX_PASSAGE_CHARS`, less the mark of an item."""
    limit = MAX_PASSAGE_CHARS - 2
    piece = ""
    for sentence in SENTENCE_END.split(text):
        rest = sentence
        while len(rest) > limit:
            if piece:
                yield piece
                piece = ""
            cut = rest.rfind(" ", 1, limit)
            cut = cut if cut > 0 else limit
            yield rest[:cut]
            rest = rest[cut:].lstrip()
        if piece and len(piece) + 1 + len(rest) > limit:
            yield piece
            piece = rest
        else:
            piece = f"{piece} {rest}".strip()
    if piece:
        yield piece


def _from_markdown(name: str, text: str) -> Document:
    fields: dict[str, str] = {}
    front = _FRONT_MATTER.match(text)
    if front is not None:
        fields = dict(_FIELD.findall(front[1]))
        text = text[front.end() :]
    outline = _Outline()
    reader = _MarkdownReader(outline)
    for line in _without_comments(text).split("\n"):
        reader.take(line)
    reader.close()
    return _document(name, fields, outline)


class _MarkdownReader:
    """Reads Markdown line by line into an outline."""

    def __init__(self, outline: _Outline) -> None:
        self._outline = outline
        self._paragraph: list[str] = []
        self._items: list[str] = []
        self._is_code = False

    def take(self, line: str) -> None:
        """Take the next line."""
        if _FENCE.match(line):
            self.close()
            self._is_code = not self._is_code
        elif self._is_code:
            self._paragraph.append(line.strip())
        elif len(self._paragraph) == 1 and _UNDERLINE.match(line):
            self._outline.heading(self._paragraph.pop())
        elif not line.strip() or _TABLE_RULE.match(line):
            self.close()
        elif heading := _HEADING.match(line):
            self.close()
            self._outline.heading(_plain(heading[1].rstrip("# \t")))
        else:
            self._take_text(line)

    def close(self) -> None:
        """End the paragraph or the list under way."""
        if self._paragraph:
            self._outline.paragraph(" ".join(self._paragraph))
            self._paragraph.clear()
        if self._items:
            self._outline.items(self._items)
            self._items.clear()

    def _take_text(self, line: str) -> None:
        item = _ITEM.match(line)
        if item is not None:
            if self._paragraph:
                self.close()
            self._items.append(_plain(item[1]))
        elif self._items:
            self._items[-1] += f" {_plain(line.strip())}"
        else:
            self._paragraph.append(_plain(_cells(line.strip().lstrip("> "))))


def _without_comments(text: str) -> str:
    kept, mark, rest = text.partition("<!--")
    parts = [kept]
    while mark:
        kept, mark, rest = rest.partition("-->")[2].partition("<!--")
        parts.append(kept)
    return "".join(parts)


def _cells(line: str) -> str:
    """Give a table's row as a phrase; any other line as it is."""
    if not line.startswith("|"):
        return line
    return ", ".join(cell.strip() for cell in line.strip("|").split("|") if cell.strip()) + "."


def _plain(text: str) -> str:
    """Take Markdown's marks away: links keep their words, emphasis its text."""
    return _EMPHASIS.sub("", _IMAGE_OR_LINK.sub(r"\1", text))


def _from_text(name: str, text: str) -> Document:
    outline = _Outline()
    for block in re.split(r"\n[ \t]*\n", text):
        lines = block.strip("\n").split("\n")
        items = [match[1] for line in lines if (match := _ITEM.match(line))]
        if items and len(items) == len(lines):
            outline.items(items)
        else:
            outline.paragraph(block)
    return _document(name, {}, outline)


class _HtmlReader(HTMLParser):
    """Reads a page into an outline; what is never shown (script, style, …) and menus are dropped."""

    _HIDDEN: Final = frozenset({"script", "style", "noscript", "template", "svg", "math", "iframe", "object", "nav"})
    _BLOCKS: Final = frozenset(_BLOCK_ELEMENTS.split())
    _HEADINGS: Final = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})

    def __init__(self, outline: _Outline) -> None:
        super().__init__(convert_charrefs=True)
        self.fields: dict[str, str] = {}
        self._outline = outline
        self._text: list[str] = []
        self._hidden: list[str] = []
        self._holder = "p"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin an element."""
        if tag in self._HIDDEN:
            self._hidden.append(tag)
        elif tag == "meta":
            self._take_meta({name: value or "" for name, value in attrs})
        elif tag == "link":
            self._take_link({name: value or "" for name, value in attrs})
        elif tag in self._HEADINGS or tag in {"li", "title"}:
            self._close()
            self._holder = tag
        elif tag in self._BLOCKS:
            self._close()

    def handle_endtag(self, tag: str) -> None:
        """End an element."""
        if self._hidden:
            if tag == self._hidden[-1]:
                self._hidden.pop()
        elif tag in self._HEADINGS or tag in self._BLOCKS or tag in {"li", "title"}:
            self._close()

    def handle_data(self, data: str) -> None:
        """Take text."""
        if not self._hidden:
            self._text.append(data)

    def finish(self) -> None:
        """Take what is left at the end of the page."""
        self.close()
        self._close()

    def _close(self) -> None:
        text = " ".join("".join(self._text).split())
        holder, self._holder = self._holder, "p"
        self._text.clear()
        if not text:
            self._holder = holder if holder == "li" else "p"
        elif holder == "title":
            self.fields.setdefault("title", text)
        elif holder in self._HEADINGS:
            self._outline.heading(text)
        elif holder == "li":
            self._outline.items([text])
        else:
            self._outline.paragraph(text)

    def _take_meta(self, attributes: dict[str, str]) -> None:
        if attributes.get("name", "").lower() in {"date", "dcterms.modified", "last-modified"}:
            self.fields.setdefault("date", attributes.get("content", ""))

    def _take_link(self, attributes: dict[str, str]) -> None:
        if attributes.get("rel", "").lower() == "canonical":
            self.fields.setdefault("official", attributes.get("href", ""))


def _from_html(name: str, text: str) -> Document:
    outline = _Outline()
    reader = _HtmlReader(outline)
    reader.feed(text)
    reader.finish()
    return _document(name, reader.fields, outline)


def _document(name: str, fields: dict[str, str], outline: _Outline) -> Document:
    title = (
        fields.get("title", "").strip("\"'")
        or outline.first_heading
        or Path(name).stem.replace("-", " ").replace("_", " ")
    )
    return Document(
        path=name,
        title=title[:MAX_TITLE_CHARS],
        date=fields.get("date", "")[:MAX_TITLE_CHARS],
        official=tuple(_URL.findall(fields.get("official", ""))),
        note=fields.get("note", "")[:MAX_PASSAGE_CHARS],
        excerpts=outline.excerpts(),
    )
