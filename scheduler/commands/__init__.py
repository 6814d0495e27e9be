"""The `rewrap` command: one group, one file for each kind of thing an operator does."""

import click

from scheduler.commands.approval import approval_key, approve
from scheduler.commands.asking import cancel, pace, pause, resume, retry
from scheduler.commands.audit import audit
from scheduler.commands.backup import backup, backup_key
from scheduler.commands.certificate import certificate, certificate_key, certificate_verify
from scheduler.commands.config import config
from scheduler.commands.cutover import cutover
from scheduler.commands.demo import demo
from scheduler.commands.dpapi import dpapi_ring
from scheduler.commands.healthz import healthz
from scheduler.commands.inventory import inventory
from scheduler.commands.keys import control_key, create_kek
from scheduler.commands.planning import plan
from scheduler.commands.policy import policy
from scheduler.commands.preflight import preflight
from scheduler.commands.reading import blobs, status
from scheduler.commands.rebind import rebind
from scheduler.commands.rebuild import ledger_group
from scheduler.commands.reconciliation import reconcile
from scheduler.commands.retire import retire
from scheduler.commands.rotation import rotate_kek
from scheduler.commands.schedule import schedule
from scheduler.commands.services import flower, scheduler, up, worker
from scheduler.commands.setup import init
from scheduler.commands.starting import start, verify
from scheduler.commands.sweeping import sweep
from scheduler.commands.unwinding import seal, undo
from scheduler.desk import Desk


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--config", "file", metavar="FILE", help="The configuration [default: rewrap.toml].")
@click.pass_context
def rewrap(context: click.Context, file: str | None) -> None:
    """Move the wrapped data keys of encrypted blobs from old keys to new ones.

    Exit codes: 0 done and clean, 1 finished with exceptions, 2 wrong usage or configuration,
    3 something needed is unreachable, 4 refused by a gate with nothing changed.
    """
    context.obj = Desk(file)


_RUN = (init, create_kek, dpapi_ring, control_key, backup_key, up, scheduler, worker, flower, demo)
_DO = (inventory, plan, start, verify, rotate_kek, seal, undo, sweep, backup, cutover, retire)
_ASK = (schedule, pause, resume, cancel, pace, retry, rebind, ledger_group)
_SIGN = (approve, approval_key, certificate, certificate_key, certificate_verify)
_READ = (status, blobs, audit, policy, preflight, config, healthz)

for command in (*_RUN, *_DO, *_ASK, *_SIGN, *_READ):
    rewrap.add_command(command)
audit.add_command(reconcile)
