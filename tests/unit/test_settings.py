"""Settings: where values come from, what is refused and how it is said."""

import re
import string
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subak.settings import (
    Given,
    Loaded,
    Problem,
    Secret,
    Settings,
    SettingsError,
    as_text,
    catalogue,
    load,
    locate,
    sections,
    value_of,
)

NOTHING: Mapping[str, Given] = {}


def from_environment(**variables: str) -> Loaded:
    return load(variables, None, NOTHING)


def from_text(directory: Path, text: str, **variables: str) -> Loaded:
    file = directory / "subak.toml"
    file.write_text(text, encoding="utf-8")
    return load(variables, file, NOTHING)


def problems_of(**variables: str) -> tuple[Problem, ...]:
    with pytest.raises(SettingsError) as caught:
        from_environment(**variables)
    return caught.value.problems


def problem_of(**variables: str) -> str:
    (problem,) = problems_of(**variables)
    return str(problem)


def problems_in(directory: Path, text: str, **variables: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        from_text(directory, text, **variables)
    return [str(problem).replace(f"{directory}/", "") for problem in caught.value.problems]


# Where values come from


def test_nothing_given_means_the_defaults() -> None:
    loaded = load({}, None, NOTHING)
    assert loaded.settings == Settings()
    assert set(loaded.sources.values()) == {"default"}


@pytest.mark.parametrize(
    ("variable", "default"),
    [
        ("SUBAK_STATE_DIR", Path(".subak")),
        ("SUBAK_SERVER__HOST", "127.0.0.1"),
        ("SUBAK_SERVER__PORT", 8080),
        ("SUBAK_ADMIN__PORT", 9464),
        ("SUBAK_UPSTREAM__URL", None),
        ("SUBAK_UPSTREAM__KEY", None),
        ("SUBAK_UPSTREAM__METHOD", "get"),
        ("SUBAK_UPSTREAM__CONNECT_TIMEOUT_S", 5),
        ("SUBAK_UPSTREAM__FIRST_BYTE_TIMEOUT_S", 60),
        ("SUBAK_UPSTREAM__IDLE_TIMEOUT_S", 120),
        ("SUBAK_STREAM__HEARTBEAT_S", 30),
        ("SUBAK_STREAM__COMMENT_S", 15),
        ("SUBAK_STREAM__GRACE_S", 30),
        ("SUBAK_STREAM__ON_DISCONNECT", "grace"),
        ("SUBAK_STREAM__MAX_CONNECTION_AGE_S", 300),
        ("SUBAK_STREAM__DRAIN_S", 10),
        ("SUBAK_STREAM__MAX_LAG_BYTES", 262_144),
        ("SUBAK_STREAM__MAX_EVENTS", 20_000),
        ("SUBAK_STREAM__MAX_BYTES", 4 * 1024 * 1024),
        ("SUBAK_STREAM__MAX_AGE_S", 1800),
        ("SUBAK_STREAM__MEMORY_BUDGET_BYTES", 1024**3),
        ("SUBAK_STREAM__REPLAY_S", 300),
        ("SUBAK_STREAM__TOMBSTONE_S", 3600),
        ("SUBAK_STREAM__IDEMPOTENCY_S", 86_400),
        ("SUBAK_LIMITS__ENABLED", True),
        ("SUBAK_LIMITS__CHAT", 20),
        ("SUBAK_LIMITS__STREAMS", 5),
        ("SUBAK_LIMITS__STREAMS_ANONYMOUS", 20),
        ("SUBAK_HTTP__TRUSTED_PROXIES", ()),
        ("SUBAK_HTTP__CORS_ORIGINS", ()),
        ("SUBAK_KNOWLEDGE__PACE_MS", 35),
        ("SUBAK_KNOWLEDGE__DOCS", None),
    ],
)
def test_names_and_defaults_are_those_of_the_protocol(variable: str, default: object) -> None:
    (setting,) = (each for each in catalogue() if each.variable == variable)
    assert setting.default == default


def test_flags_beat_the_environment_and_the_environment_beats_the_file(tmp_path: Path) -> None:
    file = tmp_path / "subak.toml"
    file.write_text("[server]\nhost = '10.0.0.1'\nport = 1001\nbacklog = 7\n", encoding="utf-8")
    variables = {"SUBAK_SERVER__HOST": "10.0.0.2", "SUBAK_SERVER__PORT": "1002"}
    loaded = load(variables, file, {"server.host": Given("10.0.0.3", "flag --host")})
    server = loaded.settings.server
    assert (server.host, server.port, server.backlog) == ("10.0.0.3", 1002, 7)
    assert loaded.sources["server.host"] == "flag --host"
    assert loaded.sources["server.port"] == "environment SUBAK_SERVER__PORT"
    assert loaded.sources["server.backlog"] == f"{file}:4"
    assert loaded.sources["server.loop"] == "default"


@pytest.mark.parametrize("text", ["", " ", "\t\n"])
def test_an_empty_variable_counts_as_unset(text: str) -> None:
    loaded = from_environment(SUBAK_SERVER__PORT=text, ENABLE_SSE_STREAMING=text, SUBAK_NO_SUCH_THING=text)
    assert loaded.settings == Settings()


def test_variables_of_others_are_left_alone() -> None:
    loaded = from_environment(PATH="/bin", SUBAKX="1", subak_server__port="1", SUBAK_TEST_LOKI_URL="http://x")
    assert loaded.settings == Settings()


def test_variables_that_kubernetes_makes_for_a_service_are_left_alone() -> None:
    loaded = from_environment(
        SUBAK_SERVICE_HOST="10.0.0.1",
        SUBAK_SERVICE_PORT="80",
        SUBAK_SERVICE_PORT_HTTP="80",
        SUBAK_PORT="tcp://10.0.0.1:80",
        SUBAK_PORT_80_TCP="tcp://10.0.0.1:80",
        SUBAK_PORT_80_TCP_PROTO="tcp",
        SUBAK_PORT_80_TCP_ADDR="10.0.0.1",
        SUBAK_REDIS_SERVICE_HOST="10.0.0.2",
    )
    assert loaded.settings == Settings()


@pytest.mark.parametrize(
    ("alias", "text", "key", "value"),
    [
        ("ENABLE_SSE_STREAMING", "true", "features.sse_streaming", True),
        ("RAG_BACKEND_URL", "http://127.0.0.1:8000", "upstream.url", "http://127.0.0.1:8000"),
        ("LOG_LEVEL", "debug", "log.level", "debug"),
        ("LOG_LEVEL", "WARN", "log.level", "warning"),
    ],
)
def test_an_alias_sets_its_setting(alias: str, text: str, key: str, value: object) -> None:
    loaded = from_environment(**{alias: text})
    assert value_of(loaded.settings, key) == value
    assert loaded.sources[key] == f"environment {alias}"


def test_a_name_and_its_alias_may_say_the_same() -> None:
    loaded = from_environment(SUBAK_FEATURES__SSE_STREAMING="yes", ENABLE_SSE_STREAMING="1")
    assert loaded.settings.features.sse_streaming
    assert loaded.sources["features.sse_streaming"] == "environment SUBAK_FEATURES__SSE_STREAMING"


def test_a_name_and_its_alias_that_differ_are_refused() -> None:
    said = problem_of(SUBAK_FEATURES__SSE_STREAMING="true", ENABLE_SSE_STREAMING="false")
    assert "SUBAK_FEATURES__SSE_STREAMING" in said
    assert "ENABLE_SSE_STREAMING are both set and differ" in said


def test_the_file_is_the_one_asked_for_then_the_one_named_then_the_one_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate({}, None) is None
    (tmp_path / "subak.toml").touch()
    assert locate({}, None) == Path("subak.toml")
    assert locate({"SUBAK_CONFIG": "other.toml"}, None) == Path("other.toml")
    assert locate({"SUBAK_CONFIG": "other.toml"}, "third.toml") == Path("third.toml")
    assert locate({"SUBAK_CONFIG": ""}, None) == Path("subak.toml")


# How problems are said


def test_all_problems_of_all_places_come_at_once(tmp_path: Path) -> None:
    file = tmp_path / "subak.toml"
    file.write_text('[stream]\n# how often\nheartbeat_s = "x"\n[sever]\nport = 1\n', encoding="utf-8")
    variables = {"SUBAK_SERVER__PORT": "x", "ENABLE_SSE_STREAMING": "maybe", "SUBAK_SERVER__PROT": "1"}
    with pytest.raises(SettingsError) as caught:
        load(variables, file, {"knowledge.pace_ms": Given("-1", "flag --pace-ms")})
    assert [str(problem) for problem in caught.value.problems] == [
        f'{file}:3 stream.heartbeat_s = "x": expected a number above 0, at most 31_536_000; the default is 30',
        f"{file}:4 sever: unknown key; did you mean server?",
        "environment SUBAK_SERVER__PROT: unknown setting; did you mean SUBAK_SERVER__PORT?",
        'environment SUBAK_SERVER__PORT = "x": expected a whole number from 0 to 65535; the default is 8080',
        (
            'environment ENABLE_SSE_STREAMING = "maybe": expected true or false '
            "(in the environment also 1, 0, yes, no, on, off); the default is false"
        ),
        'flag --pace-ms = "-1": expected a number from 0 to 60000; the default is 35',
    ]


def test_a_bad_value_in_the_file_is_told_even_when_the_environment_overrides_it(tmp_path: Path) -> None:
    said = problems_in(tmp_path, "[server]\nport = -1\n", SUBAK_SERVER__PORT="80")
    assert said == ["subak.toml:2 server.port = -1: expected a whole number from 0 to 65535; the default is 8080"]


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("SUBAK_PORT", "SUBAK_SERVER__PORT"),
        ("SUBAK_SERVER_PORT", "SUBAK_SERVER__PORT"),
        ("SUBAK_STREAM__HARTBEAT_S", "SUBAK_STREAM__HEARTBEAT_S"),
        ("SUBAK_CONFG", "SUBAK_CONFIG"),
    ],
)
def test_a_misspelt_variable_gets_a_suggestion(variable: str, meant: str) -> None:
    assert problem_of(**{variable: "8080"}) == f"environment {variable}: unknown setting; did you mean {meant}?"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[stream]\nhartbeat_s = 1", "subak.toml:2 stream.hartbeat_s: unknown key; did you mean stream.heartbeat_s?"),
        ("[server]\nheartbeat_s = 1", "subak.toml:2 server.heartbeat_s: unknown key; did you mean stream.heartbeat_s?"),
        ("port = 1", "subak.toml:1 port: unknown key; did you mean server.port?"),
        ("zzzzzz = 1", "subak.toml:1 zzzzzz: unknown key; `subak config example` lists all keys"),
        ("\nserver = 1", "subak.toml:2 server: expected a table; write [server] and its keys below"),
        ('"server.port" = 1', "subak.toml:1 server.port: unknown key; a dotted key is written without quotes"),
    ],
)
def test_an_unknown_key_gets_its_line_and_a_suggestion(tmp_path: Path, text: str, said: str) -> None:
    assert problems_in(tmp_path, text) == [said]


