"""Valid settings out of all places, each with its source, or everything that is wrong with them at once.

The order is defaults < `subak.toml` < environment < flags. The environment names follow one rule, `SUBAK_SECTION__KEY`;
a few older names stay as aliases (PROTOCOL §9); an empty variable counts as unset. What can be set stands in
`settings_fields`.

This is the one module that reads the environment. It opens nothing but the configuration file and `*_file` secrets.
"""

import difflib
import json
import math
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType

import msgspec
from msgspec import inspect as shapes

from subak.settings_fields import (
    MASK,
    VARIABLE_PREFIX,
    Admin,
    Audit,
    Auth,
    Errors,
    Features,
    Http,
    Knowledge,
    Limits,
    Llm,
    Log,
    Loki,
    Rule,
    Secret,
    Server,
    Setting,
    Settings,
    Stream,
    Tracing,
    Upstream,
    catalogue,
    sections,
)

__all__ = [
    "DEFAULT_FILE",
    "FILE_VARIABLE",
    "MASK",
    "Admin",
    "Audit",
    "Auth",
    "Errors",
    "Features",
    "Given",
    "Http",
    "Knowledge",
    "Limits",
    "Llm",
    "Loaded",
    "Log",
    "Loki",
    "Problem",
    "Secret",
    "Server",
    "Setting",
    "Settings",
    "SettingsError",
    "Stream",
    "Tracing",
    "Upstream",
    "as_text",
    "catalogue",
    "environment",
    "load",
    "locate",
    "sections",
    "value_of",
]

DEFAULT_FILE = "subak.toml"
FILE_VARIABLE = "SUBAK_CONFIG"

_TEST_PREFIX = "SUBAK_TEST_"
_MAX_FILE_BYTES = 1 << 20
_MAX_SHOWN_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class Given:
    """A value as somebody gave it, and where: `subak.toml:14`, `environment SUBAK_SERVER__PORT`, `flag --port`."""

    value: object
    source: str


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `value` is as it may be shown, None when it may not or there is none."""

    source: str
    key: str
    value: str | None
    message: str
    fix: str

    def __str__(self) -> str:
        names_it = self.source.startswith(("environment ", "flag "))
        where = self.source if names_it else f"{self.source} {self.key}".rstrip()
        shown = "" if self.value is None else f" = {self.value}"
        return f"{where}{shown}: {self.message}; {self.fix}"


class SettingsError(Exception):
    """The settings can't be used. `problems` has all that is wrong, not just the first."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Loaded:
    """Valid settings, and for every key where its value came from."""

    settings: Settings
    sources: Mapping[str, str]


def value_of(settings: Settings, key: str) -> object:
    """The value behind a key such as `stream.heartbeat_s`."""
    value: object = attrgetter(key)(settings)
    return value


@dataclass(frozen=True, slots=True)
class _Layer:
    """What one place gave: raw values by key, and what was wrong before looking at any value."""

    given: Mapping[str, Given]
    problems: tuple[Problem, ...] = ()


def environment() -> Mapping[str, str]:
    """The environment of this process, as it is now."""
    return dict(os.environ)


def locate(env: Mapping[str, str], asked_for: str | None) -> Path | None:
    """The configuration file: the one asked for, else `SUBAK_CONFIG`, else `./subak.toml` if there is one."""
    named = asked_for or env.get(FILE_VARIABLE, "").strip()
    if named:
        return Path(named)
    default = Path(DEFAULT_FILE)
    return default if default.is_file() else None


def load(env: Mapping[str, str], file: Path | None, flags: Mapping[str, Given]) -> Loaded:
    """Valid settings out of all places: defaults < `file` < `env` < `flags`.

    `flags` go by key; a text among them is read as in the environment. Reads `file` and the secrets that settings name,
    nothing else.

    Raises:
        SettingsError: something is wrong in any of them; it lists everything.
    """
    known = {setting.key: setting for setting in catalogue()}
    problems: list[Problem] = []
    values: dict[str, object] = {key: setting.default for key, setting in known.items()}
    sources: dict[str, str] = dict.fromkeys(known, "default")
    for layer in (_from_file(file, known), _from_environment(env, known), _Layer(flags)):
        problems.extend(layer.problems)
        _apply(layer.given, known, values, sources, problems)
    _apply(_from_secret_files(known, values, sources, problems), known, values, sources, problems)
    settings = _assembled(values)
    wrong_keys = {problem.key for problem in problems}
    problems.extend(
        each.problem(values, sources, known)
        for each in _contradictions(settings, sources)
        if not wrong_keys.intersection(each.keys)
    )
    if problems:
        raise SettingsError(tuple(problems))
    return Loaded(settings, MappingProxyType(sources))


