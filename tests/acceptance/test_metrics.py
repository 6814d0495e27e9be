"""What a real node serves as metrics, while it works, and when its processes are killed."""

import base64
import json
import re
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from keywrap.keyfile import WRAP_LIMIT
from tests.nodes import Node, until
from tests.sites import ROOT, Site

BLOBS = 240
NAME = re.compile(r"\brewrap_[a-z0-9_]+")


@pytest.fixture(scope="module")
def node(new_site: Callable[..., Site]) -> Iterator[Node]:
    site = new_site("metrics", batch=20, has_flower=True)
    text = site.config.read_text()
    text += f'\n[keys.local.spare]\nfile = "{site.directory / "spare.key"}"\n'
    text += f'\n[pace.keys."hcvault://transit/{site.kek}"]\nrequests_per_s = 500\n'
    site.config.write_text(text)
    assert site.rewrap("create-kek", "local:spare").code == 0
    node = Node(site, workers=2)
    node.start()
    yield node
    node.close()


def addresses(node: Node) -> dict[str, str]:
    """Return where each process serves its metrics, as `rewrap up` says."""
    said = re.findall(r"^metrics of (\S+): (http://\S+)$", node.out.read_text(), re.MULTILINE)
    return dict(said)


def text(node: Node, name: str) -> str:
    answer = requests.get(addresses(node)[name], timeout=10)
    answer.raise_for_status()
    return answer.text


def values(node: Node, name: str) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for family in text_string_to_metric_families(text(node, name)):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


def total(node: Node, metric: str, **labels: str) -> float:
    """Add a metric up over all processes that have it."""
    wanted = set(labels.items())
    return sum(
        value
        for name in addresses(node)
        for has, value in values(node, name).get(metric, {}).items()
        if wanted <= has
    )


def named_in_files() -> dict[str, set[str]]:
    """Return the metrics that rules and dashboard ask for."""
    rules = yaml.safe_load((ROOT / "deploy/prometheus/rules.yml").read_text())
    expressions = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    dashboard = json.loads((ROOT / "deploy/grafana/rewrap.json").read_text())
    shown = [t["expr"] for panel in dashboard["panels"] for t in panel.get("targets", [])]
    assert expressions
    assert shown
    return {
        "rules.yml": {name for text in expressions for name in NAME.findall(text)},
        "rewrap.json": {name for text in shown for name in NAME.findall(text)},
    }


@pytest.fixture(scope="module")
def migrated(node: Node) -> int:
    """A campaign that is over, after an inventory of the whole store."""
    node.site.make(BLOBS)
    assert node.site.rewrap("inventory").code == 0
    number = node.site.campaign("migrate")
    node.reach(number, "complete", 90)
    until(lambda: total(node, "rewrap_key_version_blobs") == BLOBS, "the census is shown", 90)
    return number


def test_every_process_says_where_it_serves_and_no_two_serve_at_one_place(node: Node) -> None:
    found = addresses(node)
    assert found.keys() == {"scheduler", "worker-1", "worker-2"}
    assert len(set(found.values())) == 3
    for name, address in found.items():
        assert f"metrics: {address}" in node.log(name)


def test_workers_count_what_a_campaign_did(node: Node, migrated: int) -> None:
    assert migrated
    decided = total(node, "rewrap_blobs_decided_total", kind="migrate", outcome="rewrapped")
    assert decided >= BLOBS  # those that the canary and the proof opened are counted by the ledger
    uses = {"operation": "wrap", "provider": "vault", "outcome": "ok"}
    assert total(node, "rewrap_key_uses_total", **uses) >= BLOBS
    assert total(node, "rewrap_key_uses_total", provider="env", operation="unwrap") >= BLOBS
    assert total(node, "rewrap_key_uses_total", outcome="refused") == 0
    sent = {"provider": "vault", "operation": "encrypt", "outcome": "ok"}
    requests_sent = total(node, "rewrap_kms_request_seconds_count", **sent)
    assert requests_sent > 0
    assert total(node, "rewrap_kms_request_seconds_bucket", le="+Inf", **sent) == requests_sent
    assert 0 < total(node, "rewrap_kms_request_seconds_sum", **sent) < 60
    assert total(node, "rewrap_store_step_seconds_count", step="read") > 0
    assert total(node, "rewrap_store_step_seconds_count", step="replace") > 0
    assert total(node, "rewrap_shard_seconds_count", kind="rewrap") > 0
    assert total(node, "rewrap_local_kek_wrap_limit") >= WRAP_LIMIT


