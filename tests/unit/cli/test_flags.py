"""`subak flags`: what operators set, see and are told."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.unit.cli.conftest import Run

ON = {"ENABLE_SSE_STREAMING": "true"}


def overrides(run: Run) -> dict[str, object]:
    shown: dict[str, object] = json.loads(run("flags", "show", "--json").stdout)["overrides"]
    return shown


def test_looking_makes_nothing(run: Run, tmp_path: Path) -> None:
    for command in (("list",), ("show",), ("history",)):
        assert run("flags", *command).exit_code == 0
    assert list(tmp_path.iterdir()) == []


def test_list_says_for_whom_each_flag_is_on_and_where_that_stands(run: Run, tmp_path: Path) -> None:
    assert run("flags", "list").stdout == "ENABLE_SSE_STREAMING  off: the environment doesn't permit it\n"
    result = run("flags", "list", **ON)
    assert result.stdout == "ENABLE_SSE_STREAMING  on for everybody\n"
    assert str(tmp_path / ".subak") in result.stderr
    document = json.loads(run("flags", "list", "--json").stdout)
    assert document["state_dir"] == str(tmp_path / ".subak")
    assert [flag["key"] for flag in document["flags"]] == ["ENABLE_SSE_STREAMING"]


def test_what_is_set_is_shown(run: Run) -> None:
    result = run(
        "flags", "set", "--percentage", "0.5", "--allow", "user:7", "--allow", "2001:DB8::/32", "--deny", "10.0.0.0/8"
    )
    assert result.exit_code == 0, result.output
    shown = run("flags", "show", **ON).stdout
    assert "on for 0.5 % and for 2 on the allow list but not for 1 on the deny list" in shown
    assert "2001:db8::/32, user:7" in shown
    assert overrides(run) == {
        "off": False,
        "percentage": 0.5,
        "allow": ["2001:db8::/32", "user:7"],
        "deny": ["10.0.0.0/8"],
        "not_before": None,
        "not_after": None,
    }


def test_one_setting_leaves_the_others(run: Run) -> None:
    run("flags", "set", "--percentage", "25%", "--allow", "user:1")
    run("flags", "set", "--off", "--allow", "user:2")
    run("flags", "set", "--deny", "user:1")
    now = overrides(run)
    assert (now["off"], now["percentage"], now["allow"], now["deny"]) == (True, 25, ["user:2"], ["user:1"])
    run("flags", "set", "--on", "--percentage", "none", "--allow", "user:1", "--forget", "user:2")
    now = overrides(run)
    assert (now["off"], now["percentage"], now["allow"], now["deny"]) == (False, None, ["user:1"], [])


def test_clear_forgets_what_was_before_it(run: Run) -> None:
    run("flags", "set", "--off", "--allow", "user:1", "--not-after", "2027-01-01")
    run("flags", "set", "--clear", "--percentage", "5")
    now = overrides(run)
    assert (now["off"], now["percentage"], now["allow"], now["not_after"]) == (False, 5, [], None)


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("2026-12-01", "2026-12-01T00:00:00Z"),
        ("2026-12-01T08:00", "2026-12-01T08:00:00Z"),
        ("2026-12-01T08:00+08:00", "2026-12-01T00:00:00Z"),
        ("none", None),
    ],
)
def test_times_are_utc_unless_they_say_otherwise(run: Run, given: str, stored: str | None) -> None:
    assert run("flags", "set", "--off", "--not-before", given).exit_code == 0
    assert overrides(run)["not_before"] == stored


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("set",), "Nothing to change"),
        (("set", "--percentage", "101"), "0 to 100"),
        (("set", "--percentage", "nan"), "0 to 100"),
        (("set", "--percentage", "0.0001"), "three decimals"),
        (("set", "--percentage", "much"), "0 to 100"),
        (("set", "--allow", "10.0.0.1/8"), "without host bits"),
        (("set", "--deny", "somebody"), "user:42"),
        (("set", "--not-after", "soon"), "2026-12-01T08:00Z"),
        (("set", "--not-before", "2026-12-02", "--not-after", "2026-12-01"), "a time after not_before"),
        (("show", "ENABLE_SSE"), "Known: ENABLE_SSE_STREAMING"),
        (("set", "ENABLE_SSE", "--off"), "Known: ENABLE_SSE_STREAMING"),
    ],
)
def test_wrong_usage_is_2_and_changes_nothing(run: Run, arguments: tuple[str, ...], said: str) -> None:
    result = run("flags", *arguments)
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.stderr.replace("│", " ").split())
    assert json.loads(run("flags", "history", "--json").stdout) == []


def test_history_says_who_when_and_what(run: Run) -> None:
    assert run("flags", "history").stdout == "Nothing was ever changed.\n"
    run("flags", "set", "--percentage", "5")
    run("flags", "set", "--percentage", "25")
    newest, oldest = run("flags", "history").stdout.splitlines()
    assert newest.endswith("percentage 5 % → 25 %")
    assert "  cli:" in oldest
    (change,) = json.loads(run("flags", "history", "--json", "--limit", "1").stdout)
    assert (change["number"], change["flag"], change["from"], change["to"]) == (
        2,
        "ENABLE_SSE_STREAMING",
        {"percentage": 5},
        {"percentage": 25},
    )


def test_a_flags_file_is_shown_with_what_it_says(run: Run, tmp_path: Path) -> None:
    flag = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "off"}
    file = tmp_path / "flags.json"
    file.write_text(json.dumps({"flags": {"ENABLE_SSE_STREAMING": flag}}), encoding="utf-8")
    seen = {**ON, "SUBAK_FEATURES__FLAGS_FILE": str(file)}
    assert "off: by the flags file" in run("flags", "list", **seen).stdout
    file.write_text("{", encoding="utf-8")
    result = run("flags", "list", **seen)
    assert "off: by the flags file" in result.stdout
    assert "flags.json" in result.stderr


@pytest.mark.parametrize(
    ("who", "said"),
    [
        ("user:1", "in: allowed\n"),
        ("user:2", "out: denied\n"),
        ("user:3", "out: outside\n"),
        ("10.0.0.9", "in: allowed\n"),
        ("192.0.2.7", "out: outside\n"),
        ("2001:db8::1", "out: outside\n"),
    ],
)
def test_show_says_why_somebody_is_in_or_out(run: Run, who: str, said: str) -> None:
    run("flags", "set", "--percentage", "0", "--allow", "user:1", "--allow", "10.0.0.0/8", "--deny", "user:2")
    assert run("flags", "show", "--for", who, **ON).stdout == said
    assert json.loads(run("flags", "show", "--for", who, "--json").stdout)["reason"] == "environment"


def test_show_asks_the_flags_file_about_somebody(run: Run, tmp_path: Path) -> None:
    rule = {"if": [{"==": [{"var": "id"}, "user:1"]}, "on", "off"]}
    flag = {"state": "ENABLED", "variants": {"on": True, "off": False}, "targeting": rule}
    file = tmp_path / "flags.json"
    file.write_text(json.dumps({"flags": {"ENABLE_SSE_STREAMING": flag}}), encoding="utf-8")
    seen = {**ON, "SUBAK_FEATURES__FLAGS_FILE": str(file)}
    assert run("flags", "show", "--for", "user:1", **seen).stdout == "in: inside\n"
    assert run("flags", "show", "--for", "user:2", **seen).stdout == "out: targeting\n"


@pytest.mark.parametrize("who", ["", "somebody", "10.0.0.0/8", "fe80::/10"])
def test_show_wants_one_caller(run: Run, who: str) -> None:
    result = run("flags", "show", "--for", who)
    assert result.exit_code == 2
    assert "such as 192.0.2.7" in " ".join(result.stderr.replace("│", " ").split())


def test_check_looks_at_the_flags_file(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "flags.json"
    file.write_text('{"flags": {"ENABLE_SSE_STREAMNG": {}}}', encoding="utf-8")
    result = run("check", SUBAK_FEATURES__FLAGS_FILE=str(file))
    assert result.exit_code == 1
    assert "names none of the flags here" in result.stdout
    flag = {"state": "ENABLED", "variants": {"on": True}, "defaultVariant": "on"}
    file.write_text(json.dumps({"flags": {"ENABLE_SSE_STREAMING": flag}}), encoding="utf-8")
    assert run("check", SUBAK_FEATURES__FLAGS_FILE=str(file)).exit_code == 0


def test_flags_that_were_lost_are_shown_to_nobody_as_on_and_can_be_said_anew(run: Run, tmp_path: Path) -> None:
    run("flags", "set", "--percentage", "5")
    (tmp_path / ".subak" / "flags.db").unlink()
    for command in (("flags", "list"), ("flags", "show"), ("flags", "history"), ("rollout", "status")):
        result = run(*command)
        assert result.exit_code == 1
        assert "subak flags set --clear" in result.stderr.replace("\n", " ")
    assert run("flags", "set", "--clear").exit_code == 0
    assert run("flags", "show").exit_code == 0


@pytest.mark.parametrize(
    "command",
    [
        ("flags", "set", "--allow", "user:7"),
        ("flags", "set", "--on"),
        ("flags", "set", "--forget", "user:7", "--not-after", "2030-01-01"),
        ("rollout", "start", "--steps", "5,100"),
    ],
)
def test_of_lost_flags_nothing_is_said_anew_that_lets_in_who_was_kept_out(
    run: Run, tmp_path: Path, command: tuple[str, ...]
) -> None:
    run("flags", "set", "--percentage", "5", "--deny", "user:42")
    (tmp_path / ".subak" / "flags.db").unlink()
    for args in (command, ("flags", "show")):
        result = run(*args)
        assert result.exit_code == 1
        assert "say anew for whom streaming is on" in result.stderr.replace("\n", " ")
    assert run("flags", "set", "--off", "--allow", "user:7").exit_code == 0
    assert overrides(run)["off"] is True


def test_a_state_that_is_none_is_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / ".subak").mkdir()
    (tmp_path / ".subak" / "flags.db").write_text("x" * 4096, encoding="utf-8")
    result = run("flags", "set", "--off")
    assert result.exit_code == 1
    assert "flags.db: file is not a database" in result.stderr
    document = json.loads(run("flags", "set", "--off", "--json").stdout)
    assert (document["ok"], document["code"]) == (False, "state_unusable")


def test_what_was_looked_at_is_said(run: Run) -> None:
    for command in (("list",), ("show",), ("show", "--for", "user:1"), ("set", "--on")):
        said = run("flags", *command).stderr
        assert "ENABLE_SSE_STREAMING isn't set here. A running gateway goes by its own environment" in said
        assert "is true by environment ENABLE_SSE_STREAMING." in run("flags", *command, **ON).stderr
    assert json.loads(run("flags", "show", "--json").stdout)["permission_from"] == "default"


def test_a_gateway_that_can_not_be_asked_is_told(run: Run) -> None:
    gateway = ("--gateway", "http://127.0.0.1:9")
    for command in (("flags", "list", *gateway), ("flags", "show", *gateway)):
        assert "SUBAK_ADMIN__TOKEN" in run(*command).stderr
        result = run(*command, SUBAK_ADMIN__TOKEN="an-admin-token-of-our-own")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "No gateway answers at http://127.0.0.1:9" in result.stderr
    assert run("flags", "show", "--for", "user:1", *gateway).exit_code == 2
    assert run("flags", "show", "--gateway", "127.0.0.1").exit_code == 2


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    """Run a server that says this to everything; give its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def asked(run: Run, *command: str, of: str) -> tuple[int, str, str]:
    result = run("flags", *command, "--gateway", of, SUBAK_ADMIN__TOKEN="an-admin-token-of-our-own")
    return result.exit_code, result.stdout, result.stderr


