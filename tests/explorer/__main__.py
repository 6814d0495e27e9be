"""`python -m tests.explorer`: the long search, scene by scene. Exits 1 at a violation."""

import json
import sys
import time

import click

from tests.explorer.scenes import scenes
from tests.explorer.search import Search, ViolationError


@click.command(help=__doc__)
@click.option("--states", default=5_000_000, show_default=True, help="In all scenes together.")
@click.option("--scene", "names", multiple=True, type=click.Choice(list(scenes())))
def explore(*, states: int, names: tuple[str, ...]) -> None:
    """Explore."""
    left, total = [s for n, s in scenes().items() if not names or n in names], 0
    while left:
        scene = left.pop(0)
        started = time.perf_counter()
        try:
            # What a scene that is whole does not use is for those after it.
            found = Search(scene).run((states - total) // (len(left) + 1))
        except ViolationError as violation:
            raise click.ClickException(f"{scene.name}: {violation}") from violation
        total += found.states
        line = {
            "scene": scene.name,
            "states": found.states,
            "transitions": found.transitions,
            "whole": found.is_whole,
            "seconds": round(time.perf_counter() - started, 1),
        }
        click.echo(json.dumps(line))
    click.echo(json.dumps({"states": total, "violations": 0}))


if __name__ == "__main__":
    sys.exit(explore())