def _apply(
    given: Mapping[str, Given],
    known: Mapping[str, Setting],
    values: dict[str, object],
    sources: dict[str, str],
    problems: list[Problem],
) -> None:
    for key, each in given.items():
        try:
            values[key] = _valid(known[key], each.value)
        except ValueError:
            problems.append(_invalid(known[key], each))
        else:
            sources[key] = each.source


def _assembled(values: Mapping[str, object]) -> Settings:
    nested: dict[str, object] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        if section:
            inner = nested.setdefault(section, {})
            if isinstance(inner, dict):
                inner[name] = value
        else:
            nested[name] = value
    return msgspec.convert(nested, Settings)


def _invalid(setting: Setting, given: Given) -> Problem:
    if setting.default is None or setting.default in ({}, ()):
        fix = f"for example {as_text(setting.notes.example)}"
    else:
        fix = f"the default is {as_text(setting.default)}"
    return Problem(given.source, setting.key, _shown(setting, given.value), f"expected {setting.expected}", fix)


def as_text(value: object) -> str:
    """A value as `subak.toml` and `subak config show` write it, secrets masked."""
    match value:
        case None:
            return "unset"
        case Secret():
            return f'"{MASK}"'
        case bool():
            return "true" if value else "false"
        case float() if value.is_integer():
            return str(int(value))
        case int() | float():
            return str(value)
        case list() | tuple():
            return f"[{', '.join(map(as_text, value))}]"
        case Mapping():
            return f"{{{', '.join(f'{as_text(name)} = {as_text(each)}' for name, each in value.items())}}}"
        case _:
            return json.dumps(str(value), ensure_ascii=False)


def _shown(setting: Setting, value: object) -> str:
    """A refused value, safe to print: no secret, no credentials of a URL, bounded, one line."""
    if setting.is_secret:
        return MASK
    try:
        text = json.dumps(value, default=str)
    except (RecursionError, ValueError):  # a table of a thousand levels, an integer of a thousand digits
        return "…"
    if setting.is_url and any(mark in text for mark in "@?#"):  # where people put credentials
        return MASK
    return text if len(text) <= _MAX_SHOWN_CHARACTERS else text[:_MAX_SHOWN_CHARACTERS] + "…"


def _valid(setting: Setting, raw: object) -> object:
    """The value of a setting from what was given: a TOML value, or text that is read by the setting's type.

    Raises:
        ValueError: it is none (msgspec's ValidationError is one).
    """
    value = _read(setting, raw.strip()) if isinstance(raw, str) else raw
    if value is None:
        raise ValueError("nothing given")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("not a finite number")
    rule = setting.notes.rule
    if rule is not None:
        value = _tidied(value, rule)
    converted: object = msgspec.convert(value, setting.annotation, dec_hook=_own_type)
    if rule is not None and not all(map(rule.accepts, _texts(converted))):
        raise ValueError("against the rule")
    return converted


def _tidied(value: object, rule: Rule) -> object:
    return rule.tidy(value) if isinstance(value, str) else value


def _texts(value: object) -> Iterator[str]:
    match value:
        case Secret():
            yield value.reveal()
        case Path():
            yield str(value)
        case str():
            yield value
        case tuple():
            yield from map(str, value)
        case Mapping():
            yield from (f"{name}: {secret.reveal()}" for name, secret in value.items())
        case _:
            raise TypeError("a rule is for texts")


def _own_type(kind: type, value: object) -> object:
    if not isinstance(value, str) or not value:
        raise ValueError("expected text")
    if kind is Secret:
        return Secret(value)
    try:
        return Path(value).expanduser()
    except RuntimeError as exc:
        raise ValueError("no such home directory") from exc


def _read(setting: Setting, text: str) -> object:
    match setting.shape:
        case shapes.BoolType():
            return _read_bool(text)
        case shapes.IntType():
            return _read_number(text, r"-?[0-9]{1,18}", int)
        case shapes.FloatType():
            return _read_number(text, r"-?[0-9]{1,18}(?:\.[0-9]{1,18})?", float)
        case shapes.LiteralType():
            return text.lower()
        case shapes.VarTupleType():
            return [item.strip() for item in text.split(",")]
        case shapes.DictType():
            return msgspec.json.decode(text, type=dict[str, str])
        case _:
            return text


