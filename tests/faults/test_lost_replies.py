"""Every write of a migration loses its reply: each is made once, and told as made."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from keywrap.objectstore import ObjectStore
from keywrap.rewrapping import Outcome, Prove, Selection
from keywrap.testing.aws_server import AwsServer
from tests.hostiles import assert_moved
from tests.worlds import World

LOST = int(os.environ.get("REWRAP_LOST_REPLIES", "100"))
BATCH = 100
KINDS = ("bare", "wrapped")
"""A sidecar that is created, and one that is replaced."""


def test_a_migration_whose_every_reply_is_lost_writes_each_sidecar_once(
    aws_server: AwsServer, s3_store: ObjectStore
) -> None:
    world = World()
    ids = [world.plant(KINDS[n % 2], f"{n:05d}") for n in range(LOST)]
    objects = world.snapshot()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(s3_store.create, objects, objects.values()))
        rewrapper = replace(
            world.rewrapper(), reader=replace(world.reader, store=s3_store), pool=pool
        )
        before = aws_server.control()["writes"]
        for start in range(0, LOST, BATCH):
            batch = ids[start : start + BATCH]
            aws_server.control(lose_replies=len(batch))
            report = rewrapper.rewrap(batch, world.goal(Selection.LEGACY, Prove.ALL))
            assert report.interruption is None
            assert {result.outcome for result in report.results} == {Outcome.REWRAPPED}
    assert aws_server.control()["writes"] - before == LOST
    assert_moved(world, s3_store, ids)
    reader = replace(world.reader, store=s3_store)
    numbers = [reader.read(blob_id).sidecar.dek_version for blob_id in ids]
    assert numbers == [1, 2] * (LOST // 2), "each wrap was changed once"
