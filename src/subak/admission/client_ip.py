"""Where a request comes from, as far as trusted proxies tell. Pure but for a bounded cache of peers.

A header that forwards addresses is a trail: each proxy adds on the right whom it got the request from, and everything
further left came with that request, so anybody may have written it. It is read from the right. Each hop is believed
because the one after it is trusted, and the first that isn't trusted is the caller. What can't be read ends the trail
at the last hop that was vouched for.

Two headers do this, `Forwarded` (RFC 7239) and `X-Forwarded-For`, and nothing says which of them the proxy in front
writes; the other passes through it as the caller made it. So when both came they must lead to the same address: if not,
neither is believed and the caller is the proxy itself, an account that only such requests share.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import chain, islice
from typing import Final, TypeAlias

import msgspec

Address: TypeAlias = IPv4Address | IPv6Address

MAX_HOPS: Final = 32
"""Addresses of a trail that are looked at, from the right."""
MAX_FORWARDED_CHARS: Final = 8_192
MAX_FORWARDED_PAIRS: Final = 128
"""A `Forwarded` with more isn't read: unlike the other it can't be taken apart from the right, for it has quotes."""

_KEPT_PEERS: Final = 4_096
_MAX_NODE_CHARS: Final = 128
_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_PRIVATE: Final = (
    *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
    *("::1", "fc00::/7", "fe80::/10"),
)
_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_PAIR: Final = re.compile(rf'[ \t]*+(?:({_TOKEN})=({_TOKEN}|"(?:[^"\\]|\\.)*+"))?[ \t]*+(;|,|\Z)', re.DOTALL)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_NODE: Final = re.compile(
    r"(?:\[([0-9A-Fa-f:.]+(?:%[^\]]*)?)\]|([0-9.]+))(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?|([0-9A-Fa-f:.]+(?:%.*)?)"
)


class ClientAddress(msgspec.Struct, frozen=True):
    """Where a request comes from.

    `address`: without port and zone, IPv4 also where it came mapped into IPv6; "" when the peer has none.
    `is_behind_trusted_proxy`: the peer is one, so that what it says in other headers may be believed too.
    `looks_forgotten`: an untrusted peer in a private network forwards addresses, so it is most likely the host's own
    proxy, and all who come through it share one account.
    """

    address: str
    is_behind_trusted_proxy: bool = False
    looks_forgotten: bool = False


class Networks:
    """A set of addresses, given by networks. Looking one up costs one step for each different prefix length."""

    __slots__ = ("_masks",)

    def __init__(self, networks: Iterable[str]) -> None:
        """`networks` as in `10.0.0.0/8`, without host bits; an address alone is one too. IPv4 may come mapped."""
        self._masks: dict[tuple[int, int], set[int]] = {}
        for network in map(_unmapped_network, networks):
            mask = network.version, int(network.netmask)
            self._masks.setdefault(mask, set()).add(int(network.network_address))

    def __contains__(self, address: Address) -> bool:
        """Whether one of the networks has `address`, which isn't mapped."""
        number = int(address)
        return any(
            version == address.version and number & mask in starts for (version, mask), starts in self._masks.items()
        )


class ClientAddresses:
    """Finds the address of each request."""

    def __init__(self, trusted_proxies: Iterable[str]) -> None:
        """`trusted_proxies` are networks; none means that no header is believed."""
        self._trusted = Networks(trusted_proxies)
        self._private = Networks(_PRIVATE)
        self._peer = lru_cache(_KEPT_PEERS)(self._read_peer)

    def find(
        self, peer: str | None, *, forwarded: Sequence[str] = (), x_forwarded_for: Sequence[str] = ()
    ) -> ClientAddress:
        """Give the caller's address; `peer` is the socket's, the others are the lines of these headers as they came.

        Never raises. Work is bounded by the lengths above, whatever the headers hold.
        """
        direct, address = self._peer(peer or "")
        if address is None or not (forwarded or x_forwarded_for):
            return direct
        if not direct.is_behind_trusted_proxy:
            return ClientAddress(direct.address, looks_forgotten=address in self._private)
        return ClientAddress(str(self._believed(address, forwarded, x_forwarded_for)), is_behind_trusted_proxy=True)

    def _read_peer(self, peer: str) -> tuple[ClientAddress, Address | None]:
        address = parse_address(peer)
        if address is None:
            return ClientAddress(""), None
        return ClientAddress(str(address), is_behind_trusted_proxy=address in self._trusted), address

    def _believed(self, peer: Address, forwarded: Sequence[str], x_forwarded_for: Sequence[str]) -> Address:
        if not forwarded:
            return self._walk(peer, _x_forwarded_for_nodes(x_forwarded_for))
        if not x_forwarded_for:
            return self._walk(peer, _forwarded_nodes(forwarded))
        found = self._walk(peer, _x_forwarded_for_nodes(x_forwarded_for))
        return found if found == self._walk(peer, _forwarded_nodes(forwarded)) else peer

    def _walk(self, peer: Address, nodes: Iterable[str]) -> Address:
        """Follow the trail (nearest node first) from a trusted peer to the first hop that isn't."""
        vouched_for = peer
        for node in islice(nodes, MAX_HOPS):
            address = parse_node(node)
            if address is None:
                return vouched_for
            vouched_for = address
            if address not in self._trusted:
                return vouched_for
        return vouched_for


def parse_address(text: str) -> Address | None:
    """Read an address without a port: mapped IPv4 becomes IPv4, a zone is dropped. None if it is none."""
    if len(text) > _MAX_NODE_CHARS:
        return None
    try:
        address = ip_address(text.partition("%")[0] if ":" in text else text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def parse_node(text: str) -> Address | None:
    """Read a hop: an address, with a port or not, IPv6 in brackets or (without port) bare. None if it names none."""
    if len(text) > _MAX_NODE_CHARS:
        return None
    found = _NODE.fullmatch(text)
    return None if found is None else parse_address(found[1] or found[2] or found[3])


def _x_forwarded_for_nodes(lines: Sequence[str]) -> Iterator[str]:
    """Give the entries from the last to the first; only the tail of a long line is taken apart."""
    entries = chain.from_iterable(reversed(line.rsplit(",", MAX_HOPS)) for line in reversed(lines))
    return (entry.strip(" \t") for entry in entries)


def _forwarded_nodes(lines: Sequence[str]) -> Sequence[str]:
    """Give each element's `for` from the last to the first, "" for one without; none if the field is malformed."""
    text = ",".join(lines)
    nodes: list[str] = []
    element: dict[str, str] = {}
    at = 0
    for _ in range(MAX_FORWARDED_PAIRS if len(text) <= MAX_FORWARDED_CHARS else 0):
        found = _PAIR.match(text, at)
        if found is None or (found[1] or "").lower() in element:
            return ()
        if found[1]:
            element[found[1].lower()] = found[2]
        if element and found[3] != ";":
            nodes.append(_unquoted(element.get("for", "")))
            element = {}
        if not found[3]:
            return nodes[::-1]
        at = found.end()
    return ()


def _unquoted(value: str) -> str:
    return _ESCAPED.sub(r"\1", value[1:-1]) if value.startswith('"') else value


def _unmapped_network(text: str) -> IPv4Network | IPv6Network:
    network = ip_network(text)
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        start = IPv4Address(int(network.network_address) & 0xFFFF_FFFF)
        return IPv4Network((start, network.prefixlen - _MAPPED.prefixlen))
    return network