def _read_bool(text: str) -> bool:
    if text.lower() in {"true", "1", "yes", "on"}:
        return True
    if text.lower() in {"false", "0", "no", "off"}:
        return False
    raise ValueError("neither true nor false")


def _read_number(text: str, form: str, kind: Callable[[str], float]) -> float:
    if re.fullmatch(form, text) is None:
        raise ValueError("not a number")
    return kind(text)


def _from_file(file: Path | None, known: Mapping[str, Setting]) -> _Layer:
    if file is None:
        return _Layer({})
    try:
        text = _contents(file)
        document = tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as exc:
        return _Layer({}, (_unreadable(str(file), "", exc),))
    lines = _lines_of_keys(text)
    given: dict[str, Given] = {}
    problems: list[Problem] = []
    section_names = sections()
    for name, value in document.items():
        source = _file_source(file, lines, name)
        if name in section_names and isinstance(value, dict):
            for inner, each in value.items():
                key = f"{name}.{inner}"
                _take(key, Given(each, _file_source(file, lines, key)), known, given, problems)
        elif name in section_names:
            problems.append(Problem(source, name, None, "expected a table", f"write [{name}] and its keys below"))
        elif "." in name:
            problems.append(Problem(source, name, None, "unknown key", "a dotted key is written without quotes"))
        else:
            _take(name, Given(value, source), known, given, problems)
    return _Layer(given, tuple(problems))


def _take(
    key: str, each: Given, known: Mapping[str, Setting], given: dict[str, Given], problems: list[Problem]
) -> None:
    if key not in known:
        problems.append(Problem(each.source, key, None, "unknown key", _suggestion(key, known)))
    elif isinstance(each.value, str) and isinstance(known[key].shape, _NO_TEXT_IN_TOML):
        problems.append(_invalid(known[key], each))
    else:
        given[key] = each


# In TOML these have a notation of their own: port = "8080" is a mistake there, SUBAK_SERVER__PORT=8080 isn't.
_NO_TEXT_IN_TOML = (shapes.BoolType, shapes.IntType, shapes.FloatType, shapes.VarTupleType, shapes.DictType)


def _suggestion(key: str, known: Mapping[str, Setting]) -> str:
    name = key.rpartition(".")[2]
    elsewhere = [setting.key for setting in known.values() if setting.name == name]
    close = elsewhere or difflib.get_close_matches(key, [*known, *sections()], n=1)
    return f"did you mean {close[0]}?" if close else "`subak config example` lists all keys"


def _contents(path: Path) -> str:
    with path.open("rb") as file:
        raw = file.read(_MAX_FILE_BYTES + 1)
    if len(raw) > _MAX_FILE_BYTES:
        raise ValueError(f"larger than {_MAX_FILE_BYTES} bytes")
    return raw.decode("utf-8")


def _unreadable(source: str, key: str, exc: Exception) -> Problem:
    match exc:
        case FileNotFoundError():
            return Problem(source, key, None, "no such file", "correct the path or leave it out")
        case OSError():
            return Problem(source, key, None, exc.strerror or "can't be read", "make it readable for this user")
        case UnicodeDecodeError():
            return Problem(source, key, None, f"not UTF-8 at byte {exc.start}", "save it as UTF-8")
        case tomllib.TOMLDecodeError():
            return Problem(source, key, None, f"not valid TOML: {exc}", "correct the line")
        case RecursionError():
            return Problem(source, key, None, "nested too deeply", "settings are two levels deep")
        case _:
            return Problem(source, key, None, f"can't be read: {exc}", "correct the file")


def _file_source(file: Path, lines: Mapping[str, int], key: str) -> str:
    line = lines.get(key)
    return str(file) if line is None else f"{file}:{line}"


def _lines_of_keys(text: str) -> dict[str, int]:
    """The line on which each key or table stands first, as far as a look at line beginnings tells."""
    found: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.split("\n"), start=1):
        if header := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line):
            table = _plain_key(header[1])
            found.setdefault(table, number)
        elif assignment := re.match(r"\s*([\w\-.\s\"']+?)\s*=", line):
            key = _plain_key(assignment[1])
            found.setdefault(f"{table}.{key}" if table else key, number)
    return found


