"""Who is calling: every form of credentials, alone and together."""

import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subak.admission import auth
from subak.admission.api_keys import WATCH_S, ApiKeys, KeyStore
from subak.admission.auth import (
    MAX_CREDENTIAL_CHARS,
    URL_TOKEN_NAMES,
    Authenticator,
    AuthRules,
    Credentials,
    challenge_of,
    cut_at,
    has_token,
)
from subak.admission.jwt import SharedSecret, TokenRules, TokenVerifier
from subak.admission.reasons import Reason
from subak.core.errors import Unauthenticated
from subak.core.principal import ANONYMOUS, Claims, Principal
from subak.testing import FakeClock
from tests.issuer import AUDIENCE, ISSUER, NOW_S, SECRET, secret_key, signed

INTERNAL: Final = "internal-key-of-the-host"
TOKEN: Final = signed(secret_key(), "HS256")
TOKEN_OF_BEN: Final = signed(secret_key(), "HS256", sub="ben")
ANN: Final = Principal("user:42", Claims("42", "ann@example.org", "member"), expires_at=NOW_S + 600)
NOW: Final = datetime.fromtimestamp(NOW_S, UTC)


class RevocableSecret(SharedSecret):
    """A shared secret that can be withdrawn, as keys of a set can."""

    revision = 0  # type: ignore[misc]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def authenticator(tmp_path: Path, clock: FakeClock) -> Authenticator:
    return authenticator_in(tmp_path, clock)


def authenticator_in(
    state_dir: Path, clock: FakeClock, *, is_required: bool = False, has_tokens: bool = True
) -> Authenticator:
    token_rules = TokenRules(algorithms=("HS256",), issuer=ISSUER, audience=AUDIENCE)
    return Authenticator(
        AuthRules(is_required=is_required, internal_keys=("another-internal-key", INTERNAL)),
        tokens=TokenVerifier(token_rules, SharedSecret(SECRET), clock) if has_tokens else None,
        api_keys=ApiKeys(state_dir),
        clock=clock,
    )


def bearer(text: str, *, user_id: tuple[str, ...] = (), through_proxy: bool = False) -> Credentials:
    return Credentials(authorization=(f"Bearer {text}",), user_id=user_id, is_from_trusted_proxy=through_proxy)


async def reason_of(authenticator: Authenticator, credentials: Credentials) -> str:
    with pytest.raises(Unauthenticated) as caught:
        await authenticator.authenticate(credentials)
    assert str(caught.value) == "Valid credentials are needed."
    assert caught.value.reason in set(Reason)
    return caught.value.reason


async def test_nobody_is_anonymous(authenticator: Authenticator) -> None:
    assert await authenticator.authenticate(Credentials()) is ANONYMOUS


async def test_nobody_is_refused_where_credentials_are_required(tmp_path: Path, clock: FakeClock) -> None:
    authenticator = authenticator_in(tmp_path, clock, is_required=True)
    assert await reason_of(authenticator, Credentials()) == Reason.MISSING_CREDENTIALS
    assert await reason_of(authenticator, Credentials(user_id=("42",))) == Reason.MISSING_CREDENTIALS
    assert await authenticator.authenticate(bearer(TOKEN)) == ANN
    through_proxy = Credentials(user_id=("42",), is_from_trusted_proxy=True)
    assert (await authenticator.authenticate(through_proxy)).id == "user:42"


@pytest.mark.parametrize(
    "credentials",
    [
        bearer(TOKEN),
        Credentials(authorization=(f"bearer   {TOKEN} ",)),
        Credentials(api_key=(TOKEN,)),
        Credentials(cookie=TOKEN),
        Credentials(authorization=(f"Bearer {TOKEN}",), api_key=(TOKEN,), cookie="another"),
        Credentials(authorization=(f"Bearer {TOKEN}", f"Bearer {TOKEN}")),
        bearer(TOKEN, user_id=("somebody",)),
        bearer(TOKEN, user_id=("42",), through_proxy=True),
    ],
)
async def test_a_token_is_its_user_wherever_it_stands(authenticator: Authenticator, credentials: Credentials) -> None:
    assert await authenticator.authenticate(credentials) == ANN


