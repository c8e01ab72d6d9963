"""The command line: one file a command; with app the only place that may know everything below.

This module knows each command's name and one line, and imports its file when the command is called: `subak --help`
stays fast. It is also the root at which every failure ends as lines and an exit code: 0, 1, or 2 for wrong usage.
"""

import os
import sys
from importlib import import_module
from pathlib import Path

import rich_click as click
from click.exceptions import Exit

from subak import __version__


class _Deferred(click.RichCommand):
    """A command by name and one line; `load` imports the file with the rest."""

    def load(self) -> click.Command:
        """The real command."""
        command: click.Command = import_module(f"subak.cli.{self.name}").command
        return command


class Root(click.RichGroup):
    """Loads a command when it is called, and answers for everything that it raises."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that `args` begin with, imported."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, _Deferred) else command, rest

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        try:
            result: object = super().invoke(ctx)
        except (click.ClickException, click.Abort, Exit, BrokenPipeError):
            raise
        except Exception as exc:  # noqa: BLE001 - the process' root: whatever is left becomes a line and an exit code
            from subak.cli.output import exit_code_of

            ctx.exit(exit_code_of(exc, ctx))
        return result


def _deferred(name: str, line: str) -> _Deferred:
    return _Deferred(name=name, help=line)


@click.group(
    "subak",
    cls=Root,
    commands=[
        _deferred("demo", "Try it: everything embedded in one process, nothing to set up."),
        _deferred("serve", "Run the gateway in front of your backend."),
        _deferred("check", "Check settings, files and directories without listening."),
        _deferred("doctor", "Find what keeps answers from readers: this machine, the upstream, the proxies in front."),
        _deferred("smoke", "After a deploy: ask a few questions, and check everything that readers rely on."),
        _deferred("keys", "Make, list and revoke API keys."),
        _deferred("tail", "Ask a gateway, or follow an answer, and print it as it comes."),
        _deferred("bench", "Measure how fast answers come, and hold it against objectives."),
        _deferred("audit", "Look into the audit trail, verify it, answer for it, keep it."),
        _deferred("backend", "Run the embedded RAG backend alone, over HTTP."),
        _deferred("config", "Show the settings in force, or an example file with all of them."),
        _deferred("flags", "Show and change for whom streaming is on."),
        _deferred("rollout", "Let callers in step by step, as long as the figures are good."),
        _deferred("version", "Show the versions of Subak and of what it runs on."),
    ],
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Settings: defaults < subak.toml < environment < flags. `subak config show` tells which one won.",
)
@click.version_option(__version__, "-V", "--version", message="%(prog)s %(version)s")
@click.rich_config({"commands_before_options": True})
@click.command_panel("Start here", commands=["demo", "serve", "check"])
@click.command_panel(
    "More",
    commands=["doctor", "smoke", "tail", "bench", "keys", "flags", "rollout", "audit", "backend", "config", "version"],
)
@click.pass_context
def cli(ctx: click.RichContext, /) -> None:
    """A gateway for streamed answers: asked once, delivered whole, whatever happens to the line."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), color=ctx.color)


def main() -> None:
    """Run the command line of this process and exit."""
    _fill_in_streams()
    cli(prog_name="subak")


def _fill_in_streams() -> None:
    """Put nothing in the place of a standard stream that was closed.

    Otherwise a file or a socket gets its number, whatever is printed goes there, and uvloop aborts when it closes it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - for as long as we run
