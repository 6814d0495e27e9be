import time
from collections.abc import Callable
from dataclasses import astuple
from functools import partial

from tests.cloudsites import PREFIX, Cloud, CloudSite, LiveWriter
from tests.nodes import Node, assert_balanced, until

BLOBS = 300
LIVE = 60
AWAY_S = 5.0
KMS_MS = 250
"""So slow that the campaign is under way all the time that things go wrong, and that between its
read of a sidecar and its write a live writer may come first."""

FAULTS: tuple[dict[str, object], ...] = (
    {"lose_replies": 15, "kms_lose_replies": 5},
    {"conflicts": 15, "kms_fail": {"code": "KMSInternalException", "times": 5}},
    {"slow_down": 15, "slow_reads": 15},
    {"errors": 15, "kms_quota": 20},
    {"lose_requests": 15, "kms_lose_replies": 5},
)
"""So many of each that the live writer's own requests do not use them up."""


def test_a_campaign_completes_by_itself_through_all_faults_and_no_live_write_is_lost(
    cloud: Cloud, node_at: Callable[[str], Node]
) -> None:
    node = node_at("faults")
    site = node.site
    ids = [b for b in site.make(BLOBS, "f/") if not b.startswith("f/local-")]
    live = ids[:: len(ids) // LIVE]
    quiet = [b for b in ids if b not in live]
    node.start()
    cloud.control(slow_reads=6, latency_ms={"kms": KMS_MS})
    campaign_id = site.campaign("migrate")
    node.reach(campaign_id, "running")  # before that nothing is written that a writer could race
    with LiveWriter(site, cloud, live) as writer:
        for n, fault in enumerate(FAULTS):
            goes_on(node, campaign_id)
            cloud.control(**fault)
            until(partial(have_met, cloud, fault), f"{fault} have met requests")
            cloud.control(kms_quota=0)
            if n == len(FAULTS) // 2:
                go_away(cloud, node, campaign_id)
        goes_on(node, campaign_id)
        cloud.control(latency_ms={"kms": 0})
        done = node.reach(campaign_id, "complete")
        written = sum(writer.done.values())
        until(lambda: sum(writer.done.values()) > written, "written on after the campaign")
    assert_balanced(done, BLOBS)
    assert done["counts"]["rewrapped"] + done["counts"]["current"] == len(ids)
    assert done["counts"]["rewrapped"] >= len(quiet)
    campaigns = site.environment["AWS_ACCESS_KEY_ID"]
    assert any(campaigns in signer for signer in cloud.lost_races), "no writer came first"
    assert writer.failures == []
    assert site.wrong(quiet) == []
    assert [b for b in live if not writer.is_there(b, site.reader.open(b))] == []
    assert {r["key_id"] for r in site.reader.records(ids).values()} == {site.current()}
    verified = site.rewrap("verify", "--all", "--json")
    assert verified.code == 0, verified


def have_met(cloud: Cloud, fault: dict[str, object]) -> bool:
    """Whether every fault that was set has met a request."""
    throttled = any(event.error == "ThrottlingException" for event in tuple(cloud.kms.trail))
    is_planned = any(astuple(cloud.s3.faults)) or cloud.kms.faults._planned
    return not is_planned and (throttled or "kms_quota" not in fault)


def goes_on(node: Node, campaign_id: int) -> None:
    """Wait until the campaign runs, whatever it met before; there must be work left."""
    assert node.reach(campaign_id, "running")["counts"]["pending"]


def go_away(cloud: Cloud, node: Node, campaign_id: int) -> None:
    """Let the bucket be away for a while, and until the campaign says so."""
    cloud.is_away = True
    time.sleep(AWAY_S)
    blocked = node.reach(campaign_id, "blocked")
    cloud.is_away = False
    assert blocked["reason_code"] == "store_unavailable"


def test_a_store_that_ignores_conditions_is_refused_before_anything_is_moved(
    cloud: Cloud, node_at: Callable[[str], Node]
) -> None:
    node = node_at("careless")
    site = node.site
    cloud.careless.add(site.bucket)
    ids = [b for b in site.make(20, "c/") if not b.startswith("c/local-")]
    before = objects(site)
    node.start()
    cloud.kms.trail.clear()
    campaign_id = site.campaign("migrate")
    refused = node.reach(campaign_id, "blocked")
    assert refused["reason_code"] == "store_ignores_conditions"
    assert "No wrap was moved" in refused["reason"]
    tried = cloud.s3.operations["PutObject"]
    until(lambda: cloud.s3.operations["PutObject"] > tried, "it is tried again, and refused again")
    document = site.ask("status", str(campaign_id))
    assert (document["state"], document["counts"]["rewrapped"]) == ("blocked", 0)
    assert objects(site) == before
    assert cloud.asked("Encrypt") == []
    cloud.careless.clear()
    done = node.reach(campaign_id, "complete")
    assert done["counts"]["rewrapped"] == len(ids)
    assert site.wrong(ids) == []


def objects(site: CloudSite) -> dict[str, str]:
    """Return the ETag of every object of the store outside of our own corner."""
    listed = site.s3.list_objects_v2(Bucket=site.bucket, Prefix=PREFIX)
    assert not listed["IsTruncated"]
    found = {entry["Key"]: entry["ETag"] for entry in listed["Contents"]}
    return {k: tag for k, tag in found.items() if not k.startswith(f"{PREFIX}.rewrap/")}
