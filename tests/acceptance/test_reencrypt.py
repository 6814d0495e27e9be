"""`rewrap start reencrypt` as an operator types it, on files and on S3, with workers of Celery."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from embedded import OpenBao
from tests.cloudsites import Cloud, CloudSite, LiveWriter
from tests.nodes import Node, assert_balanced, decided, until
from tests.plaincontents import open_content
from tests.scale import many
from tests.sites import Ran, Site, campaign_in

BLOBS = many(120, 240)
IN_S3 = many(60, 120)
GENERATION = 32
DAY_S = 86_400
CONTENT = ".blob"
LIVE = 8


@pytest.fixture
def node(new_site: Callable[..., Site]) -> Iterator[Node]:
    node = Node(new_site("reencrypt", batch=50), workers=2)
    node.start()
    yield node
    node.close()


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with Cloud() as cloud:
        yield cloud


@pytest.fixture
def node_in_s3(
    server_directory: Path, openbao: OpenBao, cloud: Cloud, request: pytest.FixtureRequest
) -> Iterator[Node]:
    name = request.node.name[5:22].replace("_", "-").strip("-")
    node = Node(CloudSite(server_directory / f"re-{name}", openbao, cloud.address), workers=2)
    cloud.s3.create_bucket(node.site.bucket)
    yield node
    node.close()
    node.site.close()


def typed(site: Site, *arguments: str, code: int = 0) -> str:
    ran = site.rewrap(*arguments)
    assert ran.code == code, ran
    return ran.out + ran.err


def ended(node: Node, ran: Ran, blobs: int) -> dict[str, Any]:
    """See that every blob was re-encrypted; return the status document."""
    assert ran.code == 0, ran
    document: dict[str, Any] = node.site.ask("status", str(campaign_in(ran.out)))
    assert document["state"] == "complete"
    assert document["counts"]["rewrapped"] == blobs
    assert_balanced(document, blobs)
    return document


def assert_anew(
    records: Mapping[str, Mapping[str, Any]],
    keys: Mapping[str, bytes],
    before: Sequence[bytes],
    sealed: Callable[[str], bytes],
    direct: bytes,
) -> None:
    """See that each blob has a content and a data key of its own, which no old key opens.

    Args:
        records: the sidecars by blob.
        keys: the data keys that these wrap.
        before: every data key that there was.
        sealed: returns the content of a blob as it lies in the store.
        direct: the legacy key that was itself the data key of many blobs.
    """
    assert len(set(keys.values())) == len(records)
    assert not set(keys.values()) & {direct, *before}
    assert len({record["object"] for record in records.values()}) == len(records)
    for blob_id, record in records.items():
        assert record["content"] == "stream-v1"
        assert len(record["object"]) == GENERATION
        assert "previous" not in record
        content = sealed(blob_id)
        open_content("stream-v1", keys[blob_id], content)
        with pytest.raises(AssertionError):  # the content commits to its key
            open_content("stream-v1", direct, content)


@pytest.mark.timeout(300)
def test_every_blob_in_a_folder_gets_a_data_key_of_its_own(node: Node) -> None:
    site = node.site
    ids = site.make(BLOBS, "r/")
    direct = bytes.fromhex(site.environment["BLOB_KEY"])
    reader = site.reader()
    before = [reader.data_key(b) for b in ids]
    assert before.count(direct) > BLOBS // 4
    untouched = site.fingerprint()
    plan = site.ask("plan", "reencrypt", "--sample", str(BLOBS))
    assert site.fingerprint() == untouched
    assert plan["next_command"] == "rewrap start reencrypt"
    assert plan["counts"]["moving"] == plan["sample"]["opened"] == BLOBS
    stored = sum(path.stat().st_size for path in site.store.rglob("*.blob"))
    assert plan["content_bytes"]["sampled"] == plan["content_bytes"]["stored"] == stored
    said = typed(site, "plan", "reencrypt")
    assert "the store needs room for these besides" in said
    with site.watch(ids) as watch:
        ended(node, site.rewrap("start", "reencrypt", "--yes", "--wait"), BLOBS)
    assert watch.failures == []
    written = sum(path.stat().st_size for path in site.store.rglob("*.blob.~*"))
    assert written == pytest.approx(plan["content_bytes"]["written"], rel=0.05)
    assert site.wrong(ids) == []
    assert site.key_ids(ids) == {site.version(1)}
    records = {b: reader.sidecar(b) for b in ids}
    keys = {b: reader.data_key(b) for b in ids}

    def sealed(blob_id: str) -> bytes:
        return (site.store / f"{blob_id}.blob.~{records[blob_id]['object']}").read_bytes()

    assert_anew(records, keys, before, sealed, direct)
    reader.close()
    assert_too_young(node)


def allow_sweeps(node: Node) -> None:
    """Let old contents be removed, and every campaign have ended eight days ago."""
    site = node.site
    site.config.write_text(f"{site.config.read_text()}\n[reencrypt]\nsweep = true\n")
    with node.ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE campaign SET finished_at = finished_at - interval '8 d'")
    node.kill_everything()
    node.start()  # the workers read the configuration anew


def assert_too_young(node: Node) -> None:
    """See that files go by their own age, whatever the ledger says: nobody can set it back."""
    site = node.site
    allow_sweeps(node)
    newest = next(d["campaign"] for d in site.ask("status") if d["kind"] == "reencrypt")
    for path in site.store.rglob("*.blob*"):
        os.utime(path, (0, 0))
    untouched = site.fingerprint()
    document = document_of(site, typed(site, "sweep", str(newest), "--yes", "--wait"))
    assert document["counts"]["excluded"] == BLOBS
    assert document["freed_bytes"] == 0
    assert site.fingerprint() == untouched
    reasons = {b["reason_code"] for b in site.ask("blobs", str(document["campaign"]))}
    assert reasons == {"too_young"}


@pytest.mark.timeout(300)
def test_every_blob_in_s3_gets_a_data_key_of_its_own_and_old_contents_are_swept(
    node_in_s3: Node, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = node_in_s3.site
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATHEAPPLICATION")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the application's own")
    ids = site.make(IN_S3, "r/")
    direct = bytes.fromhex(site.environment["BLOB_KEY"])
    node_in_s3.start()
    plan = site.ask("plan", "reencrypt", "--sample", "50")
    assert plan["kms_requests"]["total"] >= 2 * IN_S3  # a wrap and an unwrap each
    before = cloud.s3.operations.copy()
    ended(node_in_s3, site.rewrap("start", "reencrypt", "--yes", "--wait"), IN_S3)
    asked = cloud.s3.operations - before
    assert site.wrong(ids) == []
    assert asked["PutObject"] == pytest.approx(plan["store_requests"]["writes"], rel=0.1)
    uncounted = 3 * IN_S3  # by every plan: the backup reads sidecars, the canary contents too
    assert asked["GetObject"] - uncounted == pytest.approx(plan["store_requests"]["reads"], rel=0.2)
    first = site.reader.records(ids)
    assert {record["key_id"] for record in first.values()} == {site.current()}
    old = {b: site.reader.data_key(first[b], {"blob_id": b}) for b in ids}
    # And once more, which is what a second campaign is asked for.
    ended(node_in_s3, site.rewrap("start", "reencrypt", "--yes", "--wait"), IN_S3)
    assert site.wrong(ids) == []
    records = site.reader.records(ids)
    keys = {b: site.reader.data_key(records[b], {"blob_id": b}) for b in ids}

    def sealed(blob_id: str) -> bytes:
        return site.reader._object(f"{blob_id}.blob.~{records[blob_id]['object']}")

    assert_anew(records, keys, list(old.values()), sealed, direct)
    newest = max(d["campaign"] for d in site.ask("status") if d["kind"] == "reencrypt")
    sweep(node_in_s3, cloud, newest, ids)


@pytest.mark.timeout(300)
def test_a_sweep_completes_by_itself_after_its_workers_are_killed(
    node_in_s3: Node, cloud: Cloud
) -> None:
    node, site = node_in_s3, node_in_s3.site
    site.config.write_text(
        site.config.read_text().replace("batch = 50", "batch = 5") + "\n[reencrypt]\nsweep = true\n"
    )
    ids = site.make(IN_S3, "k/")
    node.start()
    ran = site.rewrap("start", "reencrypt", "--yes", "--wait")
    ended(node, ran, IN_S3)
    with node.ledger.begin() as connection:
        connection.exec_driver_sql("UPDATE campaign SET finished_at = finished_at - interval '8 d'")
    grow_old(cloud, site.bucket)
    cloud.control(latency_ms={"kms": 500})
    campaign = campaign_in(typed(site, "sweep", str(campaign_in(ran.out)), "--yes"))
    for worker in ("worker-1", "worker-2"):
        before = decided(until(lambda: started(node, campaign), "it is under way"))
        assert before < IN_S3, "or nothing is shown"
        for process in node.family(worker):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        until(lambda before=before: decided(node.document(campaign)) > before, "it goes on", 60)
    cloud.control(latency_ms={})
    document = node.reach(campaign, "complete", 60)
    assert_balanced(document, IN_S3)
    counts = document["counts"]
    assert counts["rewrapped"] + counts["current"] == IN_S3
    assert site.wrong(ids) == []
    contents = [key for key in cloud.s3._buckets[site.bucket] if ".blob" in key]
    assert len(contents) == 2 * IN_S3, "a content and a sidecar each"


def started(node: Node, campaign: int) -> dict[str, Any]:
    document = node.document(campaign)
    return document if document and decided(document) else {}


def grow_old(cloud: Cloud, bucket: str) -> None:
    """Let everything that lies in a bucket have been written eight days earlier."""
    objects = cloud.s3._buckets[bucket]
    for key, found in list(objects.items()):
        objects[key] = found._replace(modified=found.modified - 8 * DAY_S)


def sweep(node: Node, cloud: Cloud, campaign: int, ids: list[str]) -> None:
    """Remove the old contents of two re-encryptions, and of an application's own writes."""
    site, objects = node.site, cloud.s3._buckets[node.site.bucket]
    command = ("sweep", str(campaign), "--yes", "--wait")
    assert "[sweep_not_allowed]" in typed(site, *command, code=4)
    plain = site.config.read_text()
    site.config.write_text(f"{plain}\n[reencrypt]\nsweep = true\n")
    assert "[grace_not_over]" in typed(site, *command, code=4)
    site.config.write_text(plain)
    allow_sweeps(node)
    assert document_of(site, typed(site, *command))["counts"]["excluded"] == IN_S3, "too young"
    grow_old(cloud, site.bucket)
    live, quiet = ids[:LIVE], ids[LIVE:]
    before = dict(objects)
    with LiveWriter(site, cloud, live) as writer:
        until(lambda: all(writer.done.values()), "each is written once")
        document = document_of(site, typed(site, *command))
    assert writer.failures == []
    assert document["kind"] == "sweep"
    assert document["counts"]["rewrapped"] == len(quiet)
    assert document["counts"]["excluded"] == LIVE
    gone = [found for key, found in before.items() if key not in objects and CONTENT in key]
    assert len(gone) == 2 * len(quiet)
    assert document["freed_bytes"] == sum(len(found.data) for found in gone)
    assert site.wrong(quiet) == []
    assert all(writer.is_there(b, site.reader.open(b)) for b in live)
    assert site.ask("audit", "verify")["faults"] == []
    verified = site.rewrap("verify", "--all", "--json")
    assert (verified.code, verified.document["counts"]["current"]) == (0, IN_S3), verified


def document_of(site: Site, out: str) -> dict[str, Any]:
    document: dict[str, Any] = site.ask("status", str(campaign_in(out)))
    return document
