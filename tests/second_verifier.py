"""A second verifier of audit logs, written from docs/audit.md alone: nothing of ours is imported here.

It reads a whole log into memory and says by which names of that page's table the log isn't whole. That it agrees with
the first one, on good logs and on tampered ones, shows that the page says all there is to say.
"""

import hmac
import json
import sqlite3
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

LEAST_TERM_MS: Final = 90 * 86_400_000
MAX_UNSEALED: Final = 1256
MAX_UNSEALED_MS: Final = 5000
MAX_SILENCE_MS: Final = 150_000
TABLES: Final = {
    "rows": "SELECT seq, time_ms, operation, outcome, stream, {core}, pii_commit, pii_seal, subject, address, nonce, ct"
    " FROM audit_event{where} ORDER BY seq",
    "checkpoints": "SELECT size, note, hashes FROM audit_checkpoint{where} ORDER BY size",
    "rotations": "SELECT seq, vkey, signature FROM audit_rotation{where} ORDER BY seq",
    "bases": "SELECT size, hashes FROM audit_base{where}",
}


class Wrong(Exception):
    """Something isn't as the page says; `name` is from its table."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Row(NamedTuple):
    seq: int
    time_ms: int
    operation: str
    outcome: str | None
    stream: str | None
    core: bytes
    pii_commit: bytes | None
    pii_seal: bytes | None
    subject: bytes | None
    address: bytes | None
    nonce: bytes | None
    ct: bytes | None


class Stored(NamedTuple):
    """A row of `audit_checkpoint`."""

    size: int
    note: str
    hashes: bytes


class Log(NamedTuple):
    """All tables of one log."""

    origin: str
    rows: list[Row]
    checkpoints: list[Stored]
    rotations: list[tuple[int, str, bytes]]
    bases: list[tuple[int, bytes]]


class Receipt(NamedTuple):
    seq: int
    leaf: bytes
    signature: bytes


class Core(NamedTuple):
    op: str
    time_ms: int
    mono_ms: int
    boot: str
    fields: dict[str, object]


def verify_file(path: Path, vkey: str, anchors: Sequence[str] = (), least_term_ms: int = LEAST_TERM_MS) -> set[str]:
    """Judge a SQLite file."""
    try:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            log = read_file(connection)
            is_sound = connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        finally:
            connection.close()
    except sqlite3.Error:
        return {"UNREADABLE"}
    return verify(log, vkey, anchors, least_term_ms=least_term_ms) | (set() if is_sound else {"UNREADABLE"})


def read_file(connection: sqlite3.Connection) -> Log:
    ((origin,),) = connection.execute("SELECT origin FROM audit_log")
    found = {
        name: connection.execute(statement.format(core="CAST(core AS BLOB)", where="")).fetchall()
        for name, statement in TABLES.items()
    }
    return make_log(origin, found)


def make_log(origin: str, tables: dict[str, list[tuple[object, ...]]]) -> Log:
    """Give a log from the rows of its tables, by the names of `TABLES`."""
    return Log(
        origin,
        [Row(*row) for row in tables["rows"]],  # type: ignore[arg-type]  # a database's values
        [Stored(*row) for row in tables["checkpoints"]],  # type: ignore[arg-type]  # (same)
        tables["rotations"],  # type: ignore[arg-type]  # (same)
        tables["bases"],  # type: ignore[arg-type]  # (same)
    )


def parts(*pieces: bytes | None) -> bytes:
    return b"".join(b"\0" if piece is None else b"\1" + u64(len(piece)) + piece for piece in pieces)


def u64(number: int) -> bytes:
    return number.to_bytes(8, "big")


def node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()


class Tree:
    """A compact range."""

    def __init__(self, size: int = 0, joined: bytes = b"") -> None:
        self.size = size
        self.hashes = [joined[at : at + 32] for at in range(0, len(joined), 32)]
        if size < 0 or len(joined) != 32 * size.bit_count():
            raise ValueError

    def add(self, leaf: bytes) -> None:
        ones = self.size
        while ones & 1:
            leaf = node(self.hashes.pop(), leaf)
            ones >>= 1
        self.hashes.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        if not self.hashes:
            return sha256().digest()
        root = self.hashes[-1]
        for left in self.hashes[-2::-1]:
            root = node(left, root)
        return root


class Key(NamedTuple):
    name: str
    public: bytes

    @classmethod
    def read(cls, word: str) -> "Key":
        name, _, encoded = word.split("+", 2)
        key = cls(name, unbase64(encoded)[1:])
        if not is_name(name) or len(key.public) != 32 or str(key) != word:
            raise ValueError
        return key

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+" + base64(b"\1" + self.public)

    @property
    def id(self) -> bytes:
        return sha256(self.name.encode() + b"\n\1" + self.public).digest()[:4]

    def has_signed(self, content: bytes, signature: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, content)
        except (InvalidSignature, ValueError):
            return False
        return True


class Note(NamedTuple):
    """A signed checkpoint."""

    origin: str
    size: int
    root: bytes
    text: str
    signatures: list[tuple[str, bytes]]

    @classmethod
    def read(cls, note: str) -> "Note":
        text, gap, below = note.rpartition("\n\n")
        origin, size, root = text.split("\n")
        if not gap or not is_name(origin) or not is_size(size) or below[-1:] != "\n":
            raise ValueError
        read = cls(origin, int(size), unbase64(root), text + "\n", [read_line(one) for one in below[:-1].split("\n")])
        if len(read.root) != 32:
            raise ValueError
        return read

    def is_signed_by(self, key: Key) -> bool:
        found = [one[4:] for name, one in self.signatures if (name, one[:4]) == (key.name, key.id)]
        return bool(found) and key.has_signed(self.text.encode(), found[0])


def read_line(line: str) -> tuple[str, bytes]:
    dash, name, signature = line.split(" ")
    content = unbase64(signature)
    if dash != "—" or not is_name(name) or len(content) != 68:
        raise ValueError
    return name, content


def is_size(text: str) -> bool:
    return text.isdecimal() and len(text) <= 20 and str(int(text)) == text


def is_name(text: str) -> bool:
    return bool(text) and all("!" <= one <= "~" and one != "+" for one in text)


def base64(content: bytes) -> str:
    return b64encode(content).decode()


def unbase64(text: str) -> bytes:
    content = b64decode(text, validate=True)
    if base64(content) != text:
        raise ValueError
    return content


def verify(
    log: Log,
    vkey: str,
    anchors: Sequence[str] = (),
    receipts: Sequence[Receipt] = (),
    *,
    least_term_ms: int = LEAST_TERM_MS,
) -> set[str]:
    """Say by which names the log isn't whole; none: it is."""
    return set(Verifier(log, Key.read(vkey), least_term_ms).findings(anchors, receipts))


