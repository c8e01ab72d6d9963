"""Where a request comes from: what proxies write, and what callers try (fault matrix, rows 50 and 51)."""

import time
from ipaddress import ip_address
from itertools import pairwise

import pytest

from subak.admission.client_ip import MAX_HOPS, ClientAddress, ClientAddresses, Networks, parse_address, parse_node

PROXIES = ("10.0.0.0/8", "2001:db8:ffff::/48")
PROXY = "10.0.0.1"
CALLER = "203.0.113.9"
FORGED = "198.51.100.66"


def through_proxy(*, forwarded: tuple[str, ...] = (), x_forwarded_for: tuple[str, ...] = ()) -> str:
    found = ClientAddresses(PROXIES).find(PROXY, forwarded=forwarded, x_forwarded_for=x_forwarded_for)
    assert found.is_behind_trusted_proxy
    assert not found.looks_forgotten
    return found.address


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        (CALLER, CALLER),
        ("2001:DB8::0:9", "2001:db8::9"),
        ("::ffff:203.0.113.9", CALLER),
        ("::ffff:cb00:7109", CALLER),
        ("fe80::1%eth0", "fe80::1"),
        ("", ""),
        (None, ""),
        ("/run/subak.sock", ""),
        ("x" * 1_000_000, ""),
    ],
    ids=["v4", "v6", "mapped", "mapped in hex", "zone", "no address", "no peer", "unix socket", "very long"],
)
def test_without_a_header_the_peer_is_the_caller(peer: str | None, address: str) -> None:
    assert ClientAddresses(PROXIES).find(peer) == ClientAddress(address)


@pytest.mark.parametrize("peer", [PROXY, "::ffff:10.0.0.1", "2001:db8:ffff::1", "2001:db8:ffff::1%eth0"])
def test_a_trusted_proxy_is_known_in_every_notation(peer: str) -> None:
    found = ClientAddresses(PROXIES).find(peer, x_forwarded_for=(CALLER,))
    assert found == ClientAddress(CALLER, is_behind_trusted_proxy=True)


def test_a_network_may_be_given_mapped() -> None:
    addresses = ClientAddresses(("::ffff:10.0.0.0/104",))
    assert addresses.find(PROXY).is_behind_trusted_proxy
    assert not addresses.find("11.0.0.1").is_behind_trusted_proxy
    assert not addresses.find("::a00:1").is_behind_trusted_proxy


@pytest.mark.parametrize(
    ("lines", "address"),
    [
        ((CALLER,), CALLER),
        ((f"{FORGED}, {CALLER}",), CALLER),
        ((f"{FORGED},{CALLER},10.0.0.2 ,\t10.9.9.9",), CALLER),
        ((FORGED, CALLER), CALLER),
        ((f"{FORGED}, {CALLER}", "10.0.0.2"), CALLER),
        ((f"{CALLER}:4711",), CALLER),
        (("2001:db8::9",), "2001:db8::9"),
        (("[2001:db8::9]",), "2001:db8::9"),
        (("[2001:db8::9]:4711",), "2001:db8::9"),
        (("[::ffff:203.0.113.9]:4711",), CALLER),
        (("fe80::1%eth0",), "fe80::1"),
        (("[fe80::1%25eth0]:80",), "fe80::1"),
        (("10.0.0.3, 10.0.0.2",), "10.0.0.3"),
    ],
)
def test_x_forwarded_for_is_read_from_the_right_to_the_first_untrusted_hop(
    lines: tuple[str, ...], address: str
) -> None:
    assert through_proxy(x_forwarded_for=lines) == address


@pytest.mark.parametrize(
    ("lines", "address"),
    [
        ((f"for={CALLER}",), CALLER),
        ((f"For={CALLER};proto=https;by=10.0.0.1",), CALLER),
        ((f"by=10.0.0.1; FOR={CALLER} ;host=example.org",), CALLER),
        ((f'for="{CALLER}:4711"',), CALLER),
        (('for="[2001:db8::9]"',), "2001:db8::9"),
        (('for="[2001:db8::9]:_port"',), "2001:db8::9"),
        (('for="[2001:\\db8::9]"',), "2001:db8::9"),
        ((f"for={FORGED}, for={CALLER}, for=10.0.0.2",), CALLER),
        ((f"for={FORGED}", f"for={CALLER}"), CALLER),
        ((f", ,for={FORGED},, for={CALLER} , ",), CALLER),
        ((f'for={FORGED};ext="a, for=1.1.1.1;\\"", for={CALLER}',), CALLER),
        ((f"for=unknown, for={CALLER}",), CALLER),
    ],
)
def test_forwarded_is_read_by_its_grammar(lines: tuple[str, ...], address: str) -> None:
    assert through_proxy(forwarded=lines) == address


@pytest.mark.parametrize(
    "value",
    [
        "unknown",
        "_hidden",
        "",
        "example.org",
        "203.0.113",
        "203.0.113.09",
        "256.1.1.1",
        "1",
        "0x7f.1",
        "[203.0.113.9",
        "203.0.113.9:",
        "203.0.113.9:123456",
        "::1::1",
        "2001:db8::9:x",
        "[]",
        "%eth0",
        "203.0.113.9%eth0",
        "a" * 5_000,
    ],
)
def test_a_hop_that_names_no_address_ends_the_trail_at_the_proxy_that_vouched(value: str) -> None:
    assert through_proxy(x_forwarded_for=(f"{FORGED}, {value}",)) == PROXY
    assert through_proxy(x_forwarded_for=(f"{FORGED}, {value}, 10.0.0.2",)) == "10.0.0.2"
    assert through_proxy(forwarded=(f'for={FORGED}, for="{value}", for=10.0.0.2',)) == "10.0.0.2"


