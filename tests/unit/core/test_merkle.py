"""The tree of RFC 6962: known answers, and proofs against the definition in §2.1."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subak.core.merkle import (
    EMPTY_ROOT,
    CompactRange,
    MalformedRange,
    check_consistency,
    check_inclusion,
    consistency_path,
    hash_spans,
    inclusion_path,
    leaf_hash,
    node_hash,
)

# The eight leaves and their roots, by size, with which RFC 6962's implementations are tested.
LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSION_OF_5_IN_8 = [
    "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
]
CONSISTENCY_OF_6_AND_8 = [
    "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
    "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
]
HASHES = [leaf_hash(bytes.fromhex(leaf)) for leaf in LEAVES]
sizes = st.integers(0, 70)


def by_definition(leaves: Sequence[bytes]) -> bytes:
    """Give the root as §2.1 defines it."""
    if not leaves:
        return EMPTY_ROOT
    if len(leaves) == 1:
        return leaves[0]
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return node_hash(by_definition(leaves[:half]), by_definition(leaves[half:]))


def tree_of(leaves: Sequence[bytes]) -> CompactRange:
    tree = CompactRange()
    for leaf in leaves:
        tree.append(leaf)
    return tree


def some_leaves(count: int) -> list[bytes]:
    return [leaf_hash(number.to_bytes(2)) for number in range(count)]


@pytest.mark.parametrize("size", range(9))
def test_roots_are_the_known_ones(size: int) -> None:
    assert tree_of(HASHES[:size]).root().hex() == ROOTS[size]


def test_proofs_are_the_known_ones() -> None:
    nothing = CompactRange()
    assert [one.hex() for one in hash_spans(inclusion_path(5, 8), nothing, HASHES)] == INCLUSION_OF_5_IN_8
    assert [one.hex() for one in hash_spans(consistency_path(6, 8), nothing, HASHES)] == CONSISTENCY_OF_6_AND_8


@given(size=sizes)
def test_a_compact_range_has_the_root_of_the_definition(size: int) -> None:
    tree = tree_of(some_leaves(size))
    assert tree.root() == by_definition(some_leaves(size))
    assert len(tree.hashes) == size.bit_count()


@given(size=sizes, more=sizes)
def test_a_tree_goes_on_from_what_was_kept_of_it(size: int, more: int) -> None:
    leaves = some_leaves(size + more)
    kept = CompactRange.from_bytes(size, tree_of(leaves[:size]).to_bytes())
    grown = kept.copy()
    for leaf in leaves[size:]:
        grown.append(leaf)
    assert (grown.size, grown.root()) == (size + more, by_definition(leaves))
    assert kept.size == size


@given(size=st.integers(1, 70), data=st.data())
def test_every_leaf_is_proven_and_nothing_else(size: int, data: st.DataObject) -> None:
    leaves = some_leaves(size)
    index = data.draw(st.integers(0, size - 1))
    pruned = data.draw(st.integers(0, index))
    proof = hash_spans(inclusion_path(index, size), tree_of(leaves[:pruned]), leaves[pruned:])
    root = by_definition(leaves)
    assert check_inclusion(leaves[index], index, size, proof, root)
    assert not check_inclusion(leaf_hash(b"other"), index, size, proof, root)
    assert not check_inclusion(leaves[index], index, size, proof, leaf_hash(b"other"))
    assert not check_inclusion(leaves[index], index, size, [*proof, root], root)
    assert not check_inclusion(leaves[index], size, size, proof, root)
    for place in range(len(proof)):
        changed = [*proof[:place], leaf_hash(b"other"), *proof[place + 1 :]]
        assert not check_inclusion(leaves[index], index, size, changed, root)


@given(new_size=st.integers(0, 70), data=st.data())
def test_growth_is_proven_and_rewriting_is_not(new_size: int, data: st.DataObject) -> None:
    leaves = some_leaves(new_size)
    old_size = data.draw(st.integers(0, new_size))
    pruned = data.draw(st.integers(0, old_size))
    old_root, new_root = by_definition(leaves[:old_size]), by_definition(leaves)
    proof = hash_spans(consistency_path(old_size, new_size), tree_of(leaves[:pruned]), leaves[pruned:])
    assert check_consistency(old_size, new_size, old_root, new_root, proof)
    assert not check_consistency(old_size, new_size, leaf_hash(b"other"), new_root, proof)
    assert not check_consistency(old_size, new_size, old_root, new_root, [*proof, new_root])
    assert not check_consistency(new_size + 1, new_size, old_root, new_root, proof)
    if 0 < old_size < new_size:
        assert not check_consistency(old_size, new_size, old_root, leaf_hash(b"other"), proof)
        assert not check_consistency(old_size, new_size, old_root, new_root, proof[:-1])


@pytest.mark.parametrize(("size", "hashes"), [(3, [bytes(32)]), (0, [bytes(32)]), (1, [bytes(31)]), (-1, [])])
def test_hashes_that_are_no_compact_range_are_refused(size: int, hashes: list[bytes]) -> None:
    with pytest.raises(MalformedRange):
        CompactRange.from_bytes(size, b"".join(hashes))
