"""For whom a flag is on. Decisions only: the clock's reading and the caller are passed in.

    #  asked in this order                                        answer  reason
    -  ---------------------------------------------------------  ------  ---------------
    1  the environment doesn't permit the flag                    off     environment
    2  an operator has switched it off                            off     switched_off
    3  the flags file says off to everybody                       off     file
    4  the caller is on the deny list                             off     denied
    5  the caller is on the allow list                            on      allowed
    6  it isn't time yet, or no longer                            off     not_yet, no_longer
    7  a targeting rule of the flags file says off to the caller  off     targeting
    8  the caller's bucket is past the percentage                 off     outside
    9  nothing of that                                            on      inside

Off always wins: the first three hold for everybody, whatever the lists say. The environment only permits, so a
roll-back works while it says true. The allow list goes before the percentage: internal testing begins at 0 %.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import blake2b
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated, Final

import msgspec
from msgspec import UNSET, UnsetType

from subak.core.errors import InvalidField, RequestError
from subak.core.principal import Caller

STREAMING: Final = "ENABLE_SSE_STREAMING"
KNOWN_FLAGS: Final = (STREAMING,)

BUCKETS: Final = 100_000
"""Buckets of a flag: one is a thousandth of a percent."""

MAX_ENTRIES: Final = 1_000
"""Most entries of an allow or deny list."""

_MAX_ENTRY_CHARS: Final = 256
_MAPPED_BITS: Final = 96
_PER_PERCENT: Final = BUCKETS // 100
_PRINCIPAL: Final = re.compile(r"[a-z]+:[^\x00-\x20\x7f]+")
_ENTRY: Final = "a principal such as user:42, or an address or network such as 10.0.0.0/8 without host bits"
_PERCENTAGE: Final = "a number from 0 to 100 with at most three decimals"


class UnknownFlag(RequestError):
    """There is no flag of this name."""

    code = "unknown_flag"
    http_status = 404

    def __init__(self) -> None:
        super().__init__(f"There is no such flag. Known: {', '.join(KNOWN_FLAGS)}.")


class Reason(StrEnum):
    """Why a flag is on or off for a caller: the rows of the table above."""

    ENVIRONMENT = "environment"
    SWITCHED_OFF = "switched_off"
    FILE = "file"
    DENIED = "denied"
    ALLOWED = "allowed"
    NOT_YET = "not_yet"
    NO_LONGER = "no_longer"
    TARGETING = "targeting"
    TARGETING_FAILED = "targeting_failed"
    """A targeting rule couldn't be evaluated for this caller: off."""
    OUTSIDE = "outside"
    INSIDE = "inside"


class FlagDecision(msgspec.Struct, frozen=True):
    """What holds for one caller. `arm`: the variant's name, `on` and `off` unless the flags file names others."""

    is_on: bool
    arm: str
    reason: Reason


class Overrides(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"is_off": "off"}):
    """What operators have set of one flag. `percentage` None: no gradual rollout, so everybody.

    `allow` and `deny`: principals' ids and address ranges. On from `not_before` until before `not_after`, in UTC.
    """

    is_off: bool = False
    percentage: Annotated[float, msgspec.Meta(ge=0, le=100)] | None = None
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    not_before: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    not_after: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


NOTHING_SET: Final = Overrides()


class OverridesIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"is_off": "off"}):
    """Those overrides that a request names, the others UNSET. A list is the whole list; null unsets."""

    is_off: bool | UnsetType = UNSET
    percentage: Annotated[float, msgspec.Meta(ge=0, le=100)] | UnsetType | None = UNSET
    allow: tuple[str, ...] | UnsetType = UNSET
    deny: tuple[str, ...] | UnsetType = UNSET
    not_before: Annotated[datetime, msgspec.Meta(tz=True)] | UnsetType | None = UNSET
    not_after: Annotated[datetime, msgspec.Meta(tz=True)] | UnsetType | None = UNSET

    def onto(self, before: Overrides) -> Overrides:
        """Give `before` with what is named here in place of what was there (RFC 7396)."""
        named = {name: value for name, value in msgspec.structs.asdict(self).items() if value is not UNSET}
        return msgspec.structs.replace(before, **named)

    def forgets(self, before: Overrides) -> list[str]:
        """Name what of `before` keeps callers out and isn't named here."""
        names = [name for name in self.__struct_fields__ if getattr(self, name) is UNSET and name != "allow"]
        return [name for name in names if getattr(before, name) != getattr(NOTHING_SET, name)]


