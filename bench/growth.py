"""`python -m bench.growth`: what a blob costs as there are more and more of them.

The same campaign (files, key file, every wrap proved) at one size after another, each with
processes of its own: time a blob, the workers' memory, bytes of ledger a blob, the
database's time for a tick and for a status, and how near the plan's estimate came. Exits 0 where
the largest size is within what is asked for.
"""

import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sqlalchemy import text

from bench.errors import BenchError
from bench.results import LATEST
from bench.scenes import SCENES
from bench.sides import Ours, Took
from bench.stage import ROOT, Stage, place_of_ledger, place_of_store, servers, stage
from ledger import campaigns, dropping, exhaustion, progress, shards
from ledger.connection import Ledger
from ledger.states import Kind
from scheduler import status

RESULTS = LATEST.with_name("growth.json")

MORE_TIME = 1.15
"""How many times the time a blob of the smaller size the largest may take."""
LEDGER_BYTES = 400
"""A blob, with indexes."""
DATABASE_S = 0.05
"""For what a tick asks of a campaign, and for a status."""
PLAN_OFF = 0.25
"""How far from the campaign's duration, as a share of it, the plan may be."""

_BASE = 10_000
_ROUNDS = 9
_ATTEMPTS = 5
_WINDOW = 100
_CLAIM_S = 60.0


@dataclass(frozen=True, slots=True)
class Size:
    """What a campaign of one size came to.

    Attributes:
        blobs: how many there were.
        seconds: from the request to the end.
        phases: seconds in each state, and `rewrap`: from the first shard to the last outcome.
        planned_s: how long the plan said it would take, by the rate of the size before.
        worker_bytes: the most memory that a worker's processes have held, each.
        ledger_bytes: of inventory, outcomes and shards, with indexes.
        tick_s: database time of a tick's reading of this campaign, median.
        status_s: of a status, median.
        drop_s: of removing the campaign's inventory and outcomes.
    """

    blobs: int
    seconds: float
    phases: dict[str, float]
    planned_s: float | None
    worker_bytes: int
    ledger_bytes: int
    tick_s: float
    status_s: float
    drop_s: float

    @property
    def blob_us(self) -> float:
        """Microseconds a blob, from the request to the end."""
        return self.seconds / self.blobs * 1e6


