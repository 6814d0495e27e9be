import logging
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from embedded import OpenBao
from tests.cloudsites import Cloud, CloudSite
from tests.nodes import Node, assert_balanced
from tests.scale import many
from tests.sites import Ran, campaign_in

EVERY_SCHEME = many(150, 500)
MOVED_ON = many(60, 150)
AWS_COUNTED = ("Encrypt", "Decrypt", "ReEncrypt", "GenerateDataKey")


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with Cloud() as cloud:
        yield cloud


@pytest.fixture
def node_on(server_directory: Path, openbao: OpenBao) -> Iterator[Callable[..., Node]]:
    """Starts a node whose blobs lie in S3; it ends with the test."""
    nodes: list[Node] = []

    def start(name: str, kms: str, s3: str = "") -> Node:
        nodes.append(Node(CloudSite(server_directory / name, openbao, kms, s3=s3, canary=0)))
        return nodes[-1]

    yield start
    for node in nodes:
        node.close()
        node.site.close()


def ended(node: Node, ran: Ran) -> dict[str, Any]:
    """See that a campaign that was waited for is complete; return its document."""
    assert ran.code == 0, ran
    document = node.site.ask("status", str(campaign_in(ran.out)))
    assert document["state"] == "complete"
    assert_balanced(document, document["counts"]["scanned"])
    return document


def asked(cloud: Cloud) -> Counter[str]:
    """Count what KMS was asked for since it was last looked at; nothing may have failed."""
    trail = tuple(cloud.kms.trail)
    cloud.kms.trail.clear()
    assert [event for event in trail if event.error] == []
    return Counter(event.name for event in trail if event.name in AWS_COUNTED)


def moved(site: CloudSite, ids: list[str], target: str) -> dict[str, Any]:
    """See that each blob is its original by the independent path, under this key id, and bound."""
    records = site.reader.records(ids)
    assert {record["key_id"] for record in records.values()} == {target}
    assert {b: record["context"] for b, record in records.items()} == {
        b: {"blob_id": b} for b in ids
    }
    assert site.wrong(ids) == []
    return records


