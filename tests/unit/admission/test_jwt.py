"""Tokens: which ones hold, and for what reason the others don't. Made by `joserfc`, judged by ours."""

import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from hmac import new as hmac
from typing import Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subak.admission.jwks import KeySet, usable_entries
from subak.admission.jwt import SharedSecret, TokenRules, TokenVerifier, VerifyingKey
from subak.admission.reasons import Reason
from subak.core.errors import Unauthenticated
from subak.core.principal import Claims, Principal
from subak.testing import FakeClock
from tests.issuer import (
    AUDIENCE,
    CLAIMS,
    ISSUER,
    NOW_S,
    SECRET,
    Key,
    ec_key,
    ed_key,
    published,
    rsa_key,
    secret_key,
    signed,
)

RSA: Final = rsa_key()
STRANGER: Final = rsa_key()
SHARED: Final = secret_key()


class Published:
    """The keys of a set, without the network."""

    revision = 0

    def __init__(self, *keys: Key, algorithms: tuple[str, ...]) -> None:
        body = msgspec.json.encode({"keys": published(*keys)})
        self.keys = KeySet(usable_entries(body, frozenset(algorithms)))

    def find(self, kid: str | None, algorithm: str) -> VerifyingKey | None:
        return self.keys.find(kid, algorithm)

    async def refresh(self) -> None:
        """They are always the same."""


def rules(*algorithms: str, role_claim: str = "role", email_claim: str = "email") -> TokenRules:
    return TokenRules(
        algorithms=algorithms, issuer=ISSUER, audience=AUDIENCE, role_claim=role_claim, email_claim=email_claim
    )


def verifier_of(*keys: Key, algorithms: tuple[str, ...] = ("RS256",)) -> TokenVerifier:
    return TokenVerifier(rules(*algorithms), Published(*keys, algorithms=algorithms), FakeClock())


def with_secret(**names: str) -> TokenVerifier:
    return TokenVerifier(rules("HS256", **names), SharedSecret(SECRET), FakeClock())


