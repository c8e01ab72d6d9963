"""A caller behind trusted proxies has one address, whatever it writes into the headers that they add to."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subak.admission.client_ip import Address, ClientAddresses, Networks, parse_node

pytestmark = pytest.mark.timeout(300)

PROXY = "10.0.0.1"
TRUSTED = ("10.0.0.0/8", "fd00:7::/32")
ADDRESSES = ClientAddresses(TRUSTED)
NETWORKS = Networks(TRUSTED)

callers = st.ip_addresses().filter(lambda address: address not in NETWORKS and not _is_mapped(address))
proxies = st.one_of(
    st.integers(0, 0xFFFFFF).map(lambda host: IPv4Address(0x0A000000 + host)), st.just(IPv6Address("fd00:7::1"))
)
forged = st.one_of(
    st.text(st.sampled_from('for=by;,"\\[]:. \t1.29a_%unknow'), max_size=60),
    st.text(max_size=60),
    st.lists(st.ip_addresses().map(str), max_size=5).map(", ".join),
    st.lists(st.ip_addresses().map(lambda address: f'for="{address}"'), max_size=5).map(", ".join),
)


def _is_mapped(address: Address) -> bool:
    return isinstance(address, IPv6Address) and address.ipv4_mapped is not None


def notations(address: Address) -> list[str]:
    """Give the ways to write an address into X-Forwarded-For, or into quotes."""
    if isinstance(address, IPv4Address):
        bare = [str(address), f"::ffff:{address}", f"::FFFF:{address}"]
    else:
        bare = [
            f"{text}{zone}" for text in (str(address), address.exploded.upper()) for zone in ("", "%eth0", "%25en1")
        ]
    with_port = [f"{address}:80"] if isinstance(address, IPv4Address) else []
    return bare + with_port + [f"[{text}]{port}" for text in bare for port in ("", ":1", ":_x") if ":" in text]


def nodes(address: Address) -> st.SearchStrategy[str]:
    return st.sampled_from(notations(address))


def elements(address: Address) -> st.SearchStrategy[str]:
    """A way to write an address into Forwarded."""
    forms = ('for="{}"', 'proto=https;For="{}"', 'by="[::1]:80";for="{}";x="a,\\"b"')
    return st.sampled_from([form.format(node) for form in forms for node in notations(address)])


@given(st.data(), st.ip_addresses())
def test_every_notation_of_an_address_is_the_same_address(data: st.DataObject, address: Address) -> None:
    plain = address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
    assert parse_node(data.draw(nodes(plain))) == plain


@given(callers, forged, forged)
def test_no_header_moves_an_untrusted_peer(caller: Address, first: str, second: str) -> None:
    found = ADDRESSES.find(str(caller), forwarded=(first,), x_forwarded_for=(second,))
    assert found.address == str(caller)
    assert not found.is_behind_trusted_proxy


@given(st.data(), callers, st.lists(proxies, max_size=3), forged)
def test_x_forwarded_for_leads_to_the_caller_whatever_it_wrote(
    data: st.DataObject, caller: Address, hops: list[Address], before: str
) -> None:
    added = [data.draw(nodes(hop)) for hop in (caller, *hops)]
    joined = (", ".join([before, *added]),)
    apart = (before, *added)
    for lines in (joined, apart):
        assert ADDRESSES.find(PROXY, x_forwarded_for=lines).address == str(caller)


@given(st.data(), callers, st.lists(proxies, max_size=3), forged)
def test_forwarded_leads_to_the_caller_or_is_not_believed(
    data: st.DataObject, caller: Address, hops: list[Address], before: str
) -> None:
    added = [data.draw(elements(hop)) for hop in (caller, *hops)]
    assert ADDRESSES.find(PROXY, forwarded=added).address == str(caller)
    assert ADDRESSES.find(PROXY, forwarded=(before, *added)).address in {str(caller), PROXY}


@given(st.data(), callers, forged)
def test_the_header_that_the_proxy_does_not_write_moves_nobody(data: st.DataObject, caller: Address, own: str) -> None:
    believed = {str(caller), PROXY}
    written = (data.draw(nodes(caller)),)
    assert ADDRESSES.find(PROXY, forwarded=(own,), x_forwarded_for=written).address in believed
    written = (data.draw(elements(caller)),)
    assert ADDRESSES.find(PROXY, forwarded=written, x_forwarded_for=(own,)).address in believed


@given(st.text(), st.lists(st.text(), max_size=3), st.lists(st.text(), max_size=3))
def test_nothing_that_comes_raises(peer: str, forwarded: list[str], x_forwarded_for: list[str]) -> None:
    ADDRESSES.find(peer, forwarded=forwarded, x_forwarded_for=x_forwarded_for)
    ADDRESSES.find(PROXY, forwarded=forwarded, x_forwarded_for=x_forwarded_for)
