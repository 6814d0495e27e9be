import base64
import re
import socket
import time
from collections.abc import Iterator

import pytest
import requests

from tests.nodes import Node, assert_balanced, until
from tests.roads import Road
from tests.sites import campaign_in

BLOBS = 400
PAGES = (
    *("/", "/workers", "/tasks", "/broker", "/api/tasks", "/api/workers", "/tasks/datatable"),
    *("/campaigns", "/campaigns.json", "/campaigns/1", "/campaigns/1.json"),
    *("/api/campaigns/1/blobs?outcome=rewrapped", "/campaigns/1/shards", "/metrics"),
)


@pytest.fixture
def flower(acceptance: Node) -> Iterator[requests.Session]:
    """Someone who has signed in to the Flower of `rewrap up`."""
    with requests.Session() as session:
        session.trust_env = False
        name, _, password = (acceptance.site.state / "flower-sign-in").read_text().partition(":")
        session.auth = (name, password)
        session.headers["Origin"] = address(acceptance)
        until(lambda: answers(session, acceptance), "Flower answers")
        yield session


def address(node: Node) -> str:
    return f"http://127.0.0.1:{node.site.flower_port}"


def answers(session: requests.Session, node: Node) -> bool:
    try:
        return session.get(address(node), timeout=5).ok
    except requests.ConnectionError:
        return False


def tasks(session: requests.Session, node: Node) -> dict[str, dict[str, str]]:
    answer = session.get(f"{address(node)}/api/tasks?limit=10000", timeout=10)
    answer.raise_for_status()
    found: dict[str, dict[str, str]] = answer.json()
    return found


def test_flower_shows_nothing_without_its_sign_in(
    acceptance: Node, flower: requests.Session
) -> None:
    sign_in = acceptance.site.state / "flower-sign-in"
    assert sign_in.stat().st_mode & 0o777 == 0o600
    assert len(sign_in.read_text().partition(":")[2]) >= 16
    for page in ("/", "/workers", "/tasks", "/broker", "/api/tasks", "/api/workers"):
        assert requests.get(address(acceptance) + page, timeout=10).status_code == 401, page
        wrong = requests.get(address(acceptance) + page, auth=("operator", "x"), timeout=10)
        assert wrong.status_code == 401, page
        assert flower.get(address(acceptance) + page, timeout=10).status_code == 200, page


def test_flower_starts_and_ends_no_task_not_even_for_who_has_signed_in(
    acceptance: Node, flower: requests.Session
) -> None:
    worker = f"worker-1@{socket.gethostname()}"
    for path in (
        "/api/task/async-apply/rewrap.rewrap_shard",
        "/api/task/send-task/rewrap.rewrap_shard",
        "/api/task/apply/rewrap.rewrap_shard",
        "/api/task/revoke/0d7a2b8e-0000-4000-8000-000000000000?terminate=true",
        f"/api/worker/shutdown/{worker}",
        f"/api/worker/pool/shrink/{worker}",
    ):
        answer = flower.post(address(acceptance) + path, json={"args": ["x"]}, timeout=10)
        assert answer.status_code == 403, (path, answer.text)
    assert acceptance.process("worker-1").is_running()


def test_flower_shows_each_shard_by_its_ids_with_progress_and_counts_and_no_secret(
    acceptance: Node, flower: requests.Session, road: Road
) -> None:
    site = acceptance.site
    before = set(tasks(flower, acceptance))
    ids = site.make(BLOBS, "f/")
    road.delay_s = 0.9  # long enough for a shard to tell how far it is
    ran = site.start("start", "migrate", "--prefix", "f/", "--yes", "--wait")
    with ran:
        progress = until(lambda: seen_progress(flower, acceptance), "progress in Flower", 30)
        road.delay_s = 0.0
        out, _ = ran.communicate()
    assert ran.returncode == 0
    assert re.fullmatch(r"\d+/\d+ blobs \(\d+%\)", progress)
    campaign_id = campaign_in(out)
    assert_balanced(acceptance.document(campaign_id), BLOBS)
    time.sleep(1)  # the last events are on their way
    shown = [t for u, t in tasks(flower, acceptance).items() if u not in before]
    shards = [t for t in shown if t["name"] == "rewrap.rewrap_shard"]
    assert shards
    assert {t["name"] for t in shown} == {
        "rewrap.inventory_shard",
        "rewrap.backup_shard",
        "rewrap.manifest_shard",
        "rewrap.verify_shard",
        "rewrap.rewrap_shard",
        "rewrap.straggler_shard",
    }
    for task in shown:
        assert re.fullmatch(rf"'?campaign {campaign_id} shard \d+'?", task["args"]), task
        assert task["kwargs"] in {"{}", "", None}
        # Revoked: an offer that nobody was free to take, and that was made again.
        assert task["state"] in {"SUCCESS", "REVOKED"}
    assert sum(counted(t["result"]) for t in shards if t["state"] == "SUCCESS") == BLOBS
    check_no_secret(acceptance, flower, ids)
    site.remove("f")


def counted(result: str) -> int:
    found = re.fullmatch(r"\{('rewrapped': (\d+))?\}", result)
    assert found, result
    return int(found[2] or 0)


def seen_progress(flower: requests.Session, node: Node) -> str:
    for task in tasks(flower, node).values():
        if task["state"] == "PROGRESS" and "blobs" in (task["result"] or ""):
            return task["result"].strip("'")
    return ""


def check_no_secret(node: Node, flower: requests.Session, ids: list[str]) -> None:
    site = node.site
    pages = [flower.get(address(node) + page, timeout=10) for page in PAGES]
    uuids = list(tasks(flower, node))
    pages += [flower.get(f"{address(node)}/task/{u}", timeout=10) for u in uuids[-3:]]
    workers = flower.get(f"{address(node)}/api/workers?refresh=1", timeout=20).json()
    pages += [flower.get(f"{address(node)}/worker/{name}", timeout=10) for name in workers]
    assert len(workers) == 2
    text = "".join(page.text for page in pages if page.ok)
    assert "rewrap.rewrap_shard" in text
    reader = site.reader()
    keys = [reader.data_key(blob_id) for blob_id in ids[:20]]
    reader.close()
    secrets = [*site.secrets.values(), site.bao.token]
    secrets += [form for key in keys for form in (key.hex(), base64.b64encode(key).decode())]
    for secret in secrets:
        assert secret not in text
        assert secret not in node.logs()