def checked(overrides: Overrides) -> Overrides:
    """Give the same in normal form: entries sorted, each once, times in UTC.

    Raises:
        InvalidField: a value can't be.
    """
    if overrides.percentage is not None:
        share_of(overrides.percentage, "$.percentage")
    if overrides.not_before and overrides.not_after and overrides.not_before >= overrides.not_after:
        raise InvalidField("$.not_after", "a time after not_before")
    return msgspec.structs.replace(
        overrides,
        allow=_normal_entries(overrides.allow, "$.allow"),
        deny=_normal_entries(overrides.deny, "$.deny"),
        not_before=_in_utc(overrides.not_before, "$.not_before"),
        not_after=_in_utc(overrides.not_after, "$.not_after"),
    )


def _in_utc(time: datetime | None, path: str) -> datetime | None:
    try:
        return time and time.astimezone(UTC)
    except OverflowError:
        raise InvalidField(path, "a time that lies in the years 1 to 9999 in UTC too") from None


def share_of(percentage: float, path: str = "$.percentage") -> int:
    """Give how many of the buckets are inside a percentage.

    Raises:
        InvalidField: it isn't from 0 to 100, or finer than a bucket.
    """
    if not 0 <= percentage <= 100:  # noqa: PLR2004 - a percentage; False for NaN
        raise InvalidField(path, _PERCENTAGE)
    share = round(percentage * _PER_PERCENT)
    if abs(share - percentage * _PER_PERCENT) > 1e-6:  # noqa: PLR2004 - what a float loses, and far less than a bucket
        raise InvalidField(path, _PERCENTAGE)
    return share


def normal_entry(text: str) -> str:
    """Give an entry of an allow or deny list in its normal form: `192.0.2.7/32` is `192.0.2.7`.

    Raises:
        ValueError: it is neither a principal's id nor an address range; the text completes "expected …".
    """
    text = text.strip()
    try:
        network = _unmapped(ip_network(text))
    except ValueError:
        if len(text) <= _MAX_ENTRY_CHARS and _PRINCIPAL.fullmatch(text) and not _looks_like_address(text):
            return text
        raise ValueError(_ENTRY) from None
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


