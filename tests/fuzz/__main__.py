"""`python -m tests.fuzz`: fuzzes the parsers of what others wrote. Exits 1 at a crash.

Prints a line of JSON for each target. The same seed makes the same choices again.
"""

import json
import random
import sys
import time

import click

from tests.fuzz.mutation import CrashError, fuzz
from tests.fuzz.targets import targets


@click.command(help=__doc__)
@click.option("--runs", default=1_000_000, show_default=True, help="Of each target.")
@click.option("--seed", type=int, help="What all choices follow from; drawn where not given.")
@click.option("--target", "names", multiple=True, type=click.Choice(list(targets())))
def main(*, runs: int, seed: int | None, names: tuple[str, ...]) -> None:
    """Fuzz."""
    seed = random.randrange(2**32) if seed is None else seed
    for name, target in targets().items():
        if names and name not in names:
            continue
        began = time.perf_counter()
        try:
            said = fuzz(target, runs, seed)
        except CrashError as crash:
            again = f"python -m tests.fuzz --target {name} --seed {seed} --runs {runs}"
            raise click.ClickException(
                f"{name}: {crash.__cause__!r}\n{crash}\nagain: {again}"
            ) from crash
        line = {
            "target": name,
            "seed": seed,
            "runs": runs,
            "answers": len(said),
            "crashes": 0,
            "seconds": round(time.perf_counter() - began, 1),
        }
        click.echo(json.dumps(line))


if __name__ == "__main__":
    sys.exit(main())