@pytest.mark.parametrize(
    ("credentials", "reason"),
    [
        (Credentials(authorization=("Basic YTpi",)), Reason.UNSUPPORTED_SCHEME),
        (Credentials(authorization=("",)), Reason.UNSUPPORTED_SCHEME),
        (Credentials(authorization=(TOKEN,)), Reason.UNSUPPORTED_SCHEME),
        (Credentials(authorization=("Bearer",)), Reason.MALFORMED_CREDENTIALS),
        (Credentials(authorization=("Bearer a b",)), Reason.MALFORMED_CREDENTIALS),
        (Credentials(authorization=("Bearer kéy",)), Reason.MALFORMED_CREDENTIALS),
        (Credentials(authorization=("Bearer \udcff",)), Reason.MALFORMED_CREDENTIALS),
        (Credentials(api_key=("",)), Reason.MALFORMED_CREDENTIALS),
        (Credentials(cookie=""), Reason.MALFORMED_CREDENTIALS),
        (bearer("a" * (MAX_CREDENTIAL_CHARS + 1)), Reason.CREDENTIAL_TOO_LARGE),
        (bearer("some-key"), Reason.UNKNOWN_CREDENTIAL),
        (bearer(f"{INTERNAL}x"), Reason.UNKNOWN_CREDENTIAL),
        (bearer("sk_subak_0123456789_" + "a" * 32), Reason.KEY_UNKNOWN),
        (bearer("sk_subak_0123456789_" + "a" * 31), Reason.UNKNOWN_CREDENTIAL),
        (bearer("a.b.c"), Reason.TOKEN_MALFORMED),
        (Credentials(cookie="a.b.c"), Reason.TOKEN_MALFORMED),
        (
            Credentials(authorization=(f"Bearer {TOKEN}", f"Bearer {TOKEN_OF_BEN}")),
            Reason.AMBIGUOUS_CREDENTIALS,
        ),
        (Credentials(authorization=(f"Bearer {TOKEN}",), api_key=(INTERNAL,)), Reason.AMBIGUOUS_CREDENTIALS),
        (Credentials(api_key=(INTERNAL, TOKEN)), Reason.AMBIGUOUS_CREDENTIALS),
        (bearer(TOKEN, user_id=("ben",), through_proxy=True), Reason.AMBIGUOUS_CREDENTIALS),
        (Credentials(user_id=("42", "ben"), is_from_trusted_proxy=True), Reason.AMBIGUOUS_CREDENTIALS),
        (Credentials(user_id=("",), is_from_trusted_proxy=True), Reason.USER_ID_MALFORMED),
        (Credentials(user_id=("4\t2",), is_from_trusted_proxy=True), Reason.USER_ID_MALFORMED),
        (bearer(INTERNAL, user_id=("4" * 256,)), Reason.USER_ID_MALFORMED),
        (Credentials(has_token_in_url=True), Reason.TOKEN_IN_URL),
        (Credentials(authorization=(f"Bearer {TOKEN}",), has_token_in_url=True), Reason.TOKEN_IN_URL),
    ],
)
async def test_a45_what_is_no_credential_is_refused_for_its_reason(
    authenticator: Authenticator, credentials: Credentials, reason: Reason
) -> None:
    assert await reason_of(authenticator, credentials) == reason


async def test_a45_a_token_of_a_megabyte_is_refused_unread(authenticator: Authenticator) -> None:
    token = f"{TOKEN}{'a' * 1_000_000}"
    assert await reason_of(authenticator, bearer(token)) == Reason.CREDENTIAL_TOO_LARGE
    times = [time.thread_time()]
    for _ in range(20):
        await reason_of(authenticator, bearer(token))
        times.append(time.thread_time())
    assert min(after - before for before, after in pairwise(times)) < 0.001


async def test_a_token_is_unknown_where_no_tokens_are_taken(tmp_path: Path, clock: FakeClock) -> None:
    authenticator = authenticator_in(tmp_path, clock, has_tokens=False)
    assert await reason_of(authenticator, bearer(TOKEN)) == Reason.UNKNOWN_CREDENTIAL
    assert (await authenticator.authenticate(bearer(INTERNAL))).is_internal