@pytest.mark.parametrize(
    "line",
    [
        f'for={FORGED};x=", for={CALLER}',
        f'x="\\", for={CALLER}',
        f"for={FORGED} for={CALLER}",
        f"for = {CALLER}",
        f"for={CALLER};for={FORGED}",
        f"for={CALLER};FOR={FORGED}",
        "for=[2001:db8::9]",
        f"for={CALLER};=x",
        f"for={CALLER};host",
        f"for={CALLER};host=exämple.org",
    ],
)
def test_a_malformed_forwarded_is_not_believed(line: str) -> None:
    assert through_proxy(forwarded=(line,)) == PROXY


def test_an_element_without_for_ends_the_trail() -> None:
    assert through_proxy(forwarded=(f"for={FORGED}, proto=https, for=10.0.0.2",)) == "10.0.0.2"


@pytest.mark.parametrize("peer", [CALLER, "2001:db8::9"])
def test_a50_headers_of_an_untrusted_peer_are_ignored(peer: str) -> None:
    found = ClientAddresses(PROXIES).find(peer, forwarded=(f"for={FORGED}",), x_forwarded_for=(FORGED,))
    assert found == ClientAddress(peer)


def test_a50_nothing_is_believed_by_default() -> None:
    assert ClientAddresses(()).find(CALLER, x_forwarded_for=(FORGED,)).address == CALLER


@pytest.mark.parametrize(
    ("forwarded", "x_forwarded_for"),
    [((f"for={FORGED}",), (CALLER,)), ((f"for={CALLER}",), (FORGED,)), (("garbage",), (CALLER,))],
)
def test_a50_two_headers_that_disagree_are_not_believed(
    forwarded: tuple[str, ...], x_forwarded_for: tuple[str, ...]
) -> None:
    assert through_proxy(forwarded=forwarded, x_forwarded_for=x_forwarded_for) == PROXY


def test_two_headers_that_agree_are_believed() -> None:
    assert through_proxy(forwarded=(f"for={CALLER}",), x_forwarded_for=(f"{FORGED}, {CALLER}",)) == CALLER


def test_a51_rotating_the_header_changes_nothing() -> None:
    direct, proxied = ClientAddresses(()), ClientAddresses(PROXIES)
    forged = [f"198.51.{number // 256}.{number % 256}" for number in range(10_000)]
    assert {direct.find(CALLER, x_forwarded_for=(one,)).address for one in forged} == {CALLER}
    assert {proxied.find(PROXY, x_forwarded_for=(f"{one}, {CALLER}",)).address for one in forged} == {CALLER}


@pytest.mark.parametrize(
    ("peer", "looks_forgotten"),
    [
        ("10.1.2.3", True),
        ("172.31.0.1", True),
        ("192.168.1.1", True),
        ("100.64.0.1", True),
        ("127.0.0.1", True),
        ("169.254.1.1", True),
        ("::1", True),
        ("fd00::1", True),
        ("fe80::1%eth0", True),
        ("::ffff:10.1.2.3", True),
        (CALLER, False),
        ("172.32.0.1", False),
        ("2001:db8::1", False),
        ("", False),
    ],
)
def test_a_forwarded_address_from_an_untrusted_private_peer_looks_like_a_forgotten_proxy(
    peer: str, *, looks_forgotten: bool
) -> None:
    addresses = ClientAddresses(())
    assert addresses.find(peer, x_forwarded_for=(CALLER,)).looks_forgotten is looks_forgotten
    assert addresses.find(peer, forwarded=(f"for={CALLER}",)).looks_forgotten is looks_forgotten
    assert not addresses.find(peer).looks_forgotten


def test_only_so_many_hops_are_followed() -> None:
    hops = [f"10.0.1.{number}" for number in range(MAX_HOPS)]
    assert through_proxy(x_forwarded_for=(", ".join([CALLER, *hops[1:]]),)) == CALLER
    assert through_proxy(x_forwarded_for=(", ".join([CALLER, *hops]),)) == hops[0]
    assert through_proxy(x_forwarded_for=(CALLER, *hops)) == hops[0]
    assert through_proxy(forwarded=(", ".join(f"for={hop}" for hop in [CALLER, *hops]),)) == hops[0]


@pytest.mark.parametrize(
    "piece", [",", ";", '"', "for=10.0.0.2,", "10.0.0.2,", " ", "\\", 'a="', "=", "for=", "[", "%"]
)
def test_a_huge_header_costs_little(piece: str) -> None:
    huge = (piece * (1_000_000 // len(piece)), CALLER)
    times = [time.thread_time()]
    for _ in range(3):
        found = {through_proxy(x_forwarded_for=huge), through_proxy(forwarded=huge), through_proxy(forwarded=huge[:1])}
        assert found <= {CALLER, PROXY}
        times.append(time.thread_time())
    assert min(after - before for before, after in pairwise(times)) < 0.25, "a few copies of a megabyte, no more"


def test_networks_hold_single_addresses_and_every_prefix() -> None:
    networks = Networks(("192.0.2.1", "10.0.0.0/8", "::/0"))
    assert ip_address("192.0.2.1") in networks
    assert ip_address("192.0.2.2") not in networks
    assert ip_address("10.255.255.255") in networks
    assert ip_address("2001:db8::1") in networks
    assert ip_address("10.0.0.1") not in Networks(())


def test_parsing_takes_addresses_only() -> None:
    assert parse_address("203.0.113.9:80") is None
    assert parse_node("203.0.113.9:80") == ip_address(CALLER)