@pytest.mark.parametrize(
    "text",
    [
        "\n\n[server]\n\nport = 'x'",
        "# port = 1\n[admin]\nport = 1\n[server]\nport = 'x'",
        "\n\n\n\nserver.port = 'x'",
        "\n\n\n[ server ]\n\"port\" = 'x'",
        "a = '''\n[server]\n'''\n[server]\nport = 'x'",
    ],
)
def test_the_line_of_a_key_is_found(tmp_path: Path, text: str) -> None:
    assert any(said.startswith("subak.toml:5 server.port = ") for said in problems_in(tmp_path, text))


def test_a_key_inside_an_inline_table_is_told_without_a_line(tmp_path: Path) -> None:
    said = problems_in(tmp_path, "server = {port = 'x'}")
    assert said[0].startswith('subak.toml server.port = "x": ')


def test_a_long_value_is_cut(tmp_path: Path) -> None:
    (said,) = problems_in(tmp_path, f"[server]\nhost = '{'x ' * 5000}'")
    assert len(said) < 250


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"[server\n", "subak.toml: not valid TOML: "),
        (b"a = \xff\n", "subak.toml: not UTF-8 at byte 4"),
        (b"a = " + b"[" * 20_000, "subak.toml: nested too deeply"),
        (b"a = " + b"9" * 5_000, "subak.toml: can't be read: "),
        (b"#" * (1024 * 1024 + 1), "subak.toml: can't be read: larger than 1048576 bytes"),
    ],
)
def test_a_file_that_is_no_toml_is_one_problem(tmp_path: Path, raw: bytes, said: str) -> None:
    file = tmp_path / "subak.toml"
    file.write_bytes(raw)
    with pytest.raises(SettingsError) as caught:
        load({}, file, NOTHING)
    (problem,) = caught.value.problems
    assert str(problem).replace(f"{tmp_path}/", "").startswith(said)


