"""`subak version`: what runs here, for a bug report."""

import rich_click as click

from subak.cli.options import debug_option, json_option
from subak.cli.output import print_json
from subak.versions import versions


@click.command("version")
@json_option
@debug_option
def command(*, as_json: bool) -> None:
    """Show the versions of Subak and of what it runs on."""
    facts = versions()
    if as_json:
        print_json(facts)
        return
    width = max(map(len, facts))
    for name, fact in facts.items():
        click.echo(f"{name:<{width}}  {fact or 'not installed'}")
