"""The `rewrap` command: one group, one file for each kind of thing an operator does."""

import os
from importlib import import_module

import click
from click.shell_completion import CompletionItem

from keywrap import __version__
from ledger import HEAD

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
_LINES = {
    "alerts": "List what is wrong now, and what was lately.",
    "approval-key": "Make the key with which you ask for and approve what needs two people.",
    "approve": "Approve, as the second person, exactly the plan.",
    "audit": "Check, export and sign the trail of every use of a key; docs/audit.md.",
    "backup": "Write, list, verify and restore encrypted backups of wraps; docs/backup.md.",
    "backup-key": "Make the key that opens backups.",
    "blobs": "List the blobs of a campaign and what happened to each, with the reason.",
    "cancel": "End a campaign for good.",
    "certificate": "Sign the record of a finished campaign.",
    "certificate-key": "Make the key that signs certificates.",
    "certificate-verify": "See that a certificate was signed by this key and not changed since.",
    "completion": "Print what makes a shell complete `rewrap`; for the shell's start-up file.",
    "config": "Show or check the configuration; connects to nothing.",
    "control-key": "Make the key pair that signs the control file of a store.",
    "create-kek": "Make the key file of a listed local KEK that is not there yet.",
    "cutover": "End legacy unwrapping: rehearse it with warn, then switch it on.",
    "demo": "Run the whole story on embedded PostgreSQL, Redis and OpenBao.",
    "dpapi-ring": "Open master key files of Windows, and write their keys into a ring.",
    "flower": "Run Flower with its Campaigns pages, behind a sign-in.",
    "healthz": "See that the ledger answers and is of this release.",
    "init": "Write a commented configuration to start from.",
    "inventory": "Scan the store and count who wraps what, by provider, key and version.",
    "ledger": "Migrate the ledger, rebuild it when it was lost, and drop what is not needed.",
    "pace": "Change how many requests a second a campaign sends to key services.",
    "pause": "Make a campaign wait: workers hand their shards back between two batches.",
    "plan": "Say what `start` would do.",
    "policy": "Print a least-privilege policy for exactly the keys and the store.",
    "preflight": "Check everything that a deployment needs, each for real.",
    "rebind": "Bind the wrap of a blob that was moved on purpose to where it lies now.",
    "resume": "Let a paused or stopped campaign go on.",
    "retire": "Disable a KEK version for good, once nothing needs it.",
    "retry": "Take up again what failed or met a conflict.",
    "rotate-kek": "Create a new version of a KEK and move every wrap to it.",
    "schedule": "Add, list, pause, resume and remove recurring campaigns; docs/when.md.",
    "scheduler": "Run the scheduler: it applies schema migrations, then hands shards out.",
    "seal": "Strip the wraps before the newest, which a campaign has left.",
    "start": "Open a campaign: migrate legacy wraps to the KEK, rotate wraps, or reencrypt.",
    "status": "Show a campaign: its state, why it waits, counts, rate and failures.",
    "sweep": "Remove the old contents that a re-encryption has left, after a grace time.",
    "undo": "Put the old wraps back that a campaign has replaced.",
    "up": "Run everything on this node: scheduler, workers and Flower.",
    "verify": "Decrypt blobs, content and all, and say what does not open.",
    "worker": "Run a Celery worker.",
}
"""What the list of commands says of each."""


class _Commands(click.Group):
    """Commands whose modules are imported when they are asked for: no process needs them all.

    As click's documentation has it ("Lazily Loading Subcommands"). What it holds besides are their
    names and lines: to list or complete them nothing is imported.
    """

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _PLACES:
            return None
        module = import_module(f"{__name__}.{_PLACES[cmd_name]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        click.Group(self.name, self.commands).format_commands(ctx, formatter)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        names = [name for name in self.commands if name.startswith(incomplete)]
        found = [CompletionItem(name, help=_LINES[name]) for name in names]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]


@click.group(
    cls=_Commands,
    commands={name: click.Command(name, help=line) for name, line in _LINES.items()},
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
    from scheduler.desk import Desk  # noqa: PLC0415 - neither --help nor --version needs the ledger

    context.obj = Desk(file)
