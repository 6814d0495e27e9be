"""The `rewrap` command: one group, one file for each kind of thing an operator does."""

import os
from importlib import import_module

import click

from keywrap import __version__
from ledger.schema import HEAD
from scheduler.desk import Desk

_MODULES = {
    "alerts": ("alerts",),
    "approval": ("approve", "approval-key"),
    "asking": ("cancel", "pace", "pause", "resume", "retry"),
    "backup": ("backup", "backup-key"),
    "certificate": ("certificate", "certificate-key", "certificate-verify"),
    "completion": ("completion",),
    "config": ("config",),
    "cutover": ("cutover",),
    "demo": ("demo",),
    "dpapi": ("dpapi-ring",),
    "healthz": ("healthz",),
    "inventory": ("inventory",),
    "keys": ("control-key", "create-kek"),
    "planning": ("plan",),
    "policy": ("policy",),
    "preflight": ("preflight",),
    "reading": ("blobs", "status"),
    "rebind": ("rebind",),
    "rebuild": ("ledger",),
    "reconciliation": ("audit",),
    "retire": ("retire",),
    "rotation": ("rotate-kek",),
    "schedule": ("schedule",),
    "services": ("flower", "scheduler", "up", "worker"),
    "setup": ("init",),
    "starting": ("start", "verify"),
    "sweeping": ("sweep",),
    "unwinding": ("seal", "undo"),
}
_PLACES = {name: module for module, names in _MODULES.items() for name in names}


class _Commands(click.Group):
    """Commands whose modules are imported when they are asked for: no process needs them all.

    As click's documentation has it ("Lazily Loading Subcommands").
    """

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return sorted(_PLACES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _PLACES:
            return None
        module = import_module(f"{__name__}.{_PLACES[cmd_name]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message=f"rewrap %(version)s, ledger schema {HEAD}")
@click.option("--config", "file", metavar="FILE", help="The configuration [default: rewrap.toml].")
@click.pass_context
def rewrap(context: click.Context, file: str | None) -> None:
    """Move the wrapped data keys of encrypted blobs from old keys to new ones.

    Exit codes: 0 done and clean, 1 finished with exceptions, 2 wrong usage or configuration,
    3 something needed is unreachable, 4 refused by a gate with nothing changed, 130 Ctrl-C: what
    the command asked for goes on.

    Colours are used on a terminal only, and not where NO_COLOR is set.

    Example: rewrap --config /etc/rewrap/rewrap.toml status --watch
    """
    if os.environ.get("NO_COLOR"):  # as https://no-color.org has it; Rich heeds it by itself
        context.color = False
    context.obj = Desk(file)
