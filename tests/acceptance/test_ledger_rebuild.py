"""The drill: PostgreSQL is gone with its disk, and the store is all that is left."""

import shutil
from collections.abc import Callable, Iterator

import pytest

from tests.nodes import Node
from tests.sites import Site

BLOBS = 200


@pytest.fixture
def node(new_site: Callable[..., Site]) -> Iterator[Node]:
    node = Node(new_site("rebuild"), workers=1)
    node.start()
    yield node
    node.close()


@pytest.mark.timeout(300)
def test_after_the_ledger_is_lost_an_operator_rebuilds_it_and_goes_on(node: Node) -> None:
    site = node.site
    ids = site.make(BLOBS)
    migrated = site.rewrap("start", "migrate", "--yes", "--wait", timeout_s=200)
    assert migrated.code == 0, migrated
    refused = site.rewrap("ledger", "rebuild")
    assert (refused.code, "ledger_not_empty" in refused.err) == (4, True), refused
    node.kill_everything()
    shutil.rmtree(site.state / "postgres")
    node.start()
    assert site.ask("status") == []
    before = site.fingerprint()
    found = site.ask("ledger", "rebuild")
    assert found["scanned"] == BLOBS
    assert site.fingerprint() == before, "a rebuild changes no blob"
    (made,) = found["campaigns"]
    assert (made["kind"], made["rewrapped"]) == ("migrate", BLOBS)
    campaign = str(made["campaign"])
    assert found["last_lost_campaign"] < found["scan"] < made["campaign"]
    document = site.ask("status", campaign)
    assert (document["state"], document["reason_code"]) == ("cancelled", "ledger_rebuilt")
    assert document["unsealed"] == BLOBS
    assert len(site.ask("blobs", campaign, "--outcome", "rewrapped")) == BLOBS
    again = site.rewrap("start", "migrate", "--yes", "--wait", timeout_s=200)
    assert again.code == 0, again
    assert site.fingerprint() == before, "all is at the target already"
    undone = site.rewrap("undo", campaign, "--yes", "--wait", timeout_s=200)
    assert undone.code == 0, undone
    assert site.key_ids(ids) == {"env:BLOB_KEY", "env:BLOB_WRAP_KEY"}
    assert site.wrong(ids) == []
