"""The Merkle tree of RFC 6962 §2.1: hashing, compact ranges, inclusion and consistency proofs.

A tree of n leaves is kept as its *compact range*: the roots of the perfect subtrees that n's binary form names, from
left to right, at most 64. From it follow the root and every later root; the leaves are needed only for proofs.
Leaves count from 0. All hashes are SHA-256, 32 bytes.
"""

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = sha256(b"").digest()


class MalformedRange(ValueError):
    """The bytes aren't the compact range of a tree of that size."""


class Span(NamedTuple):
    """The subtree over leaves `start` (counted) to `stop` (not counted)."""

    start: int
    stop: int


def leaf_hash(content: bytes) -> bytes:
    """Give the hash of one leaf."""
    return sha256(b"\x00" + content).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Give the hash of an inner node."""
    return sha256(b"\x01" + left + right).digest()


class CompactRange:
    """A tree that only grows. `hashes` are its perfect subtrees' roots, the widest first; never more than 64."""

    __slots__ = ("hashes", "size")

    def __init__(self, size: int = 0, hashes: Iterable[bytes] = ()) -> None:
        """`size` in leaves; `hashes` as many as `size` has bits set.

        Raises:
            MalformedRange: they are not.
        """
        self.size = size
        self.hashes = list(hashes)
        if size < 0 or len(self.hashes) != size.bit_count() or any(len(one) != HASH_BYTES for one in self.hashes):
            raise MalformedRange(f"{len(self.hashes)} hashes are no compact range of {size} leaves")

    @classmethod
    def from_bytes(cls, size: int, joined: bytes) -> "CompactRange":
        """Read what `to_bytes` wrote. Raises: MalformedRange."""
        return cls(size, (joined[at : at + HASH_BYTES] for at in range(0, len(joined), HASH_BYTES)))

    def to_bytes(self) -> bytes:
        """Give the hashes, joined; the size stands elsewhere."""
        return b"".join(self.hashes)

    def copy(self) -> "CompactRange":
        """Give a tree that grows on its own."""
        copy = CompactRange()
        copy.size = self.size
        copy.hashes = self.hashes.copy()
        return copy

    def append(self, leaf: bytes) -> None:
        """Add one leaf, by its hash. One node hash on average."""
        position = self.size
        while position & 1:
            leaf = sha256(b"\x01" + self.hashes.pop() + leaf).digest()
            position >>= 1
        self.hashes.append(leaf)
        self.size += 1

    def append_subtree(self, root: bytes, width: int) -> None:
        """Add a perfect subtree of `width` leaves; `size` must be a multiple of `width`, which is a power of two."""
        assert self.size % width == 0, "a subtree stands at a multiple of its width"
        position = self.size // width
        while position & 1:
            root = node_hash(self.hashes.pop(), root)
            position >>= 1
        self.hashes.append(root)
        self.size += width

    def root(self) -> bytes:
        """Give the tree's root hash."""
        if not self.hashes:
            return EMPTY_ROOT
        folded = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            folded = node_hash(left, folded)
        return folded

    def spans(self) -> Iterator[tuple[Span, bytes]]:
        """Give each perfect subtree with its root, from left to right."""
        start = 0
        for root in self.hashes:
            width = 1 << ((self.size - start).bit_length() - 1)
            yield Span(start, start + width), root
            start += width


def inclusion_path(index: int, size: int) -> list[Span]:
    """Give the subtrees whose hashes prove that leaf `index` is in a tree of `size` (RFC 6962 §2.1.1), lowest first."""
    path: list[Span] = []
    start, stop = 0, size
    while stop - start > 1:
        middle = start + _split(stop - start)
        if index < middle:
            path.append(Span(middle, stop))
            stop = middle
        else:
            path.append(Span(start, middle))
            start = middle
    return path[::-1]


def consistency_path(old_size: int, new_size: int) -> list[Span]:
    """Give the subtrees whose hashes prove that a tree is an older one, grown (RFC 6962 §2.1.2), lowest first."""
    if old_size in {0, new_size}:
        return []
    path: list[Span] = []
    start, stop = 0, new_size
    while stop != old_size:
        middle = start + _split(stop - start)
        if old_size <= middle:
            path.append(Span(middle, stop))
            stop = middle
        else:
            path.append(Span(start, middle))
            start = middle
    if start > 0:
        path.append(Span(start, stop))
    return path[::-1]


def hash_spans(spans: Sequence[Span], known: CompactRange, leaves: Iterable[bytes]) -> list[bytes]:
    """Give the hash of each span in one pass over the leaves.

    `known` stands for leaves that are no longer kept; `leaves` are the hashes of those after it, in order. No span may
    begin or end inside one of `known`'s subtrees, which holds for every proof about a leaf or a size past it.
    """
    parts = {span: CompactRange() for span in spans}
    for subtree, root in known.spans():
        for span, part in parts.items():
            if span.start <= subtree.start and subtree.stop <= span.stop:
                part.append_subtree(root, subtree.stop - subtree.start)
    for index, leaf in enumerate(leaves, known.size):
        for span, part in parts.items():
            if span.start <= index < span.stop:
                part.append(leaf)
    return [parts[span].root() for span in spans]


def check_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether the proof shows `leaf` at `index` of the tree with that size and root."""
    if not 0 <= index < size:
        return False
    path = inclusion_path(index, size)
    if len(path) != len(proof):
        return False
    folded = leaf
    for span, sibling in zip(path, proof, strict=True):
        folded = node_hash(sibling, folded) if span.stop <= index else node_hash(folded, sibling)
    return folded == root


def check_consistency(old_size: int, new_size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the proof shows that the newer tree begins with the whole older one."""
    if not 0 <= old_size <= new_size:
        return False
    if old_size == 0:
        return not proof and old_root == EMPTY_ROOT
    if old_size == new_size:
        return not proof and old_root == new_root
    path = consistency_path(old_size, new_size)
    if len(path) != len(proof):
        return False
    steps = list(zip(path, proof, strict=True))
    # Where the older tree is one whole subtree of the newer one, the proof begins with its root, which both sides know.
    if steps[0][0].stop == old_size:
        folded_old = folded_new = steps.pop(0)[1]
    else:
        folded_old = folded_new = old_root
    for span, sibling in steps:
        if span.start >= old_size:
            folded_new = node_hash(folded_new, sibling)
        else:
            folded_old = node_hash(sibling, folded_old)
            folded_new = node_hash(sibling, folded_new)
    return folded_old == old_root and folded_new == new_root


def _split(width: int) -> int:
    """Give the largest power of two below `width`, which is over 1."""
    return 1 << ((width - 1).bit_length() - 1)
