"""`subak config`: the settings in force, an example file and the documentation page, all made from the fields."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import rich_click as click

from subak.cli.options import config_option, debug_option, gateway_flags, json_option, load_settings
from subak.cli.output import print_json
from subak.settings import MASK, Given, Loaded, Secret, Setting, as_text, catalogue, sections, value_of


@click.group("config")
def command() -> None:
    """Show the settings in force, or an example file with all of them."""


@command.command("show")
@gateway_flags
@config_option
@json_option
@debug_option
def show(config: str | None, *, as_json: bool, **flags: str | None) -> None:
    """Show every setting, its value and where that came from. Secrets are masked."""
    nothing: dict[str, Given] = {}
    loaded = load_settings(config, flags, forced=nothing)
    if as_json:
        print_json(
            {
                key: {"value": _jsonable(value_of(loaded.settings, key)), "source": source}
                for key, source in loaded.sources.items()
            }
        )
        return
    for line in settings_in_force(loaded):
        click.echo(line)


@command.command("example")
@json_option
@debug_option
def example(*, as_json: bool) -> None:
    """Print a subak.toml with every setting, its default and its meaning."""
    if as_json:
        print_json([_description(setting) for setting in catalogue()])
    else:
        click.echo(example_file(), nl=False)


@command.command("docs", hidden=True)
def docs() -> None:
    """Print docs/settings.md."""
    click.echo(markdown_page(), nl=False)


def settings_in_force(loaded: Loaded) -> Iterator[str]:
    """One line a setting, in the notation of `subak.toml`, its source behind it."""
    for key, source in loaded.sources.items():
        value = value_of(loaded.settings, key)
        line = f"# {key} is unset" if value is None else f"{key} = {as_text(value)}"
        yield f"{line:<52} # {source}"


def example_file() -> str:
    """A `subak.toml` that changes nothing: every setting as a comment, with its default where it has one."""
    lines = [
        "# Settings of Subak. Nothing is set here yet: take away the # before a key and change its value.",
        "# Order: defaults < this file < environment < flags.",
        "# `subak check` says what is wrong, `subak config show` which value holds and why.",
    ]
    about = sections()
    section = ""
    for setting in catalogue():
        if setting.section != section:
            section = setting.section
            lines += ["", f"# {about[section]}", f"[{section}]"]
        unset = "" if _has_default(setting) else " Unset by default."
        lines += [
            "",
            f"# {setting.sentence}",
            f"# Accepted: {setting.expected}.{unset}",
            f"#{setting.name} = {as_text(_model_value(setting))}",
        ]
    return "\n".join(lines) + "\n"


def markdown_page() -> str:
    """`docs/settings.md`."""
    about = sections()
    parts = [_PAGE_HEAD]
    settings = catalogue()
    for section in ("", *about):
        title = f"## `[{section}]`\n\n{about[section]}" if section else "## Above the sections"
        parts.append(f"{title}\n\n{markdown_table([each for each in settings if each.section == section])}")
    return "\n\n".join(parts) + "\n"


def markdown_table(settings: Sequence[Setting]) -> str:
    """A table of settings: key and flag, variable and alias, default, meaning, what is accepted."""
    rows = ["| Key | Environment | Default | Meaning | Accepted |", "|---|---|---|---|---|"]
    for setting in settings:
        flag = f", flag `{setting.notes.flag}`" if setting.notes.flag else ""
        alias = f", alias `{setting.notes.alias}`" if setting.notes.alias else ""
        cells = (
            f"`{setting.key}`{flag}",
            f"`{setting.variable}`{alias}",
            _default_of(setting),
            setting.sentence,
            setting.expected,
        )
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


_PAGE_HEAD = """# Settings

This page is printed by `subak config docs`, from the code that reads the settings; a test compares the two.

- **Order**: defaults < `subak.toml` < environment < flags. The file is the one after `--config`, else the one that
  `SUBAK_CONFIG` names, else `subak.toml` in the working directory if there is one.
- **Names**: `stream.heartbeat_s` is `heartbeat_s` below `[stream]` in the file, and `SUBAK_STREAM__HEARTBEAT_S` in the
  environment. A variable that is empty counts as unset; one that begins with `SUBAK_` and is no setting is an error.
- **An alias** is an older name that still works. Setting both to different values is an error.
- **Secrets**: `key` can be given as `key_file`, the path of a file that holds it, and so on. They are never printed.
- **Relative paths** start at the working directory; `~` is the home directory.
- `subak config example > subak.toml` writes a file with everything in it, `subak check` says what is wrong, all at
  once, and `subak config show` which value holds and where it came from."""


def _default_of(setting: Setting) -> str:
    match setting.default:
        case None:
            return "unset"
        case () | {} if not setting.default:
            return "none"
        case value:
            return f"`{value if isinstance(value, str | Path) else as_text(value)}`"


def _model_value(setting: Setting) -> object:
    """What an example shows: the default, or a plausible value where there is none."""
    return setting.default if _has_default(setting) else setting.notes.example


def _has_default(setting: Setting) -> bool:
    return setting.default not in (None, (), {})


def _description(setting: Setting) -> dict[str, object]:
    return {
        "key": setting.key,
        "variable": setting.variable,
        "alias": setting.notes.alias,
        "flag": setting.notes.flag,
        "default": _jsonable(setting.default),
        "meaning": setting.sentence,
        "accepted": setting.expected,
        "secret": setting.is_secret,
    }


def _jsonable(value: object) -> object:
    match value:
        case Secret():
            return MASK
        case Mapping():
            return {name: _jsonable(each) for name, each in value.items()}
        case None | bool() | int() | float() | str():
            return value
        case tuple():
            return list(value)
        case _:
            return str(value)
