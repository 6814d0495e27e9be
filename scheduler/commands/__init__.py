"""The `rewrap` command: one group, one file for each kind of thing an operator does."""

import click

from scheduler.commands import (
    asking,
    demo,
    inventory,
    reading,
    rotation,
    services,
    setup,
    starting,
)
from scheduler.desk import Desk


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--config", metavar="FILE", help="The configuration [default: rewrap.toml].")
@click.pass_context
def rewrap(context: click.Context, config: str | None) -> None:
    """Move the wrapped data keys of encrypted blobs from old keys to new ones.

    Exit codes: 0 done and clean, 1 finished with exceptions, 2 wrong usage or configuration,
    3 something needed is unreachable, 4 refused by a gate with nothing changed.
    """
    context.obj = Desk(config)


for command in (
    setup.init,
    services.up,
    services.scheduler,
    services.worker,
    services.flower,
    inventory.inventory,
    starting.start,
    starting.verify,
    rotation.rotate_kek,
    reading.status,
    reading.blobs,
    asking.pause,
    asking.resume,
    asking.cancel,
    asking.retry,
    demo.demo,
):
    rewrap.add_command(command)