async def reason_of(verifier: TokenVerifier, token: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        await verifier.verify(token)
    assert caught.value.detail == "Valid credentials are needed."
    return caught.value.reason


def part(content: object) -> str:
    raw = content if isinstance(content, bytes) else msgspec.json.encode(content)
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def forged(header: object, claims: object = CLAIMS, *, key: bytes = SECRET.encode()) -> str:
    """A token put together by hand, with an HMAC signature: for headers that no library would write."""
    text = f"{part(header)}.{part(claims)}"
    return f"{text}.{part(hmac(key, text.encode(), sha256).digest())}"


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")  # as a name, by RFC 9864: issuers still write it
@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (RSA, "RS256"),
        (RSA, "RS384"),
        (RSA, "RS512"),
        (ec_key(), "ES256"),
        (ec_key(curve="P-384"), "ES384"),
        (ec_key(curve="P-521"), "ES512"),
        (ed_key(), "EdDSA"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_token_of_each_public_algorithm_holds(key: Key, algorithm: str) -> None:
    verifier = verifier_of(key, algorithms=(algorithm,))
    assert await verifier.verify(signed(key, algorithm)) == Principal(
        "user:42", Claims("42", "ann@example.org", "member"), expires_at=NOW_S + 600
    )


async def test_a_token_of_the_shared_secret_holds() -> None:
    assert (await with_secret().verify(signed(SHARED, "HS256"))).id == "user:42"


def public_pem() -> bytes:
    return bytes(RSA.as_pem(private=False))


REFUSED: Final[Mapping[str, tuple[Callable[[], str], Reason]]] = {
    "alg none": (lambda: f"{part({'alg': 'none'})}.{part(CLAIMS)}.AA", Reason.TOKEN_ALGORITHM),
    "alg none, no signature": (lambda: f"{part({'alg': 'none'})}.{part(CLAIMS)}.", Reason.TOKEN_MALFORMED),
    "alg nOnE": (lambda: forged({"alg": "nOnE"}), Reason.TOKEN_ALGORITHM),
    "alg missing": (lambda: forged({"typ": "JWT"}), Reason.TOKEN_ALGORITHM),
    "alg a list": (lambda: forged({"alg": ["RS256"]}), Reason.TOKEN_ALGORITHM),
    "HS256 with the RSA public key": (
        lambda: forged({"alg": "HS256", "kid": "rsa-1"}, key=public_pem()),
        Reason.TOKEN_ALGORITHM,
    ),
    "an HMAC called RS256": (
        lambda: forged({"alg": "RS256", "kid": "rsa-1"}, key=public_pem()),
        Reason.TOKEN_SIGNATURE,
    ),
    "another algorithm of the family": (lambda: signed(RSA, "RS512"), Reason.TOKEN_ALGORITHM),
    "unknown kid": (lambda: signed(RSA, "RS256", header={"kid": "other"}), Reason.TOKEN_KEY_UNKNOWN),
    "kid a path": (lambda: signed(RSA, "RS256", header={"kid": "../../dev/null"}), Reason.TOKEN_KEY_UNKNOWN),
    "kid a number": (lambda: forged({"alg": "RS256", "kid": 7}), Reason.TOKEN_HEADER),
    "kid endless": (lambda: forged({"alg": "RS256", "kid": "k" * 900}), Reason.TOKEN_HEADER),
    "jwk": (lambda: forged({"alg": "RS256", "kid": "rsa-1", "jwk": published(STRANGER)[0]}), Reason.TOKEN_HEADER),
    "jku": (lambda: forged({"alg": "RS256", "kid": "rsa-1", "jku": "https://evil.example"}), Reason.TOKEN_HEADER),
    "x5u": (lambda: forged({"alg": "RS256", "kid": "rsa-1", "x5u": "https://evil.example"}), Reason.TOKEN_HEADER),
    "x5c": (lambda: forged({"alg": "RS256", "kid": "rsa-1", "x5c": ["MIIB"]}), Reason.TOKEN_HEADER),
    "crit": (lambda: forged({"alg": "RS256", "kid": "rsa-1", "crit": ["b64"], "b64": False}), Reason.TOKEN_HEADER),
    "another key's signature": (lambda: signed(STRANGER, "RS256"), Reason.TOKEN_SIGNATURE),
    "typ of something else": (lambda: signed(RSA, "RS256", header={"typ": "logout+jwt"}), Reason.TOKEN_TYPE),
    "typ a number": (lambda: forged({"alg": "RS256", "typ": 1}), Reason.TOKEN_TYPE),
    "expired": (lambda: signed(RSA, "RS256", exp=NOW_S - 30), Reason.TOKEN_EXPIRED),
    "exp missing": (lambda: signed(RSA, "RS256", exp=None), Reason.TOKEN_MALFORMED),
    "exp a text": (lambda: signed(RSA, "RS256", exp=str(NOW_S + 600)), Reason.TOKEN_MALFORMED),
    "exp true": (lambda: signed(RSA, "RS256", exp=True), Reason.TOKEN_MALFORMED),
    "nbf in the future": (lambda: signed(RSA, "RS256", nbf=NOW_S + 31), Reason.TOKEN_NOT_YET_VALID),
    "nbf a text": (lambda: signed(RSA, "RS256", nbf="soon"), Reason.TOKEN_MALFORMED),
    "iss of somebody else": (lambda: signed(RSA, "RS256", iss="https://evil.example/"), Reason.TOKEN_ISSUER),
    "iss missing": (lambda: signed(RSA, "RS256", iss=None), Reason.TOKEN_ISSUER),
    "iss a list": (lambda: signed(RSA, "RS256", iss=[ISSUER]), Reason.TOKEN_ISSUER),
    "aud of somebody else": (lambda: signed(RSA, "RS256", aud="other"), Reason.TOKEN_AUDIENCE),
    "aud within a text": (lambda: signed(RSA, "RS256", aud="subak-admin"), Reason.TOKEN_AUDIENCE),
    "aud missing": (lambda: signed(RSA, "RS256", aud=None), Reason.TOKEN_AUDIENCE),
    "sub missing": (lambda: signed(RSA, "RS256", sub=None), Reason.TOKEN_ID_MISSING),
    "sub empty": (lambda: signed(RSA, "RS256", sub=""), Reason.TOKEN_ID_MALFORMED),
    "sub with a line end": (lambda: signed(RSA, "RS256", sub="42\r\nx-user-id: 1"), Reason.TOKEN_ID_MALFORMED),
    "sub endless": (lambda: signed(RSA, "RS256", sub="4" * 256), Reason.TOKEN_ID_MALFORMED),
    "sub a boolean": (lambda: signed(RSA, "RS256", sub=True), Reason.TOKEN_ID_MALFORMED),
    "sub a list": (lambda: signed(RSA, "RS256", sub=["42"]), Reason.TOKEN_ID_MALFORMED),
    "two parts": (lambda: "e30.e30", Reason.TOKEN_MALFORMED),
    "four parts": (lambda: signed(RSA, "RS256") + ".AA", Reason.TOKEN_MALFORMED),
    "a header that is no JSON": (lambda: f"{part(b'no')}.{part(CLAIMS)}.AA", Reason.TOKEN_MALFORMED),
    "a header that is a list": (lambda: f"{part([1])}.{part(CLAIMS)}.AA", Reason.TOKEN_MALFORMED),
    "a header nested deeply": (lambda: f"{part(b'[' * 900)}.{part(CLAIMS)}.AA", Reason.TOKEN_MALFORMED),
    "an endless header": (lambda: f"{'e' * 5000}.e30.AA", Reason.TOKEN_MALFORMED),
    "other base64": (lambda: signed(RSA, "RS256").replace(".", "+.", 1), Reason.TOKEN_MALFORMED),
    "padded": (lambda: signed(RSA, "RS256") + "=", Reason.TOKEN_MALFORMED),
    "a line end behind it": (lambda: signed(RSA, "RS256") + "\n", Reason.TOKEN_MALFORMED),
    "digits of another script": (lambda: signed(RSA, "RS256") + "٣", Reason.TOKEN_MALFORMED),
    "sixteen kilobytes": (
        lambda: f"{part({'alg': 'RS256', 'kid': 'rsa-1'})}.{'a' * 15_000}.AA",
        Reason.TOKEN_SIGNATURE,
    ),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED.keys())
async def test_a45_a_token_that_does_not_hold_is_refused_for_its_reason(
    make: Callable[[], str], reason: Reason
) -> None:
    assert await reason_of(verifier_of(RSA), make()) == reason


async def test_a45_a_signature_is_looked_at_before_any_claim() -> None:
    token = signed(STRANGER, "RS256", exp=0, iss="https://evil.example/", sub=None)
    assert await reason_of(verifier_of(RSA), token) == Reason.TOKEN_SIGNATURE


async def test_a45_a_payload_that_was_changed_is_refused() -> None:
    head, _, signature = signed(RSA, "RS256").split(".")
    token = f"{head}.{part({**CLAIMS, 'role': 'admin'})}.{signature}"
    assert await reason_of(verifier_of(RSA), token) == Reason.TOKEN_SIGNATURE


async def test_a45_a_payload_that_is_no_object_is_refused() -> None:
    assert await reason_of(with_secret(), forged({"alg": "HS256"}, ["sub"])) == Reason.TOKEN_MALFORMED
    assert await reason_of(with_secret(), forged({"alg": "HS256"}, b"\xff{}")) == Reason.TOKEN_MALFORMED


async def test_a45_a_private_or_shared_key_in_a_set_counts_for_nothing() -> None:
    keys = [*published(RSA), {"kty": "oct", "kid": "oct-1", "k": part(SECRET.encode())}]
    algorithms = frozenset({"RS256", "HS256"})
    names = [(entry.kid, entry.algorithm) for entry in usable_entries(msgspec.json.encode({"keys": keys}), algorithms)]
    assert names == [("rsa-1", "RS256")]


async def test_a45_refusing_a_token_costs_less_than_a_millisecond() -> None:
    verifier = verifier_of(RSA)
    for name, (make, _) in REFUSED.items():
        token = make()
        assert await _cpu_ms(verifier, token) < 1.0, name


async def _cpu_ms(verifier: TokenVerifier, token: str) -> float:
    """The cheapest of a few refusals, in CPU time of this thread: other processes don't count."""
    times: list[float] = []
    for _ in range(9):
        started = time.thread_time()
        await reason_of(verifier, token)
        times.append(time.thread_time() - started)
    return min(times) * 1000


@pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "application/at+jwt"])
async def test_both_kinds_of_tokens_that_issuers_write_are_taken(kind: str) -> None:
    assert (await with_secret().verify(signed(SHARED, "HS256", header={"typ": kind}))).id == "user:42"