def test_a_file_that_is_missing_is_one_problem(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no such file; correct the path or leave it out"):
        load({}, tmp_path / "none.toml", NOTHING)


def test_a_file_that_is_a_directory_is_one_problem(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="Is a directory"):
        load({}, tmp_path, NOTHING)


# What is accepted


@pytest.mark.parametrize("text", ["true", "TRUE", "1", "yes", "Yes", "on", " true "])
def test_truth_in_the_environment(text: str) -> None:
    assert from_environment(ENABLE_SSE_STREAMING=text).settings.features.sse_streaming


@pytest.mark.parametrize("text", ["false", "False", "0", "no", "NO", "off"])
def test_falsehood_in_the_environment(text: str) -> None:
    assert not from_environment(ENABLE_SSE_STREAMING=text).settings.features.sse_streaming


@pytest.mark.parametrize("text", ["2", "t", "enabled", "ja", "tru e", "null"])
def test_a_flag_that_is_neither_names_the_variable_and_what_is_accepted(text: str) -> None:
    said = problem_of(ENABLE_SSE_STREAMING=text)
    assert said.startswith("environment ENABLE_SSE_STREAMING = ")
    for word in ("true", "false", "1", "0", "yes", "no"):
        assert word in said


@pytest.mark.parametrize("text", ["x", "1.5", "1e3", "1_0", "٣", "0x10", "-1", "65536", "9" * 5000, "1 2"])
def test_a_port_that_is_none_is_refused(text: str) -> None:
    (problem,) = problems_of(SUBAK_SERVER__PORT=text)
    assert problem.key == "server.port"


@pytest.mark.parametrize("text", ["0", "65535", " 80\n"])
def test_a_port_at_its_bounds_is_accepted(text: str) -> None:
    assert from_environment(SUBAK_SERVER__PORT=text).settings.server.port == int(text)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e400", "31536001", "1,5", ""])
def test_a_duration_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    said = problems_in(tmp_path, f"[stream]\nheartbeat_s = {text or chr(39) * 2}")
    assert len(said) == 1


def test_a_duration_may_be_a_fraction(tmp_path: Path) -> None:
    loaded = from_text(tmp_path, "[stream]\nheartbeat_s = 0.5\n", SUBAK_STREAM__COMMENT_S="0.25")
    assert (loaded.settings.stream.heartbeat_s, loaded.settings.stream.comment_s) == (0.5, 0.25)


@pytest.mark.parametrize(
    "text", ['port = "8080"', "port = true", "port = 8080.0", "port = [1]", "port = {a = 1}", "port = 1979-05-27"]
)
def test_toml_values_keep_their_types(tmp_path: Path, text: str) -> None:
    (said,) = problems_in(tmp_path, f"[server]\n{text}")
    assert "expected a whole number" in said


def test_an_integer_too_long_to_print_is_refused_without_printing_it(tmp_path: Path) -> None:
    (said,) = problems_in(tmp_path, f"[server]\nport = 0x{'f' * 5000}")
    assert said.startswith("subak.toml:2 server.port = …: expected a whole number")


def test_choices_are_read_in_any_case() -> None:
    loaded = from_environment(SUBAK_STREAM__ON_DISCONNECT="Cancel", SUBAK_LOG__FORMAT="JSON")
    assert (loaded.settings.stream.on_disconnect, loaded.settings.log.format) == ("cancel", "json")


def test_a_wrong_choice_names_the_right_ones() -> None:
    assert "expected auto, embedded, openai or rag" in problem_of(SUBAK_UPSTREAM__KIND="gpt")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("https://rag.example.org/prefix/", "https://rag.example.org/prefix"),
        ("http://[::1]:8000/", "http://[::1]:8000"),
        ("HTTPS://Host/P/", "https://Host/P"),
        ("http://rag_backend", "http://rag_backend"),
    ],
)
def test_an_upstream_url_is_accepted_without_its_last_slash(text: str, url: str) -> None:
    assert from_environment(RAG_BACKEND_URL=text).settings.upstream.url == url


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1:8000",
        "ftp://host",
        "http://",
        "https:///",
        "http:host",
        "http:///path",
        "http://host:0",
        "http://host:99999",
        "http://host:x",
        "http://ho st",
        "http://host/\r\nX-Evil: 1",
        "http://user:pass@host",
        "http://host/?key=1",
        "http://host/#part",
        "http://[::1",
        "http://hö.example",
        "http://a<b",
        "http://host\\@evil",
        "file:///etc/passwd",
    ],
)
def test_an_upstream_url_that_is_none_is_refused(text: str) -> None:
    (problem,) = problems_of(RAG_BACKEND_URL=text)
    assert problem.key == "upstream.url"


