"""`subak config`: what is in force, and the example file."""

import json
import re
import tomllib
from pathlib import Path

from subak.cli.config import example_file
from subak.settings import Settings, catalogue, load
from tests.unit.cli.conftest import Run


def uncommented(text: str) -> str:
    """The example with every setting that has a default switched on."""
    defaults = {setting.key for setting in catalogue() if setting.default not in (None, (), {})}
    lines = []
    section = ""
    for line in text.splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = f"{header[1]}."
        setting = re.match(r"#(\w+) = ", line)
        lines.append(line[1:] if setting and f"{section}{setting[1]}" in defaults else line)
    return "\n".join(lines)


def test_the_example_has_every_setting_and_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "subak.toml"
    file.write_text(example_file(), encoding="utf-8")
    loaded = load({}, file, {})
    assert loaded.settings == Settings()
    assert set(loaded.sources.values()) == {"default"}
    assert len(re.findall(r"(?m)^#\w+ = ", example_file())) == len(catalogue())


def test_the_example_switched_on_gives_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "subak.toml"
    file.write_text(uncommented(example_file()), encoding="utf-8")
    loaded = load({}, file, {})
    assert loaded.settings == Settings()
    from_file = {key for key, source in loaded.sources.items() if source.startswith(str(file))}
    assert from_file == {setting.key for setting in catalogue() if setting.default not in (None, (), {})}


def test_the_examples_of_settings_without_a_default_are_toml() -> None:
    every_line = re.sub(r"(?m)^#(\w+ = )", r"\1", example_file())
    document = tomllib.loads(every_line)
    assert document["upstream"]["headers"] == {"X-Api-Key": "the-key"}
    assert document["http"]["cors_origins"] == ["https://app.example.org"]


def test_example_prints_the_file(run: Run) -> None:
    result = run("config", "example")
    assert result.exit_code == 0
    assert result.stdout == example_file()


def test_example_as_json_describes_every_setting(run: Run) -> None:
    described = json.loads(run("config", "example", "--json").stdout)
    assert [each["key"] for each in described] == [setting.key for setting in catalogue()]
    (streaming,) = (each for each in described if each["key"] == "features.sse_streaming")
    assert streaming["alias"] == "ENABLE_SSE_STREAMING"
    assert streaming["default"] is False


def test_show_gives_value_and_source_of_every_setting(run: Run, tmp_path: Path) -> None:
    (tmp_path / "subak.toml").write_text("[server]\nport = 81\n", encoding="utf-8")
    result = run("config", "show", "--host", "::", LOG_LEVEL="debug")
    lines = {re.split(r" = | is ", line.removeprefix("# "))[0]: line for line in result.stdout.splitlines()}
    assert set(lines) == {setting.key for setting in catalogue()}
    assert re.fullmatch(r"server\.port = 81 +# subak\.toml:2", lines["server.port"])
    assert re.fullmatch(r'server\.host = "::" +# flag --host', lines["server.host"])
    assert re.fullmatch(r'log\.level = "debug" +# environment LOG_LEVEL', lines["log.level"])
    assert re.fullmatch(r"# upstream\.url is unset +# default", lines["upstream.url"])


def test_what_show_prints_is_a_settings_file(run: Run, tmp_path: Path) -> None:
    shown = run("config", "show", SUBAK_HTTP__CORS_ORIGINS="https://a.example,https://b.example").stdout
    file = tmp_path / "again.toml"
    file.write_text(shown, encoding="utf-8")
    assert load({}, file, {}).settings.http.cors_origins == ("https://a.example", "https://b.example")


def test_show_masks_secrets(run: Run, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("hush-from-file", encoding="utf-8")
    variables = {
        "SUBAK_UPSTREAM__KEY": "hush-hush",
        "SUBAK_UPSTREAM__HEADERS": '{"X-Api-Key": "hush-too"}',
        "SUBAK_LLM__KEY_FILE": str(key_file),
    }
    text = run("config", "show", **variables).stdout
    document = json.loads(run("config", "show", "--json", **variables).stdout)
    assert "hush" not in text + json.dumps(document)
    assert document["upstream.key"] == {"value": "***", "source": "environment SUBAK_UPSTREAM__KEY"}
    assert document["upstream.headers"]["value"] == {"X-Api-Key": "***"}
    assert document["llm.key"] == {"value": "***", "source": f"file {key_file}"}
    assert document["server.port"] == {"value": 8080, "source": "default"}


def test_show_as_json_tells_problems_as_json(run: Run) -> None:
    result = run("config", "show", "--json", SUBAK_SERVER__PORT="x")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["ok"] is False
    assert document["problems"] == [
        {
            "source": "environment SUBAK_SERVER__PORT",
            "key": "server.port",
            "value": '"x"',
            "message": "expected a whole number from 0 to 65535",
            "fix": "the default is 8080",
        }
    ]
