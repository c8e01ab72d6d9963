"""What can be set: one annotated field a setting.

Type, bounds, default and the one sentence about it stand together; validation, `docs/settings.md`, `subak config
example` and `subak config show` are all made from them, by `catalogue()`. This module reads no file and no environment.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct
from msgspec import inspect as shapes

MASK = "***"
VARIABLE_PREFIX = "SUBAK_"


class Secret:
    """Text that must not be shown: printed or logged by accident it is `***`; `reveal()` gives it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.reveal() == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def reveal(self) -> str:
        """The text itself, for the one place that sends it."""
        return self._text


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition on one text (of a list: on each item; of a header table: on each `Name: value`)."""

    expected: str
    accepts: Callable[[str], bool]
    tidy: Callable[[str], str] = str


@dataclass(frozen=True, slots=True)
class Notes:
    """What a field says about itself beside type, bounds and sentence."""

    alias: str | None = None
    flag: str | None = None
    example: object = None
    rule: Rule | None = None


def _about(
    sentence: str,
    *,
    alias: str | None = None,
    flag: str | None = None,
    example: object = None,
    rule: Rule | None = None,
) -> Meta:
    notes = Notes(alias=alias, flag=flag, example=example, rule=rule)
    return Meta(description=sentence, extra={"notes": notes})


def _is_http_url(text: str) -> bool:
    if not re.fullmatch(r"[\x21-\x7e]+", text) or any(mark in text for mark in "?#@\\"):
        return False
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and host is not None and _is_host(host) and port != 0


def _tidy_url(text: str) -> str:
    scheme, mark, rest = text.partition("://")
    return scheme.lower() + mark + rest.rstrip("/")


def _is_origin(text: str) -> bool:
    found = re.fullmatch(
        r"(https?)://(?:(?:\*\.)?[a-z0-9_](?:[a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::([1-9][0-9]{0,4}))?", text
    )
    if found is None:
        return False
    scheme, port = found.groups()
    return port is None or (int(port) <= _MAX_PORT and port != {"http": "80", "https": "443"}[scheme])


def _is_network(text: str) -> bool:
    if re.fullmatch(r"[0-9A-Fa-f:./]+", text) is None:
        return False
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def _is_host(text: str) -> bool:
    if re.fullmatch(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", text):
        return True
    if re.fullmatch(r"[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?", text) is None:
        return False
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _is_header(line: str) -> bool:
    found = re.fullmatch(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+): [\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?", line)
    return found is not None and found[1].lower() not in _OWN_HEADERS


def _is_printable(text: str) -> bool:
    return bool(text) and text.isprintable()


def _is_parameters(text: str) -> bool:
    try:
        parameters = msgspec.json.decode(text, type=dict[str, object])
    except msgspec.MsgspecError:
        return False
    return not _OWN_PARAMETERS & parameters.keys()


_MAX_PORT = 65_535
_DSN_FORM = re.compile(r"https?://[^@/\s]+@[^@/\s]+/[^/\s]+")
_JWT_SECRET_BYTES = 32
_KNOWN_ALGORITHMS = frozenset(
    {"HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA"}
)
_OWN_PARAMETERS = frozenset({"messages", "model", "n", "stream", "stream_options"})
_HARD_TO_READ = 1_000_000
# Framing and negotiation belong to the upstream client: a value from outside would break the message or undo a bound.
# Who asks is said for each question.
_OWN_HEADERS = frozenset(
    {
        *("accept", "accept-encoding", "connection", "content-length", "content-type", "expect", "host"),
        *("keep-alive", "te", "trailer", "transfer-encoding", "upgrade"),
        *("x-continuity-id", "x-session-id", "x-user-id", "x-user-tenant", "x-user-verified"),
    }
)

_URL = Rule(
    "an http:// or https:// URL with a host, without credentials, query or fragment (a path prefix is fine)",
    _is_http_url,
    _tidy_url,
)
_HOST = Rule("a host name or an IP address, without a port", _is_host)
_ORIGINS = Rule(
    "origins such as https://app.example.org or https://*.example.org: lower case, no path, no default port", _is_origin
)
_NETWORKS = Rule("IP addresses or networks such as 10.0.0.0/8, without host bits", _is_network)
_HEADERS = Rule(
    "header names and values in printable ASCII; framing headers, Host, Accept, x-session-id, x-continuity-id and "
    "x-user-… are the gateway's own",
    _is_header,
)
_STRONG_CREDENTIAL = Rule(
    "one word of printable ASCII, 16 characters at least",
    lambda text: re.fullmatch(r"[\x21-\x7e]{16,}", text) is not None,
)
_KEYS = Rule(
    "keys of 16 or more printable ASCII characters, separated by commas",
    lambda text: all(re.fullmatch(r"[\x21-\x2b\x2d-\x7e]{16,}", key.strip()) for key in text.split(",")),
)
_JWT_SECRET = Rule("at least 32 bytes", lambda text: len(text.encode()) >= _JWT_SECRET_BYTES)
_ALGORITHMS = Rule(
    "HS256, HS384, HS512, RS256, RS384, RS512, ES256, ES384, ES512 or EdDSA", lambda text: text in _KNOWN_ALGORITHMS
)
_DSN = Rule("a DSN such as https://KEY@HOST/PROJECT", lambda text: _DSN_FORM.fullmatch(text) is not None)
_CLAIMS = Rule("names of claims", _is_printable)
_COOKIE = Rule(
    "the name of a cookie (a token of RFC 6265: no blank, =, ; or comma, no quotes or brackets)",
    lambda text: re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", text) is not None,
)
_CREDENTIAL = Rule("one word of printable ASCII", lambda text: re.fullmatch(r"[\x21-\x7e]+", text) is not None)
_PATH = Rule("a path", _is_printable)
_TEXT = Rule("text that isn't empty", lambda text: bool(text.strip()))
_PARAMETERS = Rule(
    "a JSON object without messages, model, n, stream and stream_options, which are the gateway's own", _is_parameters
)
_WORD = Rule("printable text on one line", _is_printable)

_LOG_LEVELS = Rule("debug, info, warning or error", lambda _: True, lambda text: "warning" if text == "warn" else text)

Port: TypeAlias = Annotated[int, Meta(ge=0, le=_MAX_PORT)]
Seconds: TypeAlias = Annotated[float, Meta(gt=0, le=31_536_000)]
SecondsOrOff: TypeAlias = Annotated[float, Meta(ge=0, le=31_536_000)]
Milliseconds: TypeAlias = Annotated[int, Meta(ge=1, le=3_600_000)]
ByteCount: TypeAlias = Annotated[int, Meta(ge=1, le=1 << 40)]
ByteCountOrOff: TypeAlias = Annotated[int, Meta(ge=0, le=1 << 40)]
Count: TypeAlias = Annotated[int, Meta(ge=1, le=1_000_000_000)]


class Server(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the gateway listens."""

    host: Annotated[
        str, _about("Address to listen on; 0.0.0.0 or :: means every interface.", flag="--host", rule=_HOST)
    ] = "127.0.0.1"
    port: Annotated[Port, _about("Port to listen on; 0 takes a free one and says which.", flag="--port")] = 8080
    loop: Annotated[
        Literal["auto", "uvloop", "asyncio"], _about("Event loop; auto takes uvloop where it is installed.")
    ] = "auto"
    max_connections: Annotated[
        Annotated[int, Meta(ge=0, le=10_000_000)],
        _about("Most open client connections, further ones get 503; 0 takes what the open-file limit allows."),
    ] = 0
    backlog: Annotated[
        Annotated[int, Meta(ge=1, le=_MAX_PORT)], _about("Connections that the kernel queues before they are accepted.")
    ] = 1024