@pytest.mark.parametrize(
    "origin", ["https://app.example.org", "http://localhost:3000", "http://[::1]:3000", "https://*.example.org"]
)
def test_an_origin_is_accepted(origin: str) -> None:
    loaded = from_environment(SUBAK_HTTP__CORS_ORIGINS=f"{origin} , https://second.example.org")
    assert loaded.settings.http.cors_origins == (origin, "https://second.example.org")


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "app.example.org",
        "https://*",
        "https://app.*.example.org",
        "https://app.example.org/",
        "https://App.example.org",
        "https://app.example.org:443",
        "http://app.example.org:80",
        "https://app.example.org:99999",
        "https://user@app.example.org",
        "https://app.example.org,",
        "https://a\nb",
    ],
)
def test_an_origin_that_no_browser_would_send_is_refused(origin: str) -> None:
    (problem,) = problems_of(SUBAK_HTTP__CORS_ORIGINS=origin)
    assert problem.key == "http.cors_origins"


@pytest.mark.parametrize("name", ["a=b", "a b", "a;b", "a,b", '"a"', "[a]", "é", "a/b"])
def test_what_can_not_be_the_name_of_a_cookie_is_refused(name: str) -> None:
    assert from_environment(SUBAK_AUTH__COOKIE="__Host-session.id").settings.auth.cookie == "__Host-session.id"
    (problem,) = problems_of(SUBAK_AUTH__COOKIE=name)
    assert problem.key == "auth.cookie"
    assert "RFC 6265" in str(problem)


