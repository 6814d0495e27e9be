"""Faults of every kind over one node, one after the other, while campaigns go on."""

import json
import os

import click

from tests.nodes import Node
from tests.roads import Road
from tests.storm.nodes import FAULTS, NodeStorm

PLANS = {
    "suite": {
        "child killed": 20,
        "worker killed": 2,
        "Redis wiped": 1,
        "PostgreSQL shut down at once": 1,
        "ledger lost": 1,
        "OpenBao away": 1,
    },
    "soak": {
        "child killed": 300,
        "worker killed": 10,
        "worker frozen": 5,
        "scheduler killed": 10,
        "Redis wiped": 3,
        "Redis flushed": 5,
        "PostgreSQL killed": 5,
        "PostgreSQL shut down at once": 5,
        "ledger lost": 3,
        "OpenBao away": 5,
    },
}
PLAN = PLANS[os.environ.get("REWRAP_STORM", "suite")]
SEED = int(os.environ.get("REWRAP_STORM_SEED", "1"))


def test_a_storm_over_a_node_loses_nothing_and_ends_complete_by_itself(
    faulty: Node, road: Road
) -> None:
    figures = NodeStorm(faulty, road, PLAN, SEED, blobs=3000).run()
    click.echo(json.dumps(figures.document()))  # `make soak` shows it
    assert figures.failures == []
    assert figures.faults == PLAN
    assert figures.in_midst > sum(PLAN.values()) / 3, "it is to rage while something goes on"
    assert figures.reads > 100
    assert set(PLANS["soak"]) == set(FAULTS)