async def test_clocks_may_differ_by_the_leeway() -> None:
    verifier = with_secret()
    for times in ({"exp": NOW_S - 29}, {"nbf": NOW_S + 30}, {"exp": NOW_S + 0.5}):
        assert (await verifier.verify(signed(SHARED, "HS256", {**CLAIMS, **times}))).id == "user:42"


async def test_the_audience_may_be_one_of_several() -> None:
    assert (await with_secret().verify(signed(SHARED, "HS256", aud=["other", AUDIENCE]))).id == "user:42"


async def test_the_first_id_claim_that_is_there_counts() -> None:
    verifier = with_secret()
    assert (await verifier.verify(signed(SHARED, "HS256", sub=None, id=7, userId="8"))).claims.id == "7"
    assert (await verifier.verify(signed(SHARED, "HS256", sub=None, userId="8"))).claims.id == "8"


async def test_a_claim_may_stand_deeper_or_have_dots_in_its_name() -> None:
    verifier = with_secret(role_claim="realm.role", email_claim="https://example.org/email")
    claims = {**CLAIMS, "role": "x", "realm": {"role": "admin"}, "https://example.org/email": "ben@example.org"}
    token = signed(SHARED, "HS256", claims)
    principal = await verifier.verify(token)
    assert (principal.claims.role, principal.claims.email) == ("admin", "ben@example.org")
    principal = await verifier.verify(signed(SHARED, "HS256", realm="none"))
    assert (principal.claims.role, principal.claims.email) == (None, None)