def test_networks_are_addresses_or_prefixes_without_host_bits(tmp_path: Path) -> None:
    loaded = from_text(tmp_path, '[http]\ntrusted_proxies = ["10.0.0.0/8", "192.0.2.1", "2001:db8::/32"]')
    assert loaded.settings.http.trusted_proxies == ("10.0.0.0/8", "192.0.2.1", "2001:db8::/32")
    for wrong in ("10.0.0.1/8", "proxy", "10.0.0.0/33", "fe80::1%eth0"):
        assert problem_of(SUBAK_HTTP__TRUSTED_PROXIES=wrong).startswith("environment SUBAK_HTTP__TRUSTED_PROXIES")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::", "::1", "fe80::1%eth0", "gateway.internal"])  # noqa: S104
def test_a_host_is_accepted(host: str) -> None:
    assert from_environment(SUBAK_SERVER__HOST=host).settings.server.host == host


@pytest.mark.parametrize("host", ["127.0.0.1:80", "http://host", "a b", "-x", "[::1]", "host/", "::1%a\nb"])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    (problem,) = problems_of(SUBAK_SERVER__HOST=host)
    assert problem.key == "server.host"


def test_the_kind_of_upstream_follows_from_the_url_unless_it_is_given() -> None:
    assert from_environment().settings.upstream.chosen_kind == "embedded"
    assert from_environment(RAG_BACKEND_URL="http://h").settings.upstream.chosen_kind == "rag"
    both = from_environment(RAG_BACKEND_URL="http://h", SUBAK_UPSTREAM__KIND="embedded")
    assert both.settings.upstream.chosen_kind == "embedded"