def test_the_scheduler_shows_a_campaign_while_it_is_open_and_the_census_after(
    node: Node, migrated: int
) -> None:
    later = datetime.now(UTC) + timedelta(hours=12)
    window = f"{later:%H}:00-{later:%H}:30 UTC"
    number = str(
        node.site.campaign("migrate", "--window", window, "--finish-by", "2099-12-01T06:00 UTC")
    )

    def is_shown() -> Any:
        states = values(node, "scheduler").get("rewrap_campaign_state", {})
        return [labels for labels in states if ("campaign", number) in labels]

    until(is_shown, "the campaign is shown", 90)
    why = {"campaign": number, "reason": "outside_window"}
    until(lambda: total(node, "rewrap_campaign_waiting", **why) == 1, "it says why it waits", 90)
    assert total(node, "rewrap_campaign_late", campaign=number) == 0
    assert total(node, "rewrap_campaign_blobs", campaign=str(migrated)) == 0  # it is over
    census = values(node, "scheduler")["rewrap_key_version_blobs"]
    assert sum(census.values()) == BLOBS
    assert {dict(labels)["provider"] for labels in census} == {"env"}
    assert node.site.rewrap("cancel", number).code == 0
    until(lambda: not is_shown(), "the campaign is not shown any more", 90)
    assert total(node, "rewrap_scheduler_last_tick_timestamp_seconds") > 0
    assert total(node, "rewrap_audit_chain_entries") > 0
    assert total(node, "rewrap_audit_chain_faults") == 0
    assert total(node, "rewrap_ledger_up") == total(node, "rewrap_broker_up") == 1


@pytest.mark.usefixtures("migrated")
@pytest.mark.parametrize("file", ["rules.yml", "rewrap.json"])
def test_every_metric_that_a_rule_or_a_panel_asks_for_is_served(node: Node, file: str) -> None:
    served = set(
        re.findall(r"^# TYPE (\S+)", "".join(text(node, n) for n in addresses(node)), re.MULTILINE)
    )
    served |= {f"{name}_{part}" for name in served for part in ("bucket", "count", "sum")}
    asked = named_in_files()[file]
    assert len(asked) > 5
    assert asked <= served, asked - served


@pytest.mark.usefixtures("migrated")
def test_each_metric_stands_in_the_table_of_the_documentation(node: Node) -> None:
    kinds = dict(re.findall(r"^# TYPE (rewrap_\S+) (\S+)", _all(node), re.MULTILINE))
    rows = re.findall(r"^\| `(rewrap_\w+)` \| (\w+) \|([^|]*)\|", _table(), re.MULTILINE)
    assert {name: kind for name, kind, _ in rows} == kinds
    for name, _, labels in rows:
        told = set(re.findall(r"`(\w+)`", labels))
        shown = {label for has in _samples(node, name) for label, _ in has} - {"le"}
        assert shown <= told, name
        assert shown in ({*told}, set()), name


def _all(node: Node) -> str:
    return "".join(text(node, name) for name in addresses(node))


def _table() -> str:
    return (ROOT / "docs/metrics.md").read_text()


def _samples(node: Node, name: str) -> Iterator[frozenset[tuple[str, str]]]:
    for process in addresses(node):
        found = values(node, process)
        for part in (name, f"{name}_count"):
            yield from found.get(part, {})