class Admin(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The second listener, for operators: metrics, flags and ops pages."""

    enabled: Annotated[bool, _about("Whether there is an admin listener.")] = True
    host: Annotated[str, _about("Address of the admin listener.", rule=_HOST)] = "127.0.0.1"
    port: Annotated[Port, _about("Port of the admin listener; 0 takes a free one and says which.")] = 9464
    token: Annotated[
        Secret | None,
        _about(
            "Bearer token of the admin listener; unset makes one at the first start and shows it once.",
            example="a-long-random-token",
            rule=_STRONG_CREDENTIAL,
        ),
    ] = None
    token_file: Annotated[
        Path | None,
        _about("File that holds the admin token.", example="/run/secrets/subak-admin-token", rule=_PATH),
    ] = None
    metrics_public: Annotated[bool, _about("Whether /metrics may be read without the admin token.")] = False


class Features(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is switched on."""

    sse_streaming: Annotated[
        bool,
        _about("Whether answers are streamed; when false the stream routes answer 403.", alias="ENABLE_SSE_STREAMING"),
    ] = False
    flags_file: Annotated[
        Path | None,
        _about(
            "Flags in flagd's JSON, watched for changes; they only narrow what ENABLE_SSE_STREAMING allows.",
            example="/etc/subak/flags.json",
            rule=_PATH,
        ),
    ] = None


class Auth(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who a caller is."""

    required: Annotated[bool, _about("Whether stream routes refuse callers without credentials (401).")] = False
    jwt_secret: Annotated[
        Secret | None,
        _about(
            "Shared secret of HS256, HS384 or HS512 tokens: 32, 48 or 64 bytes at least.",
            example="a-long-random-secret-of-32-bytes-or-more",
            rule=_JWT_SECRET,
        ),
    ] = None
    jwt_secret_file: Annotated[
        Path | None,
        _about("File that holds the shared secret.", example="/run/secrets/jwt-secret", rule=_PATH),
    ] = None
    jwks_url: Annotated[
        str | None,
        _about(
            "Where the issuer publishes its public keys (JWKS); fetched without following redirects.",
            example="https://login.example.org/.well-known/jwks.json",
            rule=_URL,
        ),
    ] = None
    algorithms: Annotated[
        tuple[str, ...],
        _about(
            "Signature algorithms that are accepted, of one family; unset means HS256 for a secret, else RS256, "
            "ES256 and EdDSA.",
            example=["RS256"],
            rule=_ALGORITHMS,
        ),
    ] = ()
    issuer: Annotated[
        str | None,
        _about("What `iss` of a token must be.", example="https://login.example.org/", rule=_WORD),
    ] = None
    audience: Annotated[str | None, _about("What `aud` of a token must contain.", example="subak", rule=_WORD)] = None
    leeway_s: Annotated[
        Annotated[float, Meta(ge=0, le=300)], _about("Tolerance for the issuer's clock in `exp` and `nbf`.")
    ] = 30.0
    id_claims: Annotated[
        tuple[str, ...], _about("Claims that may hold a caller's id; the first one present counts.", rule=_CLAIMS)
    ] = ("sub", "id", "userId")
    email_claim: Annotated[str, _about("Claim that holds the caller's e-mail.", rule=_WORD)] = "email"
    role_claim: Annotated[str, _about("Claim that holds the caller's role.", rule=_WORD)] = "role"
    tenant_claim: Annotated[str, _about("Claim that holds the caller's tenant.", rule=_WORD)] = "tenant"
    cookie: Annotated[
        str | None,
        _about(
            "Cookie that may hold the token, taken only with an Origin of http.cors_origins or our own.",
            example="session",
            rule=_COOKIE,
        ),
    ] = None
    on_expiry: Annotated[
        Literal["finish", "cut"],
        _about("What happens to a reader whose token expires in the middle: it may finish, or is cut."),
    ] = "finish"
    internal_keys: Annotated[
        Secret | None,
        _about(
            "API keys of the host's own services, separated by commas: no limits, and x-user-id is believed.",
            alias="API_KEYS_INTERNAL",
            example="one-long-random-key,another-long-random-key",
            rule=_KEYS,
        ),
    ] = None
    internal_keys_file: Annotated[
        Path | None,
        _about("File that holds the internal keys.", example="/run/secrets/subak-internal-keys", rule=_PATH),
    ] = None
    unverified_email: Annotated[
        Literal["pass", "drop"],
        _about("What becomes of the user_email of a caller without credentials: passed on as unverified, or dropped."),
    ] = "pass"
    ticket_s: Annotated[Seconds, _about("How soon a stream ticket must be used for the first time.")] = 30.0
    max_tickets: Annotated[Count, _about("Most stream tickets kept by one process.")] = 100_000
    max_tickets_per_caller: Annotated[
        Count, _about("Most of them that one caller may have; a ticket is kept as long as its stream can be read.")
    ] = 1_000


class Upstream(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What answers, and how long it may take."""

    url: Annotated[
        str | None,
        _about(
            "Base URL of the RAG backend; unset means the embedded one.",
            alias="RAG_BACKEND_URL",
            flag="--upstream",
            example="http://127.0.0.1:8000",
            rule=_URL,
        ),
    ] = None
    fallback_urls: Annotated[
        tuple[str, ...],
        _about(
            "Base URLs of further RAG backends, asked in this order when those before fail before a first token.",
            example=["http://127.0.0.1:8001"],
            rule=_URL,
        ),
    ] = ()
    breaker_failures: Annotated[
        Count, _about("Failures in a row after which an upstream is left alone for a while.")
    ] = 5
    breaker_rest_s: Annotated[
        Seconds, _about("How long it is left alone the first time; each further time twice as long, up to eight times.")
    ] = 5.0
    kind: Annotated[
        Literal["auto", "rag", "openai", "embedded"],
        _about(
            "What answers: a RAG backend, an OpenAI-compatible server, or the embedded backend; "
            "auto means rag when a URL is set, else embedded."
        ),
    ] = "auto"
    model: Annotated[
        str | None,
        _about("Model that an openai upstream is asked for; unset names none.", example="llama3.2", rule=_WORD),
    ] = None
    system_prompt: Annotated[
        str | None,
        _about("What an openai upstream is told before every conversation.", example="Answer briefly.", rule=_TEXT),
    ] = None
    system_prompt_file: Annotated[
        Path | None,
        _about("File that holds the system prompt.", example="/etc/subak/system-prompt.txt", rule=_PATH),
    ] = None
    parameters: Annotated[
        str,
        _about(
            "Further members of the request to an openai upstream, as a JSON object.",
            example='{"temperature": 0.2, "max_tokens": 800}',
            rule=_PARAMETERS,
        ),
    ] = "{}"
    max_history_turns: Annotated[
        Annotated[int, Meta(ge=0, le=100_000)],
        _about("Most turns of the conversation, the newest, that an openai upstream is sent; 0 sends none."),
    ] = 20
    max_history_bytes: Annotated[
        ByteCount, _about("Most bytes of the conversation, the newest, that an openai upstream is sent.")
    ] = 65_536
    include_usage: Annotated[
        bool, _about("Whether an openai upstream is asked for its account of tokens; some servers refuse to be asked.")
    ] = True
    key: Annotated[
        Secret | None,
        _about("Credential sent as `Authorization: Bearer`.", example="the-key", rule=_CREDENTIAL),
    ] = None
    key_file: Annotated[
        Path | None,
        _about("File that holds the key, read once at start.", example="/run/secrets/upstream-key", rule=_PATH),
    ] = None
    token_file: Annotated[
        Path | None,
        _about(
            "File with a bearer token that somebody else renews; read again when it changes.",
            example="/run/secrets/upstream-token",
            rule=_PATH,
        ),
    ] = None
    headers: Annotated[
        Mapping[str, Secret],
        _about(
            "Headers added to every upstream request; a JSON object in the environment.",
            example={"X-Api-Key": "the-key"},
            rule=_HEADERS,
        ),
    ] = {}
    headers_file: Annotated[
        Path | None,
        _about("File that holds the headers as a JSON object.", example="/run/secrets/upstream-headers", rule=_PATH),
    ] = None
    method: Annotated[
        Literal["get", "post", "auto"],
        _about("How a question is sent; auto posts what makes a longer URL than max_get_url_bytes."),
    ] = "get"
    max_get_url_bytes: Annotated[
        ByteCount, _about("Longest URL of a GET to the upstream; a longer question is refused or, with auto, posted.")
    ] = 8192
    ca_file: Annotated[
        Path | None,
        _about(
            "Certificate authorities (PEM) to trust instead of the system's.",
            example="/etc/ssl/private-ca.pem",
            rule=_PATH,
        ),
    ] = None
    client_cert_file: Annotated[
        Path | None,
        _about("Client certificate (PEM) to show to the upstream.", example="/etc/subak/client.pem", rule=_PATH),
    ] = None
    client_key_file: Annotated[
        Path | None,
        _about(
            "Private key (PEM) of the client certificate; unset means it is in the same file.",
            example="/etc/subak/client.key",
            rule=_PATH,
        ),
    ] = None
    connect_timeout_s: Annotated[Seconds, _about("Longest time for a connection to the upstream, TLS included.")] = 5.0
    first_byte_timeout_s: Annotated[Seconds, _about("Longest wait for the head of the upstream's response.")] = 60.0
    idle_timeout_s: Annotated[Seconds, _about("Longest silence of the upstream in the middle of an answer.")] = 120.0
    max_idle_connections: Annotated[
        Annotated[int, Meta(ge=0, le=65_535)],
        _about("Unused connections to the upstream that are kept open; 0 keeps none."),
    ] = 32
    max_event_bytes: Annotated[
        ByteCount,
        _about("Largest single event taken from the upstream; a larger one ends the stream with event_too_large."),
    ] = 262_144

    @property
    def chosen_kind(self) -> Literal["rag", "openai", "embedded"]:
        """What answers, with `auto` decided."""
        if self.kind != "auto":
            return self.kind
        return "embedded" if self.url is None else "rag"


class Stream(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The life of one answer (PROTOCOL §4)."""

    heartbeat_s: Annotated[Seconds, _about("Time between two heartbeat events on every connection.")] = 30.0
    comment_s: Annotated[
        Seconds, _about("Silence after which a comment is sent, for proxies that cut quiet connections.")
    ] = 15.0
    on_disconnect: Annotated[
        Literal["grace", "cancel", "continue"],
        _about("What happens when the last reader goes: wait grace_s, cancel at once, or run to the end."),
    ] = "grace"
    grace_s: Annotated[SecondsOrOff, _about("How long an answer goes on with nobody listening.")] = 30.0
    max_connection_age_s: Annotated[
        SecondsOrOff, _about("Age at which a connection is cut so that its reader resumes; 0 means never.")
    ] = 300.0
    max_events: Annotated[Count, _about("Most events of one stream; past it the stream ends with too_long.")] = 20_000
    max_bytes: Annotated[ByteCount, _about("Most bytes of one stream; past it the stream ends with too_long.")] = (
        4_194_304
    )
    max_age_s: Annotated[Seconds, _about("Longest life of one stream; past it the stream ends with too_long.")] = 1800.0
    max_lag_bytes: Annotated[ByteCount, _about("Lag of every attached reader at which the upstream is paused.")] = (
        262_144
    )
    slow_reader_s: Annotated[Seconds, _about("Time after which a connection that takes no bytes is cut.")] = 30.0
    replay_s: Annotated[SecondsOrOff, _about("How long an ended answer can still be read.")] = 300.0
    tombstone_s: Annotated[
        SecondsOrOff, _about("How long after that its id is still known to have existed (410, then 404).")
    ] = 3600.0
    memory_budget_bytes: Annotated[
        ByteCount, _about("Memory of all answers kept by one process; past it new streams get 503.")
    ] = 1_073_741_824
    retry_min_ms: Annotated[Milliseconds, _about("Shortest reconnection delay told to readers.")] = 1000
    retry_max_ms: Annotated[
        Milliseconds, _about("Longest reconnection delay told to readers; each is drawn between the two.")
    ] = 3000
    drain_s: Annotated[SecondsOrOff, _about("How long answers may still run after SIGTERM.")] = 10.0
    idempotency_s: Annotated[Seconds, _about("How long an idempotency key is remembered.")] = 86_400.0
    idempotency_max_keys: Annotated[Count, _about("Most idempotency keys remembered by one process.")] = 100_000


class Http(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may call from where, and how large a request may be."""

    cors_origins: Annotated[
        tuple[str, ...],
        _about(
            "Web origins whose pages may call the gateway, exact or https://*.example.org; commas in the environment.",
            example=["https://app.example.org"],
            rule=_ORIGINS,
        ),
    ] = ()
    trusted_proxies: Annotated[
        tuple[str, ...],
        _about(
            "Proxies whose X-Forwarded-For and x-user-id are believed: each must set or remove both. "
            "Separated by commas in the environment.",
            example=["10.0.0.0/8"],
            rule=_NETWORKS,
        ),
    ] = ()
    max_url_bytes: Annotated[ByteCount, _about("Longest request target of a stream route; a longer one gets 414.")] = (
        16_384
    )
    max_body_bytes: Annotated[ByteCount, _about("Largest body of a stream route; a larger one gets 413.")] = 1_048_576
    max_query_bytes: Annotated[ByteCount, _about("Longest question, as UTF-8.")] = 32_768
    max_history_items: Annotated[
        Annotated[int, Meta(ge=0, le=100_000)], _about("Most turns in conversation_history.")
    ] = 100
    max_history_bytes: Annotated[ByteCount, _about("Largest conversation_history, as UTF-8 of all its texts.")] = (
        262_144
    )
    chat_max_body_bytes: Annotated[
        ByteCountOrOff,
        _about("Largest body of the passed-through /chat; 0 means that no bound of ours stands before it."),
    ] = 0


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much one caller may ask."""

    enabled: Annotated[bool, _about("Whether the limits below hold.")] = True
    chat: Annotated[Count, _about("Questions of one caller in chat_window_s.")] = 20
    chat_window_s: Annotated[Seconds, _about("Length of the sliding window of chat.")] = 60.0
    chat_network: Annotated[
        Count, _about("Questions of one IPv6 /48 in chat_window_s, so that many /64 of one owner don't add up.")
    ] = 200
    streams: Annotated[Count, _about("Streams of one verified caller at the same time.")] = 5
    streams_anonymous: Annotated[Count, _about("Streams of one anonymous address at the same time.")] = 20
    streams_total: Annotated[Count, _about("Streams of one process at the same time.")] = 50_000
    resume: Annotated[Count, _about("Resumes of one caller in 60 seconds; they cost no chat quota.")] = 240
    unauthenticated: Annotated[Count, _about("Refused credentials from one address in 60 seconds.")] = 30
    passed_chat: Annotated[
        Annotated[int, Meta(ge=0, le=1_000_000_000)],
        _about("Requests of one caller to the passed-through /chat in chat_window_s; 0 means no limit of ours."),
    ] = 0
    max_keys: Annotated[Count, _about("Callers that one process keeps count of; limited ones are never forgotten.")] = (
        200_000
    )
    ietf_headers: Annotated[bool, _about("Whether answers also carry the IETF's RateLimit headers.")] = False


class Audit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sealed record of what happened."""

    enabled: Annotated[bool, _about("Whether an audit trail is kept.")] = True
    store: Annotated[
        Literal["sqlite", "postgres"], _about("Where records are kept: a file in the state directory, or PostgreSQL.")
    ] = "sqlite"
    dsn: Annotated[
        Secret | None,
        _about("Connection to PostgreSQL.", example="postgresql://subak@db.example.org/audit", rule=_WORD),
    ] = None
    dsn_file: Annotated[
        Path | None, _about("File that holds the connection to PostgreSQL.", example="/run/secrets/dsn", rule=_PATH)
    ] = None
    mode: Annotated[
        Literal["strict", "degraded"],
        _about("What happens when nothing can be recorded: no answers, or answers with a counted loss."),
    ] = "strict"
    retention_days: Annotated[Annotated[int, Meta(ge=1, le=3650)], _about("How long records are kept.")] = 90
    anchor_file: Annotated[
        Path | None,
        _about(
            "Second file that every checkpoint is appended to, best on another disk or host.",
            example="/mnt/anchor/subak-checkpoints",
            rule=_PATH,
        ),
    ] = None
    receipts: Annotated[bool, _about("Whether `done` carries a signed receipt of the answer's record.")] = False


class Loki(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Log lines pushed to Loki from inside the process."""

    url: Annotated[
        str | None,
        _about(
            "Base URL of Loki; unset pushes nothing.",
            alias="GRAFANA_LOKI_URL",
            example="https://logs.example.org",
            rule=_URL,
        ),
    ] = None
    user: Annotated[
        str | None,
        _about("User of Loki's basic authentication.", alias="GRAFANA_LOKI_USER", example="12345", rule=_WORD),
    ] = None
    key: Annotated[
        Secret | None,
        _about(
            "Password of that user; without a user it is sent as a bearer token.",
            alias="GRAFANA_API_KEY",
            example="the-key",
            rule=_CREDENTIAL,
        ),
    ] = None
    key_file: Annotated[
        Path | None, _about("File that holds the password.", example="/run/secrets/loki-key", rule=_PATH)
    ] = None


class Knowledge(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The embedded backend: what it reads and how it answers."""

    docs: Annotated[
        Path | None,
        _about(
            "Folder of Markdown, HTML or text files to answer from; unset means the bundled library.",
            flag="--docs",
            example="./docs",
            rule=_PATH,
        ),
    ] = None
    pace_ms: Annotated[
        Annotated[float, Meta(ge=0, le=60_000)],
        _about("Pause between two words of an answer; 0 streams as fast as it goes.", flag="--pace-ms"),
    ] = 35.0
    max_passages: Annotated[
        Annotated[int, Meta(ge=1, le=100)], _about("Most passages that an answer is made from.")
    ] = 4


class Llm(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The language model that writes the embedded backend's answers; without one they are extracts."""

    url: Annotated[
        str | None,
        _about(
            "Base URL of an OpenAI-compatible server; unset means no model.",
            example="http://127.0.0.1:11434",
            rule=_URL,
        ),
    ] = None
    model: Annotated[
        str | None, _about("Name of the model, as its server knows it.", example="llama3.2", rule=_WORD)
    ] = None
    key: Annotated[
        Secret | None, _about("Credential sent as `Authorization: Bearer`.", example="the-key", rule=_CREDENTIAL)
    ] = None
    key_file: Annotated[
        Path | None, _about("File that holds the key, read once at start.", example="/run/secrets/llm-key", rule=_PATH)
    ] = None


class Log(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is written to standard output."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        _about(
            "Least important lines that are written (warn is understood as warning).",
            alias="LOG_LEVEL",
            rule=_LOG_LEVELS,
        ),
    ] = "info"
    format: Annotated[
        Literal["auto", "json", "pretty"],
        _about("Form of a line; auto is pretty on a terminal, else json."),
    ] = "auto"


class Errors(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is told of crashes, beside the log."""

    sentry_dsn: Annotated[
        Secret | None,
        _about(
            "DSN of a Sentry-compatible service; it is told what crashed and where, never with content.",
            example="https://the-key@errors.example.org/1",
            rule=_DSN,
        ),
    ] = None
    sentry_dsn_file: Annotated[
        Path | None, _about("File that holds the DSN.", example="/run/secrets/sentry-dsn", rule=_PATH)
    ] = None


class Tracing(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One span a stream, sent by OTLP; needs `pip install subak[otel]`."""

    url: Annotated[
        str | None,
        _about(
            "Base URL of an OTLP/HTTP receiver; spans go to /v1/traces there. Unset makes no spans.",
            example="http://127.0.0.1:4318",
            rule=_URL,
        ),
    ] = None
    headers: Annotated[
        Mapping[str, Secret],
        _about(
            "Headers sent with the spans; a JSON object in the environment.",
            example={"Authorization": "Bearer the-key"},
            rule=_HEADERS,
        ),
    ] = {}
    sample: Annotated[
        Annotated[float, Meta(ge=0, le=1)],
        _about("Share of streams that are traced, where the caller's traceparent doesn't decide."),
    ] = 1.0


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of one process, valid and final."""

    state_dir: Annotated[Path, _about("Directory for everything that is kept.", rule=_PATH)] = Path(".subak")
    server: Server = Server()
    admin: Admin = Admin()
    features: Features = Features()
    auth: Auth = Auth()
    upstream: Upstream = Upstream()
    stream: Stream = Stream()
    http: Http = Http()
    limits: Limits = Limits()
    audit: Audit = Audit()
    loki: Loki = Loki()
    knowledge: Knowledge = Knowledge()
    llm: Llm = Llm()
    log: Log = Log()
    errors: Errors = Errors()
    tracing: Tracing = Tracing()


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as its field describes it. `section` is empty for what stands above the sections."""

    section: str
    name: str
    annotation: object
    shape: shapes.Type
    default: object
    sentence: str
    notes: Notes

    @property
    def key(self) -> str:
        """The name used in `subak.toml` and everywhere we speak of it: `stream.heartbeat_s`."""
        return f"{self.section}.{self.name}" if self.section else self.name

    @property
    def variable(self) -> str:
        """The environment variable: `SUBAK_STREAM__HEARTBEAT_S`."""
        return VARIABLE_PREFIX + self.key.replace(".", "__").upper()

    @property
    def is_secret(self) -> bool:
        """Whether the value is masked wherever it is shown."""
        shape = self.shape.value_type if isinstance(self.shape, shapes.DictType) else self.shape
        return isinstance(shape, shapes.CustomType) and shape.cls is Secret

    @property
    def is_url(self) -> bool:
        """Whether the value is a URL, into which people put credentials."""
        return self.notes.rule is _URL

    @property
    def expected(self) -> str:
        """What a value must be, in words."""
        rule = self.notes.rule
        return rule.expected if rule is not None else _expected(self.shape)


def catalogue() -> tuple[Setting, ...]:
    """Every setting, in the order of the documentation."""
    top: list[Setting] = []
    rest: list[Setting] = []
    for field in _fields_of(Settings):
        if isinstance(field.type, shapes.StructType):
            rest.extend(_setting(field.encode_name, inner, field.type.cls) for inner in _fields_of(field.type.cls))
        else:
            top.append(_setting("", field, Settings))
    return (*top, *rest)


def sections() -> Mapping[str, str]:
    """The sections of `subak.toml` and what each is about, in order."""
    return {
        field.encode_name: (field.type.cls.__doc__ or "").partition("\n")[0]
        for field in _fields_of(Settings)
        if isinstance(field.type, shapes.StructType)
    }


def _fields_of(section: type[Struct]) -> tuple[shapes.Field, ...]:
    described = shapes.type_info(section)
    return described.fields if isinstance(described, shapes.StructType) else ()


def _setting(section: str, field: shapes.Field, owner: type[Struct]) -> Setting:
    metadata = field.type
    if not isinstance(metadata, shapes.Metadata) or metadata.extra is None or metadata.extra_json_schema is None:
        raise TypeError(f"{section}.{field.name} has no description")
    annotation = next(each.type for each in msgspec.structs.fields(owner) if each.name == field.name)
    return Setting(
        section=section,
        name=field.name,
        annotation=annotation,
        shape=_without_none(metadata.type),
        default={} if isinstance(metadata.type, shapes.DictType) else field.default,
        sentence=metadata.extra_json_schema["description"],
        notes=metadata.extra["notes"],
    )


def _without_none(shape: shapes.Type) -> shapes.Type:
    if isinstance(shape, shapes.UnionType):
        return next(each for each in shape.types if not isinstance(each, shapes.NoneType))
    return shape


def _expected(shape: shapes.Type) -> str:
    match shape:
        case shapes.BoolType():
            return "true or false (in the environment also 1, 0, yes, no, on, off)"
        case shapes.LiteralType(values=values):
            *rest, last = [str(value) for value in values]
            return f"{', '.join(rest)} or {last}"
        case shapes.IntType():
            return "a whole number " + _bounds(shape)
        case shapes.FloatType():
            return "a number " + _bounds(shape)
        case _:
            raise TypeError(f"a setting of this kind needs a rule: {shape}")


def _bounds(shape: shapes.IntType | shapes.FloatType) -> str:
    if shape.gt is not None:
        return f"above {shape.gt:g}, at most {_figure(shape.le)}"
    return f"from {shape.ge} to {_figure(shape.le)}"


def _figure(bound: float | None) -> str:
    return f"{bound:_.0f}" if bound is not None and bound >= _HARD_TO_READ else f"{bound:.0f}"
