"""`rewrap config show` and `rewrap config check`: what the configuration comes to."""

import click

from scheduler import effective, showing
from scheduler.checks.installation import configured
from scheduler.commands.preflight import checked, conclude, document, failures
from scheduler.commands.reading import as_json
from scheduler.desk import DONE, USAGE, Desk


@click.group()
def config() -> None:
    """Show or check the configuration; connects to nothing.

    Example: rewrap config check
    """


@config.command()
@as_json
@click.pass_obj
def show(desk: Desk, *, as_json: bool) -> None:
    """Show the configuration as it counts: defaults and REWRAP_... variables filled in.

    Passwords in addresses are hidden; keys and tokens are never read.

    Example: rewrap config show
    """
    tables = effective.tables(desk.settings)
    if as_json:
        showing.document(tables)
    else:
        click.echo(effective.toml(tables))


@config.command()
@as_json
@click.pass_obj
def check(desk: Desk, *, as_json: bool) -> int:
    """Check that the configuration can be read and that every secret it names is there.

    Exit code 2 where it cannot be used. `rewrap preflight` checks what it names as well.

    Example: rewrap config check
    """
    lines = checked(desk, configured, as_json=as_json)
    if as_json:
        document(lines)
    else:
        conclude(lines)
    return USAGE if failures(lines) else DONE