class Verifier:
    def __init__(self, log: Log, first: Key, least_term_ms: int) -> None:
        self.log = log
        self.keys = [(0, first)]
        self.least_term_ms = least_term_ms
        self.tree: Tree | None = Tree()  # None: rows are missing, no root can be compared
        self.size = self.base = self.sealed = 0
        self.before: Core | None = None  # the row before
        self.unsealed: list[Core] = []
        self.redacted: set[int] = set()
        self.erased: set[int] = set()
        self.rotated: dict[int, tuple[object, object]] = {}
        self.certified: dict[int, tuple[object, object]] = {}
        self.pruned: dict[int, Core] = {}
        self.given_up: list[range] = []
        self.first: Core | None = None

    def findings(self, anchors: Sequence[str], receipts: Sequence[Receipt]) -> Iterator[str]:
        yield from self.follow_keys()
        yield from self.take_base()
        published: set[tuple[int, bytes]] = set()
        for text in anchors:
            yield from self.take_anchor(text, published)
        promised = [one for one in receipts if self.is_promised(one)]
        if len(promised) < len(receipts):
            yield "BAD_RECEIPT"
        yield from self.walk(published, [one for one in promised if one.seq >= self.base])
        yield from self.judge_end()
        yield from self.judge_rows()

    def key(self, size: int) -> Key:
        return [key for start, key in self.keys if start <= max(0, size)][-1]

    def follow_keys(self) -> Iterator[str]:  # step 1
        if self.keys[0][1].name != self.log.origin:
            yield "BAD_SIGNATURE"
        for seq, word, signature in self.log.rotations:
            former = self.keys[-1][1]
            try:
                key = Key.read(word)
                content = parts(b"subak.audit.rotation.v1", former.name.encode(), u64(seq), word.encode())
            except (ValueError, OverflowError):
                yield "BAD_KEY_CHAIN"
                return
            if not former.has_signed(content, signature):
                yield "BAD_KEY_CHAIN"
                return
            self.keys.append((seq + 1, key))
            self.certified[seq] = (word, signature.hex())

    def open(self, stored: Stored) -> Note:  # step 2
        try:
            note = Note.read(stored.note)
        except ValueError:
            raise Wrong("MALFORMED_CHECKPOINT") from None
        if not note.is_signed_by(self.key(stored.size)):
            raise Wrong("BAD_SIGNATURE")
        if (note.origin, note.size) != (self.log.origin, stored.size):
            raise Wrong("MALFORMED_CHECKPOINT")
        return note

    def take_base(self) -> Iterator[str]:  # step 3
        size, hashes = self.log.bases[0] if self.log.bases else (0, b"")
        try:
            tree = Tree(size, hashes)
        except ValueError:
            yield "ROGUE_PRUNE"
            return
        if size == 0:
            return
        self.tree, self.size, self.base, self.sealed = tree, size, size, size
        at_base = [one for one in self.log.checkpoints if one.size == size]
        try:
            if not at_base or self.open(at_base[0]).root != tree.root() or at_base[0].hashes != hashes:
                yield "ROGUE_PRUNE"
        except Wrong as wrong:
            yield from (wrong.name, "ROGUE_PRUNE")

    def take_anchor(self, text: str, published: set[tuple[int, bytes]]) -> Iterator[str]:  # step 4
        try:
            anchor = Note.read(text)
        except ValueError:
            yield "BAD_ANCHOR"
            return
        if not anchor.is_signed_by(self.key(anchor.size)) or anchor.origin != self.log.origin:
            yield "BAD_ANCHOR"
        elif anchor.size >= self.base:
            published.add((anchor.size, anchor.root))

    def is_promised(self, receipt: Receipt) -> bool:  # step 5
        if receipt.seq < 0 or len(receipt.leaf) != 32:
            return False
        key = self.key(receipt.seq + 1)
        content = parts(b"subak.audit.receipt.v1", key.name.encode(), u64(receipt.seq), receipt.leaf)
        return key.has_signed(content, receipt.signature)

    def walk(self, published: set[tuple[int, bytes]], promised: Sequence[Receipt]) -> Iterator[str]:  # step 6
        marks: list[tuple[int, int, Stored | bytes]] = [
            *((one.size, 0, one) for one in self.log.checkpoints if one.size > self.base),
            *((size, 1, root) for size, root in published),
        ]
        marks.sort(key=lambda mark: mark[:2], reverse=True)
        rows = [row for row in self.log.rows if row.seq >= self.base]
        for row in rows:
            if row.seq != self.size:
                yield "MISSING_ROWS"
                self.tree, self.size = None, row.seq
            while marks and marks[-1][0] <= row.seq:
                yield from self.compare(marks.pop())
            yield from self.judge_row(row)
            leaf = self.leaf(row)
            if any(one.leaf != leaf for one in promised if one.seq == row.seq) and not self.is_given_up(row.seq):
                yield "BAD_RECEIPT"
            if self.tree is not None:
                self.tree.add(leaf)
            self.size += 1
        while marks:
            yield from self.compare(marks.pop())
        missed = {one.seq for one in promised} - {row.seq for row in rows}
        if not all(map(self.is_given_up, missed)):
            yield "BAD_RECEIPT"

    def leaf(self, row: Row) -> bytes:
        content = (self.log.origin.encode(), u64(row.seq), row.core, row.pii_commit, row.pii_seal)
        return sha256(b"\0" + parts(b"subak.audit.leaf.v1", *content)).digest()

    def compare(self, mark: tuple[int, int, Stored | bytes]) -> Iterator[str]:
        size, _, seen = mark
        if isinstance(seen, Stored):
            yield from self.compare_checkpoint(seen)
        elif self.is_given_up(size - 1):
            return
        elif self.size < size:
            yield "BEHIND_ANCHOR"
        elif self.tree is not None and self.size == size and self.tree.root() != seen:
            yield "FORK"

    def is_given_up(self, seq: int) -> bool:
        return any(seq in rows for rows in self.given_up)

    def compare_checkpoint(self, stored: Stored) -> Iterator[str]:
        try:
            note = self.open(stored)
        except Wrong as wrong:
            yield wrong.name
            return
        if note.size - self.sealed > MAX_UNSEALED:
            yield "SEALS_APART"
        self.sealed = note.size
        if self.size < note.size:
            yield "TRUNCATED"
            return
        self.unsealed.clear()
        if self.tree is not None and self.size == note.size and self.tree.root() != note.root:
            yield "ROOT_MISMATCH"
        try:
            tree = Tree(stored.size, stored.hashes)
        except ValueError:
            yield "MALFORMED_CHECKPOINT"
            return
        if tree.root() != note.root:
            yield "MALFORMED_CHECKPOINT"
        elif self.size == note.size:
            self.tree = tree

    def judge_row(self, row: Row) -> Iterator[str]:
        try:
            core = read_core(row.core)
            self.note(row, core)
        except (ValueError, TypeError, KeyError, RecursionError):
            yield "MALFORMED_ROW"
            return
        said = (core.time_ms, core.op, core.fields.get("outcome"), core.fields.get("stream"))
        if said != (row.time_ms, row.operation, row.outcome, row.stream):
            yield "ALTERED_COLUMNS"
        yield from self.judge_personal(row)
        before = self.before
        if before is not None and before.boot == core.boot and core.mono_ms - before.mono_ms > MAX_SILENCE_MS:
            yield from () if core.op == "log.gap" else ("SILENCE",)
        self.before = core
        self.first = self.first or core
        self.unsealed.append(core)

    def judge_personal(self, row: Row) -> Iterator[str]:
        if row.pii_commit is None:
            if any(column is not None for column in row[7:]):
                yield "ALTERED_PERSONAL"
        elif all(column is None for column in row[8:]):
            self.redacted.add(row.seq)
        elif sha256(parts(b"subak.audit.seal.v1", *row[8:])).digest() != row.pii_seal:
            yield "ALTERED_PERSONAL"

    def note(self, row: Row, core: Core) -> None:
        """Keep what the row says of others. Raises: KeyError, TypeError, ValueError."""
        fields = core.fields
        match core.op:
            case "gdpr.erase":
                spans = [range(whole(first), whole(last) + 1) for first, last in listed(fields["seqs"])]
                self.erased.update(*(span for span in spans if span.stop <= row.seq))
            case "key.rotate":
                self.rotated[row.seq] = (text(fields["vkey"]), text(fields["signature"]))
            case "retention.prune":
                whole(fields["term_ms"])
                self.pruned[whole(fields["size"])] = core
            case "log.restore":
                self.given_up.append(range(row.seq, whole(fields["size"])))
            case _:
                pass

    def judge_end(self) -> Iterator[str]:
        if self.size - self.sealed > MAX_UNSEALED:
            yield "SEALS_APART"
        if self.size > self.sealed and self.unsealed:
            first, last = self.unsealed[0], self.unsealed[-1]
            if first.boot != last.boot or last.mono_ms - first.mono_ms > MAX_UNSEALED_MS:
                yield "SEALS_APART"

    def judge_rows(self) -> Iterator[str]:
        if self.redacted - self.erased:
            yield "SILENT_REDACTION"
        if any(row.seq < self.base for row in self.log.rows):
            yield "ROGUE_PRUNE"
        if any(stored.size < max(1, self.base) for stored in self.log.checkpoints):
            yield "MALFORMED_CHECKPOINT"
        if self.base and not self.is_prune_due():
            yield "ROGUE_PRUNE"
        if {seq: pair for seq, pair in self.certified.items() if seq >= self.base} != self.rotated:
            yield "BAD_KEY_CHAIN"

    def is_prune_due(self) -> bool:
        prune = self.pruned.get(self.base)
        if prune is None or self.first is None:
            return False
        term_ms = whole(prune.fields["term_ms"])
        return term_ms >= self.least_term_ms and self.first.time_ms <= prune.time_ms - term_ms


