"""Alerts of a whole node, told to a real HTTP server."""

from collections.abc import Callable, Iterator

import psutil
import pytest

from tests.hooks import Receiver, Reply, receiver
from tests.nodes import Node, until
from tests.sites import Site

TABLE = """
[alerts.webhooks.ops]
url_env = "ALERT_URL"
min_severity = "info"
format = "{format}"
"""


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as there:
        yield there


@pytest.fixture
def node(new_site: Callable[..., Site], hook: Receiver) -> Iterator[Node]:
    site = new_site("alerted", has_flower=True)
    site.config.write_text(site.config.read_text() + TABLE.format(format="json"))
    site.environment["ALERT_URL"] = hook.url
    node = Node(site, workers=1)
    node.start()
    yield node
    node.close()


def test_a_node_tells_once_whatever_is_killed_and_only_its_scheduler_knows_the_url(
    node: Node, hook: Receiver
) -> None:
    site = node.site
    site.make(5)
    assert site.rewrap("alerts", "test").out == "ops: delivered: 200: ok\n"
    hook.got.clear()
    hook.replies = [Reply(503), Reply(503)]
    assert site.rewrap("verify", "--all").code == 0
    until(lambda: len(hook.asked) > 1, "the first attempt", 60)
    assert site.rewrap("start", "migrate", "--yes", "--wait").code == 0
    holding = {
        name
        for name in ("scheduler", "worker-1", "flower")
        if any("ALERT_URL" in process.environ() for process in node.family(name))
    }
    assert holding == {"scheduler"}
    node.process("scheduler").kill()
    until(lambda: len(hook.got) > 1, "both ends", 60)
    scheduler: psutil.Process = node.process("scheduler")
    scheduler.kill()
    until(lambda: node.process("scheduler").pid != scheduler.pid, "another scheduler")
    listed = until(lambda: len(ask := site.ask("alerts")) > 1 and ask, "both listed")
    assert [(one["kind"], one["campaign"]) for one in listed] == [
        ("campaign_complete", 2),
        ("campaign_complete", 1),
    ]
    assert sorted(one["campaign"] for one in hook.got) == [1, 2]
    assert "secret-of-the-hook" not in node.logs()
    assert "alert_not_delivered" in node.log("scheduler")
