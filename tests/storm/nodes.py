"""The storm over a whole node: scheduler, workers, Redis, PostgreSQL and the road to OpenBao.

Campaigns are opened one after the other while their processes are killed, frozen and cut off;
nobody helps. Each has to end complete, with every blob accounted for and its own content, while an
independent reader opens blobs all along.
"""

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import psutil

from tests import faulting
from tests.faulting import Campaign
from tests.nodes import Node, decided
from tests.roads import Road

_LEASE_S = 3.0
_AWAY_S = 2.0
_BETWEEN_S = (0.2, 1.2)
_SLOW_S = 0.12
_UNDER_WAY = {"inventory", "backup", "canary", "running", "blocked"}


def _kill_a_child(storm: "NodeStorm") -> None:
    children = storm.node.family(storm.a_worker())[1:]
    faulting.kill(children[:1])


def _kill_a_worker(storm: "NodeStorm") -> None:
    faulting.kill(storm.node.family(storm.a_worker()))


def _freeze_a_worker(storm: "NodeStorm") -> None:
    """Stop a worker for longer than its lease, and let it go on."""
    family = storm.node.family(storm.a_worker())
    for act in ("suspend", "resume"):
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                getattr(process, act)()
        if act == "suspend":
            time.sleep(1.5 * _LEASE_S)


def _cut_the_road(storm: "NodeStorm") -> None:
    """Let nobody reach OpenBao for a while."""
    storm.road.tear_up()
    time.sleep(_AWAY_S)
    storm.road.restore()


def _lose_the_ledger(storm: "NodeStorm") -> None:
    """Let PostgreSQL's disk be gone, and finish what the store is told from."""
    assert storm.campaign is not None
    storm.campaign.loses_the_ledger()


FAULTS: Mapping[str, Callable[["NodeStorm"], None]] = {
    "child killed": _kill_a_child,
    "worker killed": _kill_a_worker,
    "worker frozen": _freeze_a_worker,
    "scheduler killed": lambda storm: faulting.kill_the_scheduler(storm.node),
    "Redis wiped": lambda storm: faulting.kill_redis_and_wipe_it(storm.node),
    "Redis flushed": lambda storm: faulting.flush_redis(storm.node),
    "PostgreSQL killed": lambda storm: faulting.kill_the_postmaster(storm.node),
    "PostgreSQL shut down at once": lambda storm: faulting.restart_postgres_at_once(storm.node),
    "ledger lost": _lose_the_ledger,
    "OpenBao away": _cut_the_road,
}


@dataclass
class NodeFigures:
    """What a storm over a node came to.

    Attributes:
        seed: what the choices follow from.
        faults: how many there were of each kind.
        campaigns: how many were opened, each of which ended complete.
        blobs: how many they moved.
        in_midst: how many faults happened while a campaign had decided some blobs and not all.
        reads: how many times the independent reader opened a blob.
        failures: what it found wrong.
        seconds: how long it took.
    """

    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    campaigns: int = 0
    blobs: int = 0
    in_midst: int = 0
    reads: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def document(self) -> dict[str, Any]:
        """Return them for printing."""
        return vars(self) | {"faults": dict(self.faults)}


class NodeStorm:
    """Faults over a node, until a plan of them is spent.

    Args:
        node: runs.
        road: between its workers and OpenBao.
        plan: how many faults of each kind.
        seed: what the choices follow from.
        blobs: how many a campaign moves.
    """

    def __init__(
        self, node: Node, road: Road, plan: Mapping[str, int], seed: int, blobs: int = 1500
    ) -> None:
        self.node = node
        self.road = road
        self._left = [kind for kind, count in plan.items() for _ in range(count)]
        self._rng = random.Random(seed)
        self._rng.shuffle(self._left)
        self._blobs = blobs
        self.campaign: Campaign | None = None
        self.figures = NodeFigures(seed)

    def a_worker(self) -> str:
        """Choose a worker."""
        return self._rng.choice(("worker-1", "worker-2"))

    def run(self, at_once: int = 25) -> NodeFigures:
        """Let it rage.

        Args:
            at_once: most faults that one campaign meets.

        Raises:
            AssertionError: a campaign did not end complete, or a blob is not accounted for.
        """
        started, figures = time.monotonic(), self.figures
        while self._left:
            folder = f"storm-{figures.seed}-{figures.campaigns}"
            campaign = Campaign(self.node, self.road, folder, blobs=self._blobs)
            self.campaign = campaign
            with campaign.watch as watch:
                campaign.begin()
                self._rage(campaign, at_once)
                campaign.ends_well()
            figures.campaigns += 1
            figures.blobs += self._blobs
            figures.reads += watch.reads
            figures.failures += watch.failures
            self.node.site.remove(f"{folder}/")
        figures.seconds = round(time.monotonic() - started, 1)
        return figures

    def _rage(self, campaign: Campaign, at_once: int) -> None:
        for _ in range(at_once):
            self.road.delay_s = _SLOW_S
            if not self._left:
                return
            document = self.node.document(campaign.id)
            if document and document["state"] not in _UNDER_WAY:
                return  # it is over: the rest is for the next one
            kind = self._left.pop()
            FAULTS[kind](self)
            self.figures.faults[kind] += 1
            if document and 0 < decided(document) < len(campaign.blob_ids):
                self.figures.in_midst += 1
            time.sleep(self._rng.uniform(*_BETWEEN_S))