def test_a_home_directory_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert from_environment(SUBAK_STATE_DIR="~/state").settings.state_dir == Path("/home/somebody/state")


@pytest.mark.parametrize("path", ["a\u0000b", "a\nb", ""])
def test_a_path_with_control_characters_is_refused(tmp_path: Path, path: str) -> None:
    (said,) = problems_in(tmp_path, f"state_dir = {as_text(path)}")
    assert "expected a path" in said


def test_settings_can_not_be_changed() -> None:
    settings = Settings()
    with pytest.raises(AttributeError):
        settings.server.port = 1  # type: ignore[misc]


# Headers and secrets


def test_headers_come_as_a_table_or_as_json(tmp_path: Path) -> None:
    table = from_text(tmp_path, '[upstream.headers]\nX-Api-Key = "abc"\nX-Tenant = "a b"')
    text = from_environment(SUBAK_UPSTREAM__HEADERS='{"X-Api-Key": "abc", "X-Tenant": "a b"}')
    assert table.settings.upstream.headers == text.settings.upstream.headers
    assert {name: value.reveal() for name, value in text.settings.upstream.headers.items()} == {
        "X-Api-Key": "abc",
        "X-Tenant": "a b",
    }


@pytest.mark.parametrize(
    "text",
    [
        '{"X": "a\\r\\nY: b"}',
        '{"X\\r\\nY": "b"}',
        '{"X:": "b"}',
        '{"": "b"}',
        '{"X": ""}',
        '{"X": " b"}',
        '{"X": "é"}',
        '{"X": 1}',
        '{"X": null}',
        '["X"]',
        "X: b",
        "[" * 100_000,
        '{"Content-Length": "1"}',
        '{"transfer-encoding": "chunked"}',
        '{"Host": "other"}',
    ],
)
def test_a_header_that_would_break_the_request_is_refused(text: str) -> None:
    (problem,) = problems_of(SUBAK_UPSTREAM__HEADERS=text)
    assert problem.key == "upstream.headers"
    assert problem.value == "***"


def test_a_secret_is_masked_wherever_it_is_shown() -> None:
    settings = from_environment(SUBAK_UPSTREAM__KEY="hush-hush").settings
    assert settings.upstream.key == Secret("hush-hush")
    assert settings.upstream.key is not None
    assert settings.upstream.key.reveal() == "hush-hush"
    assert "hush" not in f"{settings} {settings!r} {settings.upstream.key} {as_text(settings.upstream.key)}"
    with pytest.raises(TypeError):
        msgspec.json.encode(settings)


