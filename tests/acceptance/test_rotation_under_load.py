"""A rotation of the KEK while applications read and write: nobody notices."""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest

from tests.crowds import Crowd
from tests.nodes import Node, assert_balanced, until
from tests.sites import Site, campaign_in

AGE_S = 2
BLOBS = 480
LIVE = 240
"""So many that the campaign still meets wraps that the writers made under the old version."""

READERS, WRITERS = 4, 2
NEEDED_S = 0.5
"""Longest from the look at the control file to the event of the wrap that was made by it."""


@pytest.fixture
def node(new_site: Callable[..., Site]) -> Iterator[Node]:
    site = new_site("under-load", batch=50)
    site.control(AGE_S)
    node = Node(site, workers=2)
    node.start()
    yield node
    node.close()


def made_at(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()


def test_applications_read_and_write_all_along_and_none_writes_under_the_old_version_after_the_age(
    node: Node,
) -> None:
    site = node.site
    ids = site.make(BLOBS)
    assert site.rewrap("cutover", "off").code == 0  # the first control file: now all obey it
    assert site.rewrap("start", "migrate", "--yes", "--wait").code == 0
    live = ids[:: BLOBS // LIVE]
    old, new = site.version(1), site.version(2)

    with Crowd(site, ids, live, readers=READERS, writers=WRITERS) as crowd:
        until(lambda: len(crowd.wraps()) > LIVE, "they write", timeout_s=90)
        rotated = site.rewrap("rotate-kek", "--yes", "--wait", timeout_s=150)
        assert rotated.code == 0, rotated
        written = len(crowd.wraps())
        until(lambda: len(crowd.wraps()) > written + LIVE // 4, "they write on")

    assert [each["failures"] for each in crowd.told] == [[]] * (READERS + WRITERS)
    assert all(each["times"] > 50 for each in crowd.told), crowd.told
    published_at = (site.store / ".rewrap/control.json").stat().st_mtime
    late = [e for e in crowd.wraps() if made_at(e) > published_at + AGE_S + NEEDED_S]
    assert {e["key_id"] for e in crowd.wraps()} == {old, new}
    assert {e["key_id"] for e in late} == {new}
    assert site.key_ids(ids) == {new}
    document = site.ask("status", str(campaign_in(rotated.out)))
    assert document["state"] == "complete"
    assert document["counts"]["rewrapped"] > BLOBS - LIVE, "it met none that a writer had made"
    assert_balanced(document, document["counts"]["scanned"])
    verified = site.rewrap("verify", "--all", "--json")
    assert verified.code == 0, verified
    assert verified.document["counts"]["current"] == BLOBS
