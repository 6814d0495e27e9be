"""`python -m tests.storm`: kills processes at random and at every call of the system.

Prints the figures as JSON, and how to repeat a storm that failed. Exits 1 where anything was lost.
"""

import json
import random
import sys
import tempfile
from pathlib import Path

import click

from tests.storm.forks import Storm
from tests.storm.ground import Ground


@click.command(help=__doc__)
@click.option("--kills", default=10_000, show_default=True)
@click.option("--blobs", default=1_000, show_default=True)
@click.option("--seed", type=int, default=None)
@click.option("--directory", type=click.Path(path_type=Path, exists=True), default=None)
def storm(*, kills: int, blobs: int, seed: int | None, directory: Path | None) -> None:
    """Let it rage."""
    seed = random.SystemRandom().getrandbits(32) if seed is None else seed

    def tell(done: int) -> None:
        click.echo(f"storm: {done:,} of {kills:,} kills", err=True)

    with tempfile.TemporaryDirectory(prefix="rewrap-storm-", dir=directory) as folder:
        figures = Storm(Ground.make(Path(folder), blobs), kills, seed, tell).run()
    click.echo(json.dumps(figures.document()))
    if figures.faults:
        again = f"python -m tests.storm --kills {kills} --blobs {blobs} --seed {seed}"
        raise click.ClickException(f"{len(figures.faults)} faults; again: {again}")


if __name__ == "__main__":
    sys.exit(storm())