@click.command(help=__doc__)
@click.option(
    "--size",
    "sizes",
    multiple=True,
    type=click.IntRange(1000, 2_000_000),
    default=(1_000, _BASE, 100_000, 1_000_000),
    show_default=True,
    help="How many blobs; may be given again.",
)
@click.option("--scene", "name", type=click.Choice(list(SCENES)), default="files-local")
def growth(*, sizes: tuple[int, ...], name: str) -> None:
    """Run the benchmark."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console()
    found = []
    try:
        with ExitStack() as stack:
            bao, urls = stack.enter_context(servers(place_of_ledger()))
            staged = stack.enter_context(stage(SCENES[name], place_of_store(), bao, urls))
            for size in sizes:
                found.append(_play(staged, size, console))
                _show(found, console)
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    document = {"scene": name, "sizes": [asdict(size) for size in found]}
    RESULTS.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    console.print(f"written to {RESULTS.relative_to(ROOT)}")
    if faults := _faults(found):
        raise click.ClickException("; ".join(faults))


def _play(staged: Stage, size: int, console: Console) -> Size:
    blob_ids = staged.staged.legacy.ids(size)
    staged.set(())  # what the size before has left
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with ExitStack() as running:
        shown = running.enter_context(Progress(*columns, TimeElapsedColumn(), console=console))
        made = staged.staged.legacy.make(blob_ids, staged.pool)
        for _ in shown.track(made, size, description=f"making {size:,} blobs"):
            pass
        ours = running.enter_context(Ours.ready(staged))
        planned_s = _planned_s(staged)
        task = shown.add_task(f"{size:,} blobs", total=size)
        took = ours.run(blob_ids, lambda done: shown.update(task, completed=done))
        memory = max(_most_bytes(process.pid) for process in ours.workers)
        shown.update(task, completed=size, description=f"{size:,} blobs, checking")
        staged.check(blob_ids, "ours")
    ledger = Ledger(staged.environment["REWRAP_LEDGER_URL"])
    try:
        return _measured(ledger, took, planned_s, memory)
    finally:
        ledger.close()


def _planned_s(staged: Stage) -> float | None:
    """Ask `rewrap plan` how long it would take."""
    command = [sys.executable, "-m", "scheduler", "plan", "migrate", "--json"]
    asked = subprocess.run(
        command, env=dict(staged.environment), stdout=subprocess.PIPE, check=True
    )
    seconds: float | None = json.loads(asked.stdout)["duration_s"]
    return seconds


def _most_bytes(pid: int) -> int:
    """Return the most memory that a process or one of its children has held (`proc(5)`, VmHWM)."""
    most = 0
    for each in (pid, *_children(pid)):
        for line in Path(f"/proc/{each}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                most = max(most, int(line.split()[1]) * 1024)
    return most


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [grandchild for child in map(int, found) for grandchild in (child, *_children(child))]


def _measured(ledger: Ledger, took: Took, planned_s: float | None, memory: int) -> Size:
    with ledger.begin() as connection:
        campaign_id = campaigns.recent(connection, 1)[0].id
        sizes = [
            connection.scalar(text(f"SELECT pg_total_relation_size('{table}_{campaign_id}')"))
            for table in ("inventory", "outcome")
        ]
        shard_bytes = connection.scalar(
            text("SELECT sum(pg_column_size(shard.*)) FROM shard WHERE campaign_id = :id"),
            {"id": campaign_id},
        )
    return Size(
        blobs=took.blobs,
        seconds=took.seconds,
        phases={str(state): seconds for state, seconds in took.phases.items()},
        planned_s=planned_s,
        worker_bytes=memory,
        ledger_bytes=sum(sizes) + shard_bytes,
        tick_s=_median(lambda: _read_for_tick(ledger, campaign_id)),
        status_s=_median(lambda: status.read(ledger, campaign_id, keeps_previous=False)),
        drop_s=_dropped(ledger),
    )


def _read_for_tick(ledger: Ledger, campaign_id: int) -> None:
    """Ask the ledger what a tick asks it of a running campaign."""
    with ledger.begin() as connection:
        shards.take_back(connection)
        exhaustion.give_up(connection, _ATTEMPTS)
        campaigns.open_campaigns(connection)
        progress.read(connection, campaign_id, Kind.MIGRATE)
        shards.offer(connection, campaign_id, _WINDOW, _CLAIM_S)


def _median(action: Callable[[], object]) -> float:
    took = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        action()
        took.append(time.perf_counter() - started)
    return statistics.median(took)


def _dropped(ledger: Ledger) -> float:
    started = time.perf_counter()
    with ledger.begin() as connection:
        (campaign,) = campaigns.recent(connection, 1)
        dropping.drop_lists(connection, campaign, leaves_previous=False)
    return time.perf_counter() - started


def _show(found: Sequence[Size], console: Console) -> None:
    table = Table(title="the same campaign, larger and larger")
    table.add_column("")
    for size in found:
        table.add_column(f"{size.blobs:,}", justify="right")
    for name, read in _LINES.items():
        table.add_row(name, *(read(size) for size in found))
    console.print(table)


_LINES: dict[str, Callable[[Size], str]] = {
    "request to complete, s": lambda s: f"{s.seconds:,.1f}",
    "time a blob, us": lambda s: f"{s.blob_us:,.0f}",
    "rewrap, blobs/s": lambda s: f"{s.blobs / s.phases['rewrap']:,.0f}",
    "inventory, s": lambda s: f"{s.phases.get('inventory', 0.0):,.1f}",
    "straggler scan, s": lambda s: f"{s.phases.get('verifying', 0.0):,.1f}",
    "the plan said, s": lambda s: "-" if s.planned_s is None else f"{s.planned_s:,.1f}",
    "worker, most MB": lambda s: f"{s.worker_bytes / 1e6:,.0f}",
    "ledger, bytes a blob": lambda s: f"{s.ledger_bytes / s.blobs:,.0f}",
    "a tick's reading, ms": lambda s: f"{s.tick_s * 1e3:,.1f}",
    "a status, ms": lambda s: f"{s.status_s * 1e3:,.1f}",
    "dropping its lists, ms": lambda s: f"{s.drop_s * 1e3:,.1f}",
}


def _faults(found: Sequence[Size]) -> list[str]:
    """Say what the largest size does not reach, compared with that of 10,000 blobs."""
    largest = max(found, key=lambda size: size.blobs)
    bases = [size for size in found if size.blobs == _BASE]
    faults = []
    if bases and largest.blob_us > MORE_TIME * bases[0].blob_us:
        faults.append(f"a blob takes {largest.blob_us / bases[0].blob_us:.2f} times as long")
    if largest.ledger_bytes > LEDGER_BYTES * largest.blobs:
        faults.append(f"the ledger has {largest.ledger_bytes / largest.blobs:.0f} bytes a blob")
    if max(largest.tick_s, largest.status_s) > DATABASE_S:
        faults.append("a tick or a status takes the database longer than is asked for")
    planned_s = largest.planned_s
    if planned_s is None or abs(planned_s - largest.seconds) > PLAN_OFF * largest.seconds:
        faults.append("the plan was further off than is asked for")
    return faults


if __name__ == "__main__":
    sys.exit(growth())