def _plain_key(written: str) -> str:
    return re.sub(r"[\s\"']", "", written)


def _from_environment(env: Mapping[str, str], known: Mapping[str, Setting]) -> _Layer:
    by_variable = {setting.variable: setting for setting in known.values()}
    by_alias = {setting.notes.alias: setting for setting in known.values() if setting.notes.alias}
    given: dict[str, Given] = {}
    problems: list[Problem] = []
    for variable, text in sorted(env.items()):
        if not text.strip():
            continue
        if variable in by_variable:
            given[by_variable[variable].key] = Given(text, f"environment {variable}")
        elif variable.startswith(VARIABLE_PREFIX) and not _is_foreign(variable, text):
            message = "unknown setting"
            fix = _variable_suggestion(variable, by_variable)
            problems.append(Problem(f"environment {variable}", "", None, message, fix))
    for alias, setting in by_alias.items():
        text = env.get(alias, "").strip()
        if not text:
            continue
        if setting.key not in given:
            given[setting.key] = Given(text, f"environment {alias}")
        elif not _mean_the_same(setting, text, given[setting.key].value):
            problems.append(_two_names(setting, alias))
    return _Layer(given, tuple(problems))


def _is_foreign(variable: str, text: str) -> bool:
    """Whether a SUBAK_ variable isn't for the settings.

    Kubernetes gives every container of a namespace the variables of a Service named `subak` (or `subak-redis`), such as
    SUBAK_SERVICE_HOST and SUBAK_PORT=tcp://10.0.0.1:80: https://kubernetes.io/docs/concepts/services-networking/service/
    """
    if variable == FILE_VARIABLE or variable.startswith(_TEST_PREFIX):
        return True
    if "__" in variable:
        return False
    if re.search(r"_SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)$|_PORT_[0-9]+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR)$", variable):
        return True
    is_address = re.match(r"(tcp|udp|sctp)://", text) is not None
    return is_address and re.search(r"_PORT(_[0-9]+_(TCP|UDP|SCTP))?$", variable) is not None


def _variable_suggestion(variable: str, by_variable: Mapping[str, Setting]) -> str:
    name = variable.removeprefix(VARIABLE_PREFIX)
    without_section = [each for each in by_variable if each.endswith(f"__{name}")]
    close = without_section or difflib.get_close_matches(variable, [*by_variable, FILE_VARIABLE], n=1)
    return f"did you mean {close[0]}?" if close else "`subak config example` lists all settings"


def _mean_the_same(setting: Setting, one: object, other: object) -> bool:
    try:
        return _valid(setting, one) == _valid(setting, other)
    except ValueError:
        return one == other


def _two_names(setting: Setting, alias: str) -> Problem:
    message = f"{setting.variable} and its alias {alias} are both set and differ"
    return Problem(f"environment {setting.variable}", setting.key, None, message, "unset one of them")


def _from_secret_files(
    known: Mapping[str, Setting], values: Mapping[str, object], sources: Mapping[str, str], problems: list[Problem]
) -> Mapping[str, Given]:
    """The secrets whose `*_file` twin is set. One that is set in both ways is a problem."""
    given: dict[str, Given] = {}
    for key, setting in known.items():
        path = values.get(f"{key}_file")
        if not setting.is_secret or not isinstance(path, Path):
            continue
        named_by = sources[f"{key}_file"]
        if sources[key] != "default":
            message = f"{key} is set too, by {sources[key]}"
            problems.append(Problem(named_by, f"{key}_file", None, message, "keep one of them"))
            continue
        try:
            given[key] = Given(_contents(path), f"file {path}")
        except (OSError, ValueError) as exc:
            problems.append(replace(_unreadable(named_by, f"{key}_file", exc), value=as_text(path)))
    return given


@dataclass(frozen=True, slots=True)
class _Contradiction:
    """Values that are valid alone and not together. The first key is the one reported."""

    keys: tuple[str, ...]
    message: str
    fix: str

    def problem(
        self, values: Mapping[str, object], sources: Mapping[str, str], known: Mapping[str, Setting]
    ) -> Problem:
        key = self.keys[0]
        shown = MASK if known[key].is_secret else as_text(values[key])
        return Problem(sources[key], key, None if values[key] is None else shown, self.message, self.fix)