def test_blobs_of_every_scheme_move_from_s3_to_aws_and_another_program_reads_each_of_them(
    cloud: Cloud,
    moto_address: str,
    node_on: Callable[..., Node],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "werkzeug")  # a line for each of some thousand requests
    node = node_on("every-scheme", cloud.address, moto_address)
    site = node.site
    site.s3.create_bucket(
        Bucket=site.bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    ids = site.make(EVERY_SCHEME, "m/")
    local = [b for b in ids if b.startswith("m/local-")]
    legacy = [b for b in ids if b not in local]
    assert len(local) > EVERY_SCHEME // 20
    node.start()
    cloud.kms.trail.clear()

    done = ended(node, site.rewrap("start", "migrate", "--yes", "--wait"))
    assert done["counts"]["rewrapped"] == len(legacy)
    assert done["counts"]["excluded"] == len(local)
    assert_one_encrypt_and_one_decrypt_each(cloud, legacy)
    records = moved(site, legacy, site.current())
    assert_kept(site, records)
    assert_bound(site, legacy)

    ended(node, site.rewrap("start", "rotate", "--prefix", "m/local", "--yes", "--wait"))
    records = moved(site, local, site.current())
    (previous,) = {record["previous"]["key_id"] for record in records.values()}
    assert previous.startswith(f"{site.kinds['local']}?version=1-")
    verified = site.rewrap("verify", "--all", "--json")
    assert verified.code == 0, verified
    assert verified.document["counts"]["current"] == EVERY_SCHEME
    found = site.ask("inventory")
    wrapping = {f"{n['key']}?version={n['version']}": n["blobs"] for n in found["by_key"]}
    # The others wrap a blob's `previous` only.
    assert {key: count for key, count in wrapping.items() if count} == {
        site.current(): EVERY_SCHEME
    }


def assert_one_encrypt_and_one_decrypt_each(cloud: Cloud, ids: list[str]) -> None:
    """See by the KMS's own trail what the migration of these blobs asked for."""
    events = cloud.asked("Encrypt") + cloud.asked("Decrypt")
    assert Counter((event.name, *event.contexts[0].items()) for event in events) == Counter(
        (name, ("blob_id", b)) for name in ("Encrypt", "Decrypt") for b in ids
    )
    assert asked(cloud) == {"Encrypt": len(ids), "Decrypt": len(ids)}


def assert_kept(site: CloudSite, records: dict[str, dict[str, Any]]) -> None:
    """See that what the sidecars said before the migration is there still."""
    known = {"env:BLOB_KEY", "env:BLOB_WRAP_KEY"} | set(site.kinds.values())
    assert {r["previous"]["key_id"] for r in records.values()} == known - {site.kinds["local"]}
    for blob_id, record in records.items():
        is_adopters = blob_id.startswith("m/adopter")
        assert record["dek_version"] == (1 if is_adopters else 2)
        assert ("wrapped_dek" in record["previous"]) is not is_adopters
        if "no-sidecar" in blob_id:
            assert "plaintext_size" not in record
        elif is_adopters:
            assert record["plaintext_size"] == len(site.original(blob_id))
        else:
            assert record["tenant"] == {"name": "Zoë", "ratio": 1.10}
            assert record["content"] == "gcm-v1"
        if "provider-field" in blob_id:
            assert record["provider"] == "aws"


def assert_bound(site: CloudSite, ids: list[str]) -> None:
    """See that no wrap opens with the context of the next blob, nor with none."""
    for blob_id, other in pairwise(ids[:20]):
        record = site.reader.record(blob_id)
        for context in ({"blob_id": other}, {}):
            with pytest.raises(ClientError, match="InvalidCiphertextException"):
                site.reader.data_key(record, context)


def test_blobs_move_from_aws_to_openbao_and_back_to_another_key_and_to_its_next_version(
    cloud: Cloud, node_on: Callable[..., Node]
) -> None:
    node = node_on("moved-on", cloud.address)
    site = node.site
    cloud.s3.create_bucket(site.bucket)
    ids = site.make(MOVED_ON, "r/")
    node.start()
    ended(node, site.rewrap("start", "migrate", "--yes", "--wait"))
    ended(node, site.rewrap("start", "rotate", "--yes", "--wait"))  # those of the local key
    first = site.current()
    moved(site, ids, first)
    asked(cloud)

    bao = f"hcvault://transit/{site.kek}"
    ended(node, site.rewrap("start", "rotate", "--to", bao, "--yes", "--wait"))
    assert asked(cloud) == {"Decrypt": MOVED_ON}
    records = moved(site, ids, f"{bao}?version=1")
    assert {record["previous"]["key_id"] for record in records.values()} == {first}

    other = f"aws-kms://{site.arns[1]}"
    done = ended(node, site.rewrap("start", "rotate", "--to", other, "--yes", "--wait"))
    assert asked(cloud) == {"Encrypt": MOVED_ON, "Decrypt": MOVED_ON + done["verified"]}
    second = site.current(1)
    moved(site, ids, second)

    cloud.kms.trail.clear()
    cloud.kms.rotation_polls = 3  # as in life, the new material comes some time after the answer
    done = ended(node, site.rewrap("rotate-kek", other, "--yes", "--wait"))
    assert len(cloud.asked("RotateKeyOnDemand")) == 1
    last_moved, first_opened = cloud.asked("ReEncrypt")[-1], cloud.asked("Decrypt")[0]
    assert last_moved.at <= first_opened.at
    assert asked(cloud) == {"ReEncrypt": MOVED_ON, "Decrypt": done["verified"]}
    third = site.current(1)
    assert third != second
    assert done["target"] == third
    records = moved(site, ids, third)
    assert {record["previous"]["key_id"] for record in records.values()} == {second}
    assert_retired_as_a_whole(cloud, site, ids)


def assert_retired_as_a_whole(cloud: Cloud, site: CloudSite, ids: list[str]) -> None:
    """Retire the first AWS key, which wraps nothing any more: KMS disables it as a whole."""
    first, second = (f"aws-kms://{arn}" for arn in site.arns[:2])
    words = ("retire", first, "--yes", "--accept-unopenable")
    version = site.rewrap("retire", site.current(), "--yes")
    assert (version.code, "[version_not_alone]" in version.err) == (4, True), version
    primary = site.rewrap(*words)
    assert (primary.code, "[version_is_current]" in primary.err) == (4, True), primary
    assert "it was not disabled" in primary.err

    text = site.config.read_text().replace(f'primary = "{first}"', f'primary = "{second}"')
    site.config.write_text(f"{text}\n[retire]\ndrain_s = 0\nsoak_s = 0\n")
    wrong = site.rewrap("retire", second, "--yes")
    assert (wrong.code, "[version_is_current]" in wrong.err) == (4, True), wrong
    named = site.rewrap("retire", f"{first}?version={'0' * 64}", "--yes")
    assert f"next: rewrap retire '{first}'\n" in named.err, named

    stale = site.rewrap(*words)
    assert (stale.code, "[no_fresh_backup]" in stale.err) == (4, True), stale
    fresh = campaign_in(site.rewrap("backup", "create", "--wait").out)
    identity = ("--identity", str(site.identity))
    assert site.rewrap("backup", "verify", str(fresh), *identity).code == 0

    blob_id, live = ids[0], site.reader.record(ids[0])
    site.reader.wrap(blob_id, site.arns[0])  # as somebody does who has not heard of it
    needed = site.rewrap(*words)
    assert (needed.code, blob_id in needed.err) == (4, True), needed
    site.reader.write(blob_id, live)

    done = site.rewrap(*words)
    assert (done.code, "is retired" in done.out) == (0, True), done
    state = cloud.asked("DisableKey")
    assert len(state) == 1
    assert not cloud.asked("ScheduleKeyDeletion")
    assert site.wrong(ids) == []
    refused = site.rewrap("start", "rotate", "--to", first, "--yes")
    assert refused.code != 0, refused
