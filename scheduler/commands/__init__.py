"""The `rewrap` command: one group, one file for each kind of thing an operator does."""

from importlib import import_module

import click

from scheduler.desk import Desk

_MODULES = {
    "alerts": ("alerts",),
    "approval": ("approve", "approval-key"),
    "asking": ("cancel", "pace", "pause", "resume", "retry"),
    "backup": ("backup", "backup-key"),
    "certificate": ("certificate", "certificate-key", "certificate-verify"),
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
@click.option("--config", "file", metavar="FILE", help="The configuration [default: rewrap.toml].")
@click.pass_context
def rewrap(context: click.Context, file: str | None) -> None:
    """Move the wrapped data keys of encrypted blobs from old keys to new ones.

    Exit codes: 0 done and clean, 1 finished with exceptions, 2 wrong usage or configuration,
    3 something needed is unreachable, 4 refused by a gate with nothing changed.
    """
    context.obj = Desk(file)