def _contradictions(settings: Settings, sources: Mapping[str, str]) -> Iterator[_Contradiction]:
    for lower, upper in _ORDERED:
        small, large = attrgetter(lower, upper)(settings)
        if small <= large:
            continue
        if sources[lower] == "default":
            message = f"expected at least {lower}, which is {as_text(small)}"
            yield _Contradiction((upper, lower), message, "raise it, or lower the other")
        else:
            message = f"expected at most {upper}, which is {as_text(large)}"
            yield _Contradiction((lower, upper), message, "lower it, or raise the other")
    yield from _upstream_contradictions(settings.upstream)
    yield from _auth_contradictions(settings.auth)
    if settings.audit.store == "postgres" and settings.audit.dsn is None:
        yield _Contradiction(("audit.store", "audit.dsn"), "needs audit.dsn", "set the connection, or store = sqlite")
    if settings.loki.user is not None and settings.loki.key is None:
        yield _Contradiction(("loki.user", "loki.key"), "needs loki.key too", "set the user's password")
    if settings.llm.url is not None and settings.llm.model is None:
        yield _Contradiction(("llm.url", "llm.model"), "needs llm.model too", "name the model that the server has")


_ORDERED = (
    ("stream.comment_s", "stream.heartbeat_s"),
    ("stream.retry_min_ms", "stream.retry_max_ms"),
    ("stream.max_bytes", "stream.memory_budget_bytes"),
    ("upstream.max_event_bytes", "stream.max_bytes"),
)


def _auth_contradictions(auth: Auth) -> Iterator[_Contradiction]:
    has_secret, has_keys = auth.jwt_secret is not None, auth.jwks_url is not None
    if has_secret and has_keys:
        yield _Contradiction(("auth.jwt_secret", "auth.jwks_url"), "and auth.jwks_url exclude each other", "keep one")
    source = "auth.jwt_secret" if has_secret else "auth.jwks_url"
    wrong = [name for name in auth.algorithms if name.startswith("HS") is not has_secret]
    if auth.algorithms and not (has_secret or has_keys):
        keys = ("auth.algorithms", "auth.jwks_url")
        yield _Contradiction(keys, "needs auth.jwt_secret or auth.jwks_url", "say where keys come from")
    elif wrong:
        yield _Contradiction(("auth.algorithms", source), f"{wrong[0]} doesn't go with {source}", "leave it out")
    if auth.jwt_secret is not None and not wrong:
        longest = max((int(name[2:]) // 8 for name in auth.algorithms), default=0)  # RFC 7518 §3.2
        if len(auth.jwt_secret.reveal().encode()) < longest:
            keys = ("auth.jwt_secret", "auth.algorithms")
            yield _Contradiction(keys, f"needs {longest} bytes for auth.algorithms", "make a longer one")
    if has_secret or has_keys:
        for name in ("issuer", "audience"):
            if getattr(auth, name) is None:
                yield _Contradiction((f"auth.{name}", source), f"is needed with {source}", "say whose tokens count")


def _upstream_contradictions(upstream: Upstream) -> Iterator[_Contradiction]:
    if upstream.kind in {"rag", "openai"} and upstream.url is None:
        yield _Contradiction(("upstream.kind", "upstream.url"), "needs upstream.url", "set the URL, or kind = auto")
    if upstream.system_prompt is not None and upstream.system_prompt_file is not None:
        keys = ("upstream.system_prompt", "upstream.system_prompt_file")
        yield _Contradiction(keys, "and upstream.system_prompt_file say the same thing twice", "keep one of them")
    if upstream.client_key_file is not None and upstream.client_cert_file is None:
        keys = ("upstream.client_key_file", "upstream.client_cert_file")
        yield _Contradiction(keys, "needs upstream.client_cert_file", "name the certificate of this key")
    for name in ("ca_file", "client_cert_file"):
        if getattr(upstream, name) is not None and upstream.url is not None and upstream.url.startswith("http://"):
            keys = (f"upstream.{name}", "upstream.url")
            yield _Contradiction(keys, "is for TLS, and upstream.url is http://", "use https:// or leave it out")
    credentials = [
        key
        for key, is_set in (
            ("upstream.token_file", upstream.token_file is not None),
            ("upstream.key", upstream.key is not None),
            ("upstream.headers", any(name.lower() == "authorization" for name in upstream.headers)),
        )
        if is_set
    ]
    if len(credentials) > 1:
        message = f"sets Authorization, and so does {' and '.join(credentials[1:])}"
        yield _Contradiction(tuple(credentials), message, "keep one of them")
