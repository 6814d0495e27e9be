"""`python -m bench`: ours against the naive way and the floor, several paired rounds in one run.

Exits 0 where every blob of every side is its original and ours is as many times the naive way as
each scene asks for, 1 where not.
"""

import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.errors import BenchError
from bench.results import LATEST, Results, Round, write
from bench.scenes import SCENES
from bench.sides import Floor, Naive, Ours, Side, Took, play
from bench.stage import Stage, kind_of, place_of_ledger, place_of_store, servers, stage

_WARM_UP = 200


@click.command(help=__doc__)
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 20))
@click.option(
    "--scene",
    "names",
    multiple=True,
    type=click.Choice(list(SCENES)),
    help="Play this scene; may be given again [default: all].",
)
@click.option(
    "--blobs",
    type=click.IntRange(_WARM_UP, 100_000),
    help="Blobs a round, for ours and for the floor [default: as the scene says].",
)
@click.option(
    "--naive-blobs",
    default=1000,
    show_default=True,
    type=click.IntRange(_WARM_UP, 10_000),
    help="Blobs a round for the naive way: the first of the same.",
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="D",
    help="Where to put the blobs [default: /dev/shm, or the temporary directory].",
)
@click.option(
    "--ledger-dir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="D",
    help="Where to put PostgreSQL and Redis [default: the temporary directory].",
)
def bench(
    *,
    rounds: int,
    names: tuple[str, ...],
    blobs: int | None,
    naive_blobs: int,
    directory: Path | None,
    ledger_dir: Path | None,
) -> None:
    """Run the benchmark."""
    # As Ctrl-C does: servers are stopped and directories removed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console()
    directory, ledger_dir = directory or place_of_store(), ledger_dir or place_of_ledger()
    played = []
    try:
        with servers(ledger_dir) as (bao, urls):
            for scene in (SCENES[name] for name in names or SCENES):
                where = "in memory" if scene.store == "s3" else f"on {kind_of(directory)}"
                place = f"blobs {where}, PostgreSQL and Redis on {kind_of(ledger_dir)}"
                console.print(f"{scene.name}: {scene.title}; {place}")
                count = blobs or scene.blobs
                with stage(scene, directory, bao, urls) as staged:
                    found = _rounds(staged, console, rounds, count, min(naive_blobs, count))
                played.append(Results(scene, place, found))
                played[-1].show(console)
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    write(played)
    console.print(f"written to {LATEST.relative_to(Path(__file__).parent.parent)}")
    for results in played:
        asked = f"at least {results.scene.bar:g} are asked for"
        console.print(f"{results.scene.name}: {results.ratio:.1f} times the naive way ({asked})")
    if any(results.ratio < results.scene.bar for results in played):
        raise click.ClickException("not every scene reaches what is asked for")


def _rounds(
    staged: Stage, console: Console, rounds: int, blobs: int, naive_blobs: int
) -> list[Round]:
    blob_ids = staged.staged.legacy.ids(blobs)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with ExitStack() as running:
        shown = running.enter_context(Progress(*columns, TimeElapsedColumn(), console=console))
        staged.make(blob_ids, shown)
        naive = running.enter_context(Naive.ready(staged))
        ours = running.enter_context(Ours.ready(staged))
        sides: list[Side] = [naive, ours, Floor(staged)]
        for side in sides:  # connections, imports and caches are warm before any clock runs
            play(side, staged, blob_ids[:_WARM_UP], shown, "warm-up")
        played = []
        for number in range(1, rounds + 1):
            took: dict[str, Took] = {}
            # Every other round the other way round, so that a drift of the machine cancels out.
            for side in sides if number % 2 else reversed(sides):
                mine = blob_ids[:naive_blobs] if side is naive else blob_ids
                took[side.name] = play(side, staged, mine, shown, f"round {number}")
            played.append(Round(**took))
    return played


if __name__ == "__main__":
    sys.exit(bench())