def _unmapped(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    """Give the IPv4 network that an IPv4-mapped IPv6 one stands for: callers' addresses are compared without that."""
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is None or network.prefixlen < _MAPPED_BITS:
        return network
    return IPv4Network((int(mapped), network.prefixlen - _MAPPED_BITS))


def _looks_like_address(text: str) -> bool:
    """Whether it was meant as one: a principal's kind is a word that no IPv6 address begins with."""
    return "::" in text and re.fullmatch(r"[0-9a-f:./]+", text) is not None


def _normal_entries(entries: tuple[str, ...], path: str) -> tuple[str, ...]:
    if len(entries) > MAX_ENTRIES:
        raise InvalidField(path, f"at most {MAX_ENTRIES} entries")
    normal: set[str] = set()
    for place, entry in enumerate(entries):
        try:
            normal.add(normal_entry(entry))
        except ValueError as error:
            raise InvalidField(f"{path}[{place}]", str(error)) from error
    return tuple(sorted(normal))


Address = IPv4Address | IPv6Address


class CallerList:
    """Principals and address ranges. A look-up costs a set look-up, and one per length of its networks' prefixes."""

    __slots__ = ("_ids", "_networks")

    def __init__(self, entries: Iterable[str]) -> None:
        """`entries` in normal form."""
        self._ids: set[str] = set()
        self._networks: dict[tuple[int, int], set[int]] = {}
        for entry in entries:
            try:
                network = ip_network(entry)
            except ValueError:
                self._ids.add(entry)
                continue
            host_bits = network.max_prefixlen - network.prefixlen
            self._networks.setdefault((network.version, host_bits), set()).add(
                int(network.network_address) >> host_bits
            )

    def __bool__(self) -> bool:
        return bool(self._ids or self._networks)

    @property
    def has_networks(self) -> bool:
        """Whether it looks at addresses."""
        return bool(self._networks)

    def holds(self, principal_id: str, address: Address | None) -> bool:
        """Whether the principal, or the address that it calls from, is on the list."""
        if principal_id in self._ids:
            return True
        if address is None or not self._networks:
            return False
        number = int(address)
        for (version, host_bits), networks in self._networks.items():
            if version == address.version and number >> host_bits in networks:
                return True
        return False


def parse_address(text: str) -> Address | None:
    """Give an address, an IPv4-mapped one as IPv4; None when it is none, as that of a Unix socket."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def sticky_key(caller: Caller, address: Address | None = None) -> str:
    """Give by what a caller stays in its bucket: its id, else its address, of IPv6 the /64 that one line has.

    `address`: the caller's, where it has been parsed already.
    """
    if caller.principal.id:
        return caller.principal.id
    if ":" not in caller.address:
        return caller.address
    address = address or parse_address(caller.address)
    if isinstance(address, IPv6Address):
        return f"{int(address) >> 64:016x}/64"
    return str(address or caller.address)


class Bucketing:
    """Puts callers into the buckets of one flag, 0..99 999.

    The same on every machine and after every restart, and independent from flag to flag: a hash of the sticky key,
    keyed by the flag's name. Who is inside a percentage is inside every larger one.
    """

    __slots__ = ("_hash",)

    def __init__(self, flag: str) -> None:
        self._hash = blake2b(digest_size=8, key=flag.encode())

    def bucket(self, key: str) -> int:
        """Give the bucket of a sticky key."""
        digest = self._hash.copy()
        digest.update(key.encode("utf-8", "surrogatepass"))
        return int.from_bytes(digest.digest()) * BUCKETS >> 64


Targeting = Callable[[], FlagDecision]
"""Evaluates the flags file's rule for the caller in question."""


@dataclass(frozen=True, slots=True)
class Rules:
    """All of a flag that stays the same from one change to the next. `closed`: the answer when it is off for everybody.

    `share`: buckets inside, of `BUCKETS`. Times in milliseconds since the epoch. `arm`: the name of being on.
    """

    closed: FlagDecision | None
    deny: CallerList
    allow: CallerList
    not_before_ms: int | None
    not_after_ms: int | None
    share: int
    arm: str
    bucketing: Bucketing

    @property
    def looks_at_addresses(self) -> bool:
        """Whether a list holds address ranges."""
        return self.deny.has_networks or self.allow.has_networks


@dataclass(frozen=True, slots=True)
class FileRule:
    """What the flags file says of a flag without looking at a caller. `arm`: the name of being on."""

    is_off: bool = False
    arm: str = "on"


def rules_for(flag: str, overrides: Overrides, *, is_permitted: bool, file: FileRule) -> Rules:
    """Put together what holds: `overrides` as `checked` gives them, `is_permitted` by the environment."""
    return Rules(
        closed=_closed(overrides, is_permitted=is_permitted, file=file),
        deny=CallerList(overrides.deny),
        allow=CallerList(overrides.allow),
        not_before_ms=_milliseconds(overrides.not_before),
        not_after_ms=_milliseconds(overrides.not_after),
        share=BUCKETS if overrides.percentage is None else share_of(overrides.percentage),
        arm=file.arm,
        bucketing=Bucketing(flag),
    )


def decide(rules: Rules, caller: Caller, now_ms: int, targeting: Targeting | None = None) -> FlagDecision:
    """Go through the table. `targeting` is asked only where the rows before it leave it open."""
    if rules.closed is not None:
        return rules.closed
    address = parse_address(caller.address) if rules.looks_at_addresses else None
    if rules.deny and rules.deny.holds(caller.principal.id, address):
        return _off(Reason.DENIED)
    if rules.allow and rules.allow.holds(caller.principal.id, address):
        return FlagDecision(is_on=True, arm=rules.arm, reason=Reason.ALLOWED)
    if rules.not_before_ms is not None and now_ms < rules.not_before_ms:
        return _off(Reason.NOT_YET)
    if rules.not_after_ms is not None and now_ms >= rules.not_after_ms:
        return _off(Reason.NO_LONGER)
    targeted = targeting() if targeting is not None else None
    if targeted is not None and not targeted.is_on:
        return targeted
    if rules.share < BUCKETS and rules.bucketing.bucket(sticky_key(caller, address)) >= rules.share:
        return _off(Reason.OUTSIDE)
    return FlagDecision(is_on=True, arm=targeted.arm if targeted else rules.arm, reason=Reason.INSIDE)


def _closed(overrides: Overrides, *, is_permitted: bool, file: FileRule) -> FlagDecision | None:
    if not is_permitted:
        return _off(Reason.ENVIRONMENT)
    if overrides.is_off:
        return _off(Reason.SWITCHED_OFF)
    return _off(Reason.FILE) if file.is_off else None


def _off(reason: Reason) -> FlagDecision:
    return FlagDecision(is_on=False, arm="off", reason=reason)


def _milliseconds(time: datetime | None) -> int | None:
    return None if time is None else round(time.timestamp() * 1000)