def test_secrets_are_read_from_files(tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("hush-hush\n", encoding="utf-8")
    headers_file = tmp_path / "headers"
    headers_file.write_text('{"X-Api-Key": "abc"}\n', encoding="utf-8")
    loaded = from_environment(SUBAK_UPSTREAM__KEY_FILE=str(key_file), SUBAK_UPSTREAM__HEADERS_FILE=str(headers_file))
    assert loaded.settings.upstream.key == Secret("hush-hush")
    assert loaded.settings.upstream.headers == {"X-Api-Key": Secret("abc")}
    assert loaded.sources["upstream.key"] == f"file {key_file}"


def test_a_secret_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("b", encoding="utf-8")
    said = problem_of(SUBAK_LLM__KEY="a", SUBAK_LLM__KEY_FILE=str(tmp_path / "key"))
    assert said == (
        "environment SUBAK_LLM__KEY_FILE: llm.key is set too, by environment SUBAK_LLM__KEY; keep one of them"
    )


def test_a_secret_file_that_is_missing_is_named(tmp_path: Path) -> None:
    said = problem_of(SUBAK_LLM__KEY_FILE=str(tmp_path / "none"))
    assert said.startswith(f'environment SUBAK_LLM__KEY_FILE = "{tmp_path}/none": no such file')


@pytest.mark.parametrize("content", ["", " \n", "two words", "hush\x00hush", "hüsh"])
def test_a_secret_file_without_one_word_is_refused(tmp_path: Path, content: str) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(content, encoding="utf-8")
    said = problem_of(SUBAK_LLM__KEY_FILE=str(key_file))
    assert "expected one word of printable ASCII" in said
    assert "llm.key = ***" in said


@given(st.text(string.ascii_letters + " \n\t:@/?#", min_size=3, max_size=60).map(lambda text: f"hush {text}hush"))
def test_a_refused_secret_is_never_in_the_message(secret: str) -> None:
    said = "\n".join(
        map(str, problems_of(SUBAK_UPSTREAM__KEY=secret, SUBAK_UPSTREAM__HEADERS=secret, SUBAK_LLM__KYE=secret))
    )
    assert "hush" not in said


@pytest.mark.parametrize("url", ["http://me:hush@h", "https://hush@h/p", "http://h/?key=hush", "http://h/#hush"])
def test_credentials_in_a_url_are_never_in_the_message(url: str) -> None:
    said = "\n".join(map(str, problems_of(RAG_BACKEND_URL=url, SUBAK_LLM__URL=url)))
    assert "hush" not in said
    assert "without credentials" in said


# Contradictions


TOKENS: Mapping[str, str] = {
    "SUBAK_AUTH__JWT_SECRET": "s" * 40,
    "SUBAK_AUTH__ISSUER": "https://login.example.org/",
    "SUBAK_AUTH__AUDIENCE": "subak",
}


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (
            {"SUBAK_STREAM__COMMENT_S": "31"},
            "SUBAK_STREAM__COMMENT_S = 31: expected at most stream.heartbeat_s, which is 30; lower it, or",
        ),
        (
            {"SUBAK_STREAM__HEARTBEAT_S": "14"},
            "SUBAK_STREAM__HEARTBEAT_S = 14: expected at least stream.comment_s, which is 15; raise it, or",
        ),
        ({"SUBAK_STREAM__RETRY_MIN_MS": "3001"}, "expected at most stream.retry_max_ms, which is 3000"),
        ({"SUBAK_STREAM__MEMORY_BUDGET_BYTES": "1000"}, "expected at least stream.max_bytes, which is 4194304"),
        ({"SUBAK_UPSTREAM__MAX_EVENT_BYTES": "5000000"}, "expected at most stream.max_bytes, which is 4194304"),
        ({"SUBAK_UPSTREAM__KIND": "rag"}, 'SUBAK_UPSTREAM__KIND = "rag": needs upstream.url'),
        ({"SUBAK_LLM__URL": "http://h"}, "needs llm.model too"),
        ({**TOKENS, "SUBAK_AUTH__JWKS_URL": "http://h"}, "SUBAK_AUTH__JWT_SECRET = ***: and auth.jwks_url exclude"),
        ({**TOKENS, "SUBAK_AUTH__ALGORITHMS": "HS256,RS256"}, "RS256 doesn't go with auth.jwt_secret"),
        ({**TOKENS, "SUBAK_AUTH__ALGORITHMS": "HS256,HS512"}, "needs 64 bytes for auth.algorithms"),
        ({"SUBAK_AUTH__ALGORITHMS": "RS256"}, "needs auth.jwt_secret or auth.jwks_url"),
        ({**TOKENS, "SUBAK_AUTH__ISSUER": ""}, "is needed with auth.jwt_secret; say whose tokens count"),
        ({"SUBAK_UPSTREAM__CLIENT_KEY_FILE": "/k"}, "needs upstream.client_cert_file"),
        (
            {"SUBAK_UPSTREAM__CA_FILE": "/ca", "RAG_BACKEND_URL": "http://h"},
            "is for TLS, and upstream.url is http://",
        ),
        (
            {"SUBAK_UPSTREAM__KEY": "hush", "SUBAK_UPSTREAM__HEADERS": '{"authorization": "Basic x"}'},
            "SUBAK_UPSTREAM__KEY = ***: sets Authorization, and so does upstream.headers; keep one of them",
        ),
        (
            {"SUBAK_UPSTREAM__KEY": "hush", "SUBAK_UPSTREAM__TOKEN_FILE": "/token"},
            "sets Authorization, and so does upstream.key",
        ),
    ],
)
def test_values_that_do_not_go_together_are_refused(variables: dict[str, str], said: str) -> None:
    assert said in problem_of(**variables)