def read_core(content: bytes) -> Core:
    fields = json.loads(content.decode(), parse_constant=whole)
    if not isinstance(fields, dict):
        raise TypeError
    whole(fields["v"])
    for name in ("outcome", "stream"):
        if fields.get(name) is not None:
            text(fields[name])
    return Core(text(fields["op"]), whole(fields["time_ms"]), whole(fields["mono_ms"]), text(fields["boot"]), fields)


def whole(value: object) -> int:
    if type(value) is not int:
        raise TypeError
    return value


def text(value: object) -> str:
    if type(value) is not str:
        raise TypeError
    return value


def listed(value: object) -> Iterable[tuple[object, object]]:
    if type(value) is not list:
        raise TypeError
    return value


def proof_holds(content: str, vkey: str) -> bool:
    """Whether what `subak audit prove` wrote proves its row to who knows the first key."""
    proof = json.loads(content)
    note = Note.read(proof["checkpoint"])
    rotations = [(one["seq"], one["vkey"], unbase64(one["signature"])) for one in proof["rotations"]]
    log = Log(proof["origin"], [], [], rotations, [])
    verifier = Verifier(log, Key.read(vkey), LEAST_TERM_MS)
    if list(verifier.follow_keys()) or any(seq >= note.size for seq, _, _ in rotations):
        return False
    if note.origin != log.origin or not note.is_signed_by(verifier.key(note.size)) or not 0 <= proof["seq"] < note.size:
        return False
    commit, seal = (None if proof[name] is None else unbase64(proof[name]) for name in ("pii_commit", "pii_seal"))
    row = Row(proof["seq"], 0, "", None, None, proof["core"].encode(), commit, seal, None, None, None, None)
    return root_of(verifier.leaf(row), row.seq, note.size, list(map(unbase64, proof["path"]))) == note.root