@pytest.mark.usefixtures("migrated")
def test_no_key_and_no_token_is_in_the_metrics(node: Node) -> None:
    served = _all(node)
    # BLOB_KEY is itself the data key of some blobs, the other one wraps those of the others.
    for name, secret in node.site.secrets.items():
        assert len(secret) > 8
        raw = bytes.fromhex(secret) if name == "BLOB_KEY" else secret.encode()
        for form in (secret, raw.hex(), base64.b64encode(raw).decode(), repr(raw)[2:-1]):
            assert form not in served, name
    for file in (node.site.identity, node.site.directory / "spare.key"):
        for word in re.findall(r"[A-Za-z0-9+/=-]{24,}", file.read_text()):
            assert word not in served
    assert str(node.site.directory) not in served
    for path in node.site.store.rglob("*.blob"):
        assert path.stem not in served


@pytest.mark.usefixtures("migrated")
def test_what_a_killed_process_has_counted_is_not_lost_and_its_successor_goes_on(
    node: Node,
) -> None:
    uses = {"provider": "vault", "operation": "wrap", "outcome": "ok"}
    before = total(node, "rewrap_key_uses_total", **uses)
    assert before >= BLOBS
    for name in ("worker-1", "worker-2"):
        (child,) = _pool(node, name)
        child.send_signal(signal.SIGKILL)
        until(lambda name=name, child=child: _pool(node, name) not in ([child], []), "a new one")
    assert total(node, "rewrap_key_uses_total", **uses) == before
    node.site.make(40, "later")
    node.reach(node.site.campaign("migrate"), "complete", 90)
    assert total(node, "rewrap_key_uses_total", **uses) >= before + 40
    for name in ("worker-1", "worker-2"):
        folder = _folder(node, name)
        slots = {re.sub(r".*_", "", path.stem) for path in folder.glob("counter_*.db")}
        assert slots == {"main", "slot0"}, "one file for each slot, however many took it"


def _pool(node: Node, name: str) -> list[psutil.Process]:
    return node.process(name).children()


def _folder(node: Node, name: str) -> Path:
    opened = {Path(file.path).parent for file in node.process(name).open_files()}
    mapped = {Path(m.path).parent for m in node.process(name).memory_maps()}
    (folder,) = (f for f in opened | mapped if f.name.startswith("rewrap-metrics-"))
    return folder


@pytest.mark.usefixtures("migrated")
def test_a_worker_that_ends_leaves_nothing_and_its_successor_serves_at_the_same_place(
    node: Node,
) -> None:
    folder, ended = _folder(node, "worker-2"), node.process("worker-2")
    said = node.log("worker-2").count(f"metrics: {addresses(node)['worker-2']}")
    assert said
    ended.terminate()
    until(lambda: not ended.is_running(), "it ends", 30)
    assert not folder.exists()
    until(lambda: node.log("worker-2").count(f"metrics: {addresses(node)['worker-2']}") > said,
          "another one serves", 30)  # fmt: skip
    assert _folder(node, "worker-2") != folder


def test_a_worker_whose_port_is_taken_says_so(node: Node) -> None:
    port = addresses(node)["worker-1"].rpartition(":")[2].partition("/")[0]
    environment = {
        "REWRAP_LEDGER_URL": "postgresql://127.0.0.1:1/none",
        "REWRAP_BROKER_URL": "redis://127.0.0.1:1/0",
    }
    for command in ("worker", "scheduler"):
        ran = node.site.rewrap(command, "--metrics-port", port, **environment)
        assert ran.code != 0
        assert f"metrics cannot be served on 127.0.0.1:{port}" in ran.err
        assert f"rewrap {command} --metrics-port" in ran.err
        assert "Traceback" not in ran.err


def test_flowers_own_metrics_are_where_prometheus_asks_for_them(node: Node) -> None:
    address = f"http://127.0.0.1:{node.site.flower_port}/metrics"

    def answers() -> bool:
        try:
            return requests.get(address, timeout=5).ok
        except requests.ConnectionError:
            return False

    until(answers, "Flower answers", 60)
    assert "flower_worker_online" in requests.get(address, timeout=5).text