def test_a_contradiction_with_a_wrong_value_is_not_told_too() -> None:
    (problem,) = problems_of(SUBAK_STREAM__HEARTBEAT_S="x", SUBAK_STREAM__COMMENT_S="31")
    assert problem.key == "stream.heartbeat_s"


# The catalogue


def test_every_setting_has_a_sentence_and_a_place() -> None:
    settings = catalogue()
    assert {setting.section for setting in settings} == {"", *sections()}
    assert len({setting.variable for setting in settings}) == len(settings)
    for setting in settings:
        assert re.fullmatch(r"[A-Z].*[.]", setting.sentence), setting.key
        assert setting.expected


def test_every_default_is_one_that_would_be_accepted() -> None:
    for setting in catalogue():
        if setting.default is not None and not isinstance(setting.default, Path | tuple | dict):
            text = setting.default if isinstance(setting.default, str) else as_text(setting.default)
            loaded = load({}, None, {setting.key: Given(text, "flag --x")})
            assert value_of(loaded.settings, setting.key) == setting.default, setting.key


ISSUED: Mapping[str, str] = {"auth.issuer": "https://login.example.org/", "auth.audience": "subak"}
NEEDED: Mapping[str, Mapping[str, str]] = {
    "llm.url": {"llm.model": "m"},
    "auth.jwt_secret": ISSUED,
    "auth.jwks_url": ISSUED,
    "auth.algorithms": {**ISSUED, "auth.jwks_url": "https://login.example.org/jwks"},
    "loki.user": {"loki.key": "k"},
}
"""What a setting needs beside it."""


def test_every_setting_without_a_default_has_an_example_that_is_accepted() -> None:
    for setting in catalogue():
        if setting.default in (None, (), {}):
            example = setting.notes.example
            assert example is not None, setting.key
            if not setting.key.endswith("_file"):
                needed = {key: Given(text, "flag --x") for key, text in NEEDED.get(setting.key, {}).items()}
                loaded = load({}, None, {setting.key: Given(example, "flag --x"), **needed})
                assert value_of(loaded.settings, setting.key) is not None


def test_a_setting_is_secret_by_its_type() -> None:
    secret = {setting.key for setting in catalogue() if setting.is_secret}
    assert secret == {
        "admin.token",
        "auth.internal_keys",
        "auth.jwt_secret",
        "upstream.key",
        "upstream.headers",
        "audit.dsn",
        "loki.key",
        "llm.key",
        "errors.sentry_dsn",
        "tracing.headers",
    }


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_file_gives_settings_or_a_settings_error(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_bytes(raw)
    refused = _refused({}, file, NOTHING)
    assert all(str(problem).startswith(str(file)) for problem in refused)


@given(
    st.sampled_from([setting.key for setting in catalogue()]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    ),
)
def test_any_value_is_accepted_or_refused_as_a_settings_error(key: str, value: object) -> None:
    refused = _refused({}, None, {key: Given(value, "flag --x")})
    assert all("\n" not in str(problem) for problem in refused)


@given(
    st.dictionaries(st.sampled_from([setting.variable for setting in catalogue()]), st.text(max_size=30), max_size=4)
)
def test_any_environment_gives_settings_or_a_settings_error(variables: dict[str, str]) -> None:
    refused = _refused(variables, None, NOTHING)
    assert all(str(problem).startswith(("environment SUBAK_", "default ")) for problem in refused)


def _refused(variables: Mapping[str, str], file: Path | None, flags: Mapping[str, Given]) -> tuple[Problem, ...]:
    try:
        load(variables, file, flags)
    except SettingsError as error:
        return error.problems
    return ()