def root_of(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """Fold an inclusion path into a leaf."""
    if size == 1 or not path:
        return leaf if size == 1 and not path else b""
    left = 1 << (size - 1).bit_length() - 1
    if index < left:
        return node(root_of(leaf, index, left, path[:-1]), path[-1])
    return node(path[-1], root_of(leaf, index - left, size - left, path[:-1]))


class Keys:
    """The key files of a state directory."""

    def __init__(self, directory: Path) -> None:
        self.fields = json.loads((directory / "audit.keys").read_text())
        self._folder = directory / "audit-subjects"

    def open(self, row: Row) -> dict[str, str]:
        """Give the content of a row, which must be what it commits to, of whom its key is."""
        if row.subject is None or row.nonce is None or row.ct is None or row.pii_commit is None:
            raise ValueError
        name, key = self._record(row.subject)
        origin = self.fields["origin"]
        bound = parts(b"subak.audit.content.v1", origin.encode(), u64(row.seq), row.pii_commit)
        clear = AESGCM(key).decrypt(row.nonce, row.ct, bound)
        salt, content = clear[:32], clear[32:]
        if hmac.digest(salt, parts(b"subak.audit.commit.v1", content), "sha256") != row.pii_commit:
            raise ValueError
        said: dict[str, str] = json.loads(content)
        if name not in self._names(said, datetime.fromtimestamp(row.time_ms / 1000, UTC).strftime("%Y-%m")):
            raise ValueError
        return said

    def _record(self, number: bytes) -> tuple[bytes, bytes]:
        year, month = divmod(int.from_bytes(number[:2], "big"), 12)
        place = 96 * int.from_bytes(number[2:], "big")
        record = (self._folder / f"{year:04}-{month + 1:02}.keys").read_bytes()[place : place + 96]
        name, nonce, wrapped = record[:32], record[32:44], record[44:92]
        return name, AESGCM(b64decode(self.fields["wrapping_key"])).decrypt(nonce, wrapped, name)

    def _names(self, said: dict[str, str], month: str) -> Iterator[bytes]:
        """Give the names that a person has in a month: for ordinary rows and for evidence."""
        pepper = b64decode(self.fields["months"][month])
        person = [said.get(word, "").encode() for word in ("kind", "tenant", "subject")]
        for label in (b"subak.audit.subject.v1", b"subak.audit.subject.evidence.v1"):
            yield hmac.digest(pepper, parts(label, *person), "sha256")

    def query_hash(self, said: dict[str, str], day: str, question: str) -> str:
        """Give what a row of that day has of a question of the same caller."""
        person = [said.get(word, "").encode() for word in ("kind", "tenant", "subject")]
        content = parts(b"subak.audit.query.v1", *person, question.encode())
        return hmac.digest(b64decode(self.fields["days"][day]), content, "sha256").hex()