def view(effect: str, *deny: str) -> dict[str, object]:
    overrides = {"deny": deny}
    return {"key": "X", "is_permitted": True, "effect": effect, "overrides": overrides, "rollout": None}


def test_a_gateways_long_lists_are_read_to_their_end(run: Run) -> None:
    many = [f"user:{number:0200}" for number in range(10_000)]
    with answering(json.dumps(view("on for everybody", *many)).encode()) as url:
        code, stdout, stderr = asked(run, "show", of=url)
    assert (code, stderr) == (0, f"Asked the gateway at {url}\n")
    assert all(each in stdout for each in many)


@pytest.mark.parametrize("body", [b" " * (5 << 20), b'{"key": ' + b"[" * 100_000, b"hello"])
def test_what_is_no_gateway_is_told(run: Run, body: bytes) -> None:
    with answering(body) as url:
        for command in ("list", "show"):
            code, stdout, stderr = asked(run, command, of=url)
            assert (code, stdout) == (1, "")
            assert f"What answers at {url}" in stderr
            assert "no gateway" in stderr


def test_what_a_gateway_says_can_not_command_the_terminal(run: Run) -> None:
    said = view("on\x1b]0;for all\x07", "user:\x9b2J", "user:\u202e")
    with answering(json.dumps({"flags": [said], **said}).encode()) as url:
        for command in ("list", "show"):
            code, stdout, _ = asked(run, command, of=url)
            assert code == 0
            assert "on ]0;for all" in stdout
            assert stdout.replace("\n", "").isprintable()