@pytest.mark.parametrize("odd", [["member"], 7, "", "a\nb", "r" * 256, " member"], ids=repr)
async def test_a_role_that_is_no_plain_text_counts_as_absent(odd: object) -> None:
    assert (await with_secret().verify(signed(SHARED, "HS256", role=odd))).claims.role is None


@pytest.mark.parametrize(("said", "email"), [(False, None), ("false", None), ([], None), (True, "ann@example.org")])
async def test_an_email_that_its_issuer_calls_unverified_counts_as_absent(said: object, email: str | None) -> None:
    assert (await with_secret().verify(signed(SHARED, "HS256", email_verified=said))).claims.email == email


async def test_the_same_id_in_two_tenants_is_two_principals() -> None:
    verifier = with_secret()
    tokens = [
        signed(SHARED, "HS256", tenant=tenant, sub=sub)
        for tenant, sub in (("a", "1"), ("b", "1"), (None, "1"), ("a/user:b", "c"), ("a", "b/user:c"))
    ]
    ids = [(await verifier.verify(token)).id for token in tokens]
    assert ids[:3] == ["tenant:a/user:1", "tenant:b/user:1", "user:1"]
    assert len(set(ids)) == 5


async def test_a_token_without_kid_is_judged_by_the_only_key_of_its_kind() -> None:
    token = signed(rsa_nameless := rsa_key(None), "RS256")
    principal = await verifier_of(rsa_nameless, ec_key(), algorithms=("RS256", "ES256")).verify(token)
    assert principal.id == "user:42"
    assert await reason_of(verifier_of(rsa_nameless, RSA), token) == Reason.TOKEN_KEY_UNKNOWN


@pytest.mark.filterwarnings("ignore:Key size should be")
def test_weak_foreign_and_encrypting_keys_are_passed_over() -> None:
    good, weak, curve = published(RSA)[0], published(rsa_key("weak", 1024))[0], published(ec_key("k1", "secp256k1"))[0]
    others: list[object] = [
        weak,
        curve,
        {**good, "kid": "enc", "use": "enc"},
        {**good, "kid": "ops", "key_ops": ["encrypt"]},
        {**good, "kid": "alg", "alg": "RSA-OAEP"},
        {**STRANGER.as_dict(private=True), "kid": "private"},
        {**good, "kid": 7},
        {**good, "kid": "no modulus", "n": None},
        {**good, "kid": "bad modulus", "n": "!!"},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "off the curve"},
        "no key",
        None,
    ]
    body = msgspec.json.encode({"keys": [*others, good]})
    assert [entry.kid for entry in usable_entries(body, frozenset({"RS256", "ES256"}))] == ["rsa-1"]


def test_of_two_keys_under_one_name_the_first_counts() -> None:
    entries = usable_entries(msgspec.json.encode({"keys": published(RSA, STRANGER, RSA)}), frozenset({"RS256"}))
    assert KeySet(entries).find("rsa-1", "RS256") == entries[0].key
    assert KeySet(entries).find(None, "RS256") is None
    assert KeySet([entries[0], entries[2]]).find(None, "RS256") == entries[0].key


@given(st.text(max_size=200) | st.text("e30._-A=+/", max_size=80) | st.from_regex(r"[\w-]+\.[\w-]+\.[\w-]+"))
async def test_no_text_gets_more_out_of_the_judge_than_a_refusal(text: str) -> None:
    assert await reason_of(verifier_of(RSA), text) in set(Reason)


@given(
    st.dictionaries(
        st.sampled_from([*CLAIMS, "nbf", "tenant", "userId"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text(), max_size=2),
    )
)
async def test_whatever_claims_hold_there_is_a_principal_or_a_refusal(claims: dict[str, object]) -> None:
    with suppress(Unauthenticated):
        principal = await with_secret().verify(forged({"alg": "HS256"}, {**CLAIMS, **claims}))
        assert principal.claims.id.isprintable()
        assert principal.expires_at is not None


def test_every_reason_is_a_plain_word() -> None:
    assert all(reason.value.replace("_", "").isalpha() and reason.value.islower() for reason in Reason)
