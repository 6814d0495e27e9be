"""`python -m bench`: ours against the naive way and the floor, several paired rounds in one run.

Exits 0 where every blob of every side is its original and ours is at least 20 times the naive
way, 1 where not.
"""

import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.results import BAR, LATEST, Results, Round
from bench.sides import Floor, Naive, Ours, Side, Took, play
from bench.stage import BenchError, Stage, kind_of, place_of_ledger, place_of_store, stage

_WARM_UP = 200


@click.command(help=__doc__)
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 20))
@click.option(
    "--blobs",
    default=10_000,
    show_default=True,
    type=click.IntRange(_WARM_UP, 100_000),
    help="Blobs a round, for ours and for the floor.",
)
@click.option(
    "--naive-blobs",
    default=400,
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
    rounds: int, blobs: int, naive_blobs: int, directory: Path | None, ledger_dir: Path | None
) -> None:
    """Run the benchmark."""
    # As Ctrl-C does: servers are stopped and directories removed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console()
    directory, ledger_dir = directory or place_of_store(), ledger_dir or place_of_ledger()
    kind = f"blobs on {kind_of(directory)}, PostgreSQL and Redis on {kind_of(ledger_dir)}"
    console.print(f"{kind}; starting the servers")
    try:
        with stage(directory, ledger_dir) as staged:
            played = _rounds(staged, console, rounds, blobs, min(naive_blobs, blobs))
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    results = Results(kind, staged.settings.workers, played)
    results.show(console)
    results.write()
    console.print(f"written to {LATEST.relative_to(Path(__file__).parent.parent)}")
    ratio = results.median_ratio
    if ratio < BAR:
        raise click.ClickException(f"ours is {ratio:.1f} times the naive way, under {BAR:g} times")
    console.print(f"ours is {ratio:.0f} times the naive way (at least {BAR:g} are asked for)")


def _rounds(
    staged: Stage, console: Console, rounds: int, blobs: int, naive_blobs: int
) -> list[Round]:
    blob_ids = staged.legacy.ids(blobs)
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
