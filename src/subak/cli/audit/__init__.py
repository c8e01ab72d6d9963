"""`subak audit`: the sealed record of what happened, looked into, verified, proven, erased from, backed up.

Looking works beside a running gateway. What changes the log needs its one writer: a running gateway is asked by its
admin API, without one the command opens the log itself; either way it says so. Exit codes of every command: 0 done or
whole, 1 no (tampered, held, not proven), 2 it couldn't be tried.
"""

import rich_click as click

from subak.cli.audit.changing import checkpoint, erase, hold, prune, rotate_key
from subak.cli.audit.copies import backup, restore
from subak.cli.audit.failures import exit_code_of
from subak.cli.audit.looking import check_proof, confirm, export, prove, search, verify


class _AuditGroup(click.RichGroup):
    """Answers for what these commands raise: a line, and 1 or 2."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        try:
            result: object = super().invoke(ctx)
        except Exception as error:
            code = exit_code_of(error, ctx)
            if code is None:
                raise
            ctx.exit(code)
        return result


@click.group(
    "audit",
    cls=_AuditGroup,
    commands=[
        search,
        verify,
        prove,
        check_proof,
        confirm,
        export,
        erase,
        hold,
        prune,
        rotate_key,
        checkpoint,
        backup,
        restore,
    ],
)
@click.command_panel("Look", commands=["search", "verify", "prove", "check-proof", "confirm"])
@click.command_panel("People's rights", commands=["export", "erase"])
@click.command_panel("Keep", commands=["hold", "prune", "rotate-key", "checkpoint", "backup", "restore"])
def command() -> None:
    """Look into the audit trail, verify it, answer for it, keep it.

    Exit codes: 0 done, and the log is whole; 1 no; 2 it couldn't be tried.
    """