async def test_where_nothing_could_hold_credentials_are_as_if_they_were_not_there(
    tmp_path: Path, clock: FakeClock
) -> None:
    keys = ApiKeys(tmp_path)
    authenticator = Authenticator(AuthRules(), tokens=None, api_keys=keys, clock=clock)
    for credentials in (bearer(TOKEN), Credentials(authorization=("Basic YTpi",)), Credentials(cookie="x")):
        assert await authenticator.authenticate(credentials) is ANONYMOUS
    through_proxy = bearer(TOKEN, user_id=("ben",), through_proxy=True)
    assert (await authenticator.authenticate(through_proxy)).id == "user:ben"
    assert await reason_of(authenticator, Credentials(has_token_in_url=True)) == Reason.TOKEN_IN_URL
    strict = Authenticator(AuthRules(is_required=True), tokens=None, api_keys=keys, clock=clock)
    assert await reason_of(strict, bearer(TOKEN)) == Reason.MISSING_CREDENTIALS


async def test_what_was_judged_before_or_needs_no_judgement_is_recognised(tmp_path: Path, clock: FakeClock) -> None:
    _, text = KeyStore(tmp_path).create("ci", now=NOW)
    authenticator = authenticator_in(tmp_path, clock)
    assert authenticator.recognises(bearer(text))
    assert authenticator.recognises(bearer(INTERNAL))
    assert authenticator.recognises(Credentials(user_id=("42",)))
    assert not authenticator.recognises(bearer(TOKEN))
    await authenticator.authenticate(bearer(TOKEN))
    assert authenticator.recognises(bearer(TOKEN))
    for guess in (bearer("guess"), Credentials(("Basic x",)), Credentials(has_token_in_url=True)):
        assert not authenticator.recognises(guess)


@pytest.mark.parametrize("credentials", [bearer(INTERNAL), Credentials(api_key=(INTERNAL,))])
async def test_an_internal_key_is_the_host_itself(authenticator: Authenticator, credentials: Credentials) -> None:
    assert await authenticator.authenticate(credentials) == Principal("key:internal", is_internal=True)


async def test_a50_x_user_id_counts_only_from_those_who_are_trusted(authenticator: Authenticator) -> None:
    assert await authenticator.authenticate(Credentials(user_id=("42",))) is ANONYMOUS
    assert await authenticator.authenticate(Credentials(user_id=("4\r\n2", "x"))) is ANONYMOUS
    through_proxy = Credentials(user_id=("42",), is_from_trusted_proxy=True)
    assert await authenticator.authenticate(through_proxy) == Principal("user:42", Claims("42"))
    assert await authenticator.authenticate(bearer(INTERNAL, user_id=("42",))) == Principal(
        "user:42", Claims("42"), is_internal=True
    )


async def test_a50_a_key_of_a_caller_makes_no_other_user_believed(tmp_path: Path, clock: FakeClock) -> None:
    _, text = KeyStore(tmp_path).create("ci", now=NOW)
    authenticator = authenticator_in(tmp_path, clock)
    assert (await authenticator.authenticate(bearer(text, user_id=("42",)))).id.startswith("key:")


async def test_an_api_key_is_its_user_or_itself(tmp_path: Path, clock: FakeClock) -> None:
    store = KeyStore(tmp_path)
    bare, bare_text = store.create("ci", now=NOW)
    _, text = store.create("ann's", now=NOW, user="42", expires_at=NOW + timedelta(days=1))
    authenticator = authenticator_in(tmp_path, clock)
    name = f"key:{bare.id}"
    assert await authenticator.authenticate(bearer(bare_text)) == Principal(name, Claims(name))
    assert await authenticator.authenticate(Credentials(api_key=(text,))) == Principal(
        "user:42", Claims("42"), expires_at=NOW_S + 86_400
    )
    clock.advance(86_400)
    assert await reason_of(authenticator, bearer(text)) == Reason.KEY_EXPIRED


async def test_a_key_that_is_made_or_revoked_counts_within_a_second(tmp_path: Path, clock: FakeClock) -> None:
    store = KeyStore(tmp_path)
    store.create("another", now=NOW)
    api_keys = ApiKeys(tmp_path)
    authenticator = Authenticator(AuthRules(), tokens=None, api_keys=api_keys, clock=clock)
    key, text = store.create("ci", now=NOW)
    assert await reason_of(authenticator, bearer(text)) == Reason.KEY_UNKNOWN
    assert api_keys.on_deadline(5.0) == 5.0 + WATCH_S
    assert (await authenticator.authenticate(bearer(text))).id == f"key:{key.id}"
    store.revoke(key.id, now=NOW)
    api_keys.on_deadline(6.0)
    assert await reason_of(authenticator, bearer(text)) == Reason.KEY_REVOKED


