"""What a real node writes to its logs."""

import json
from typing import Any

from embedded.redis import Redis
from tests.nodes import Node, until
from workers.app import make_app

PROCESSES = ("scheduler", "worker-1", "worker-2", "flower")


def lines(node: Node, name: str) -> list[dict[str, Any]]:
    """Every line of a log: each is a JSON object, or this fails."""
    text = node.log(name)
    found = [json.loads(line) for line in text.splitlines()[: text.count("\n")]]
    assert all(isinstance(line, dict) and line["message"] for line in found)
    return found


def test_every_line_is_json_with_ids_and_without_secrets(acceptance: Node) -> None:
    site = acceptance.site
    site.make(120, "logs/")
    ran = site.rewrap("start", "migrate", "--prefix", "logs/", "--yes", "--wait")
    assert ran.code == 0, ran
    campaign = int(ran.out.split("campaign ", 1)[1].split()[0])
    logs = {name: lines(acceptance, name) for name in PROCESSES}
    done = [
        line
        for name in ("worker-1", "worker-2")
        for line in logs[name]
        if line.get("event") == "task_succeeded" and line.get("campaign") == campaign
    ]
    assert len({line["shard"] for line in done}) > 2
    assert all(len(line["task"]) == 36 for line in done)
    assert any("'rewrapped': " in line["message"] for line in done)
    states = [
        line["message"]
        for line in logs["scheduler"]
        if line.get("event") == "campaign_state" and line["campaign"] == campaign
    ]
    assert f"campaign {campaign} (migrate) is complete" in states
    for name, found in logs.items():
        assert {line["service"] for line in found} == {name.partition("-")[0]}
    for secret in (*site.secrets.values(), (site.state / "flower-sign-in").read_text()):
        assert secret.rpartition(":")[2] not in acceptance.logs()
    site.remove("logs")


def test_whoever_sends_messages_cannot_forge_a_line(acceptance: Node) -> None:
    redis = Redis.running(acceptance.site.state / "redis")
    assert redis is not None
    app = make_app(redis.url)
    forged = 'x\n{"level": "critical", "service": "worker", "message": "FORGED"}\n'
    for name in ("rewrap.rewrap_shard", f"unknown{forged}"):
        app.send_task(name, args=[forged], argsrepr=forged, queue="rewrap", task_id=forged)
    app.close()

    def told() -> list[dict[str, Any]]:
        found = [line for name in ("worker-1", "worker-2") for line in lines(acceptance, name)]
        return [line for line in found if "FORGED" in json.dumps(line)]

    found = until(lambda: told() if len(told()) > 2 else [], "both messages in the logs")
    assert all(line["message"] != "FORGED" for line in found)
    assert {"task_received", "task_failed"} <= {line.get("event") for line in found}