async def test_a_token_that_was_seen_is_refused_once_it_has_expired(
    authenticator: Authenticator, clock: FakeClock
) -> None:
    assert await authenticator.authenticate(bearer(TOKEN)) == ANN
    clock.advance(629)
    assert await authenticator.authenticate(bearer(TOKEN)) == ANN
    clock.advance(1)
    assert await reason_of(authenticator, bearer(TOKEN)) == Reason.TOKEN_EXPIRED


async def test_a_token_that_was_seen_is_judged_again_when_keys_were_withdrawn(tmp_path: Path, clock: FakeClock) -> None:
    source = RevocableSecret(SECRET)
    rules = TokenRules(algorithms=("HS256",), issuer=ISSUER, audience=AUDIENCE)
    verifier = TokenVerifier(rules, source, clock)
    authenticator = Authenticator(AuthRules(), tokens=verifier, api_keys=ApiKeys(tmp_path), clock=clock)
    assert await authenticator.authenticate(bearer(TOKEN)) == ANN
    source._secret = b"another secret"  # noqa: SLF001 - the issuer has changed its mind
    assert await authenticator.authenticate(bearer(TOKEN)) == ANN
    source.revision = 1  # type: ignore[misc]
    assert await reason_of(authenticator, bearer(TOKEN)) == Reason.TOKEN_SIGNATURE


async def test_seen_tokens_are_bounded(authenticator: Authenticator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "MAX_SEEN_TOKENS", 3)
    for number in range(8):
        await authenticator.authenticate(bearer(signed(secret_key(), "HS256", sub=str(number))))
    assert len(authenticator._seen) == 3  # noqa: SLF001 - nothing else tells
    assert [seen.principal.claims.id for seen in authenticator._seen.values()] == ["5", "6", "7"]  # noqa: SLF001


async def test_a_seen_token_costs_less_than_half_of_a_new_one(authenticator: Authenticator) -> None:
    """The middle ones of many, in CPU time of this thread; measured: 3 µs of 24 (2026-11)."""
    seen: list[float] = []
    new: list[float] = []
    for number in range(100):
        credentials = bearer(signed(secret_key(), "HS256", sub=str(number)))
        for times in (new, seen):
            started = time.thread_time()
            await authenticator.authenticate(credentials)
            times.append(time.thread_time() - started)
    assert median(seen) < median(new) / 2


def test_a48_names_of_credentials_in_a_url_are_known_in_any_letter_case() -> None:
    for name in ("token", "access_token", "api_key", "authorization", "Token", "ACCESS_TOKEN"):
        assert has_token(["query", name]), name
    assert not has_token(["query", "user_email", "ticket", "tokens", "last_event_id"])
    assert all(name == name.lower() for name in URL_TOKEN_NAMES)


def test_a47_a_reader_is_cut_when_its_token_and_the_leeway_are_over() -> None:
    cut, finish = AuthRules(on_expiry="cut", leeway_s=30), AuthRules(on_expiry="finish")
    assert cut_at(ANN, cut) == NOW_S + 630
    assert cut_at(ANN, finish) is None
    assert cut_at(ANONYMOUS, cut) is None


def test_a_challenge_blames_a_token_only_where_one_came() -> None:
    assert challenge_of(Reason.MISSING_CREDENTIALS) == 'Bearer realm="subak"'
    assert challenge_of(Reason.TOKEN_EXPIRED) == 'Bearer realm="subak", error="invalid_token"'


@given(
    st.lists(st.text(max_size=40) | st.just(f"Bearer {INTERNAL}"), max_size=2),
    st.lists(st.text(max_size=40), max_size=2),
    st.lists(st.text(max_size=40), max_size=2),
    st.none() | st.text(max_size=40),
    st.booleans(),
)
async def test_whatever_headers_hold_there_is_a_principal_or_a_refusal(
    authorization: list[str], api_key: list[str], user_id: list[str], cookie: str | None, through_proxy: bool
) -> None:
    authenticator = authenticator_in(Path("/nowhere"), FakeClock())
    credentials = Credentials(tuple(authorization), tuple(api_key), tuple(user_id), cookie, through_proxy)
    try:
        principal = await authenticator.authenticate(credentials)
    except Unauthenticated as error:
        refusal: str | None = error.reason
    else:
        refusal = None
        assert principal.is_anonymous or through_proxy or f"Bearer {INTERNAL}" in authorization
    assert refusal is None or refusal in set(Reason)
