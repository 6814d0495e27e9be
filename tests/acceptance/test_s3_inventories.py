"""Inventories of a bucket: by a listing, by what changed, and by a report of S3 Inventory."""

from pathlib import Path
from typing import Any

from embedded import OpenBao
from tests.cloudsites import SIDECAR, Cloud, CloudSite
from tests.inventories import csv_file, manifest
from tests.nodes import Node

BLOBS = 300
OWN_OBJECTS = 10


def test_a_second_inventory_reads_what_changed_and_a_report_names_what_a_listing_does(
    server_directory: Path, openbao: OpenBao
) -> None:
    with Cloud() as cloud:
        site = CloudSite(server_directory / "inventories", openbao, cloud.address, canary=0)
        node = Node(site, workers=1)
        try:
            cloud.s3.create_bucket(site.bucket)
            site.make(BLOBS, "m/")
            node.start()
            _compare(cloud, site)
        finally:
            node.close()
            site.close()


def _compare(cloud: Cloud, site: CloudSite) -> None:
    first, read = _inventory(cloud, site)
    assert first["scanned"] == BLOBS
    assert read >= BLOBS
    again, read_again = _inventory(cloud, site)
    assert again["by_key"] == first["by_key"]
    bare = BLOBS - sum(key.endswith(SIDECAR) for key in _keys(site))
    assert bare < BLOBS // 4
    # One without a sidecar is asked for twice; each part looks at the store's own mark.
    assert read_again <= 2 * bare + OWN_OBJECTS, "what has not changed is not read"
    assert _inventory(cloud, site, "--full")[1] >= BLOBS

    moved = site.make(20, "n/")
    third, read_third = _inventory(cloud, site)
    assert third["scanned"] == BLOBS + len(moved)
    assert read_third <= read_again + 2 * len(moved)

    place = _report(site)
    named = site.rewrap("inventory", "--from", place, "--json")
    assert named.code == 0, named
    assert named.document["listed"] == named.document["scanned"] == BLOBS + len(moved)
    assert named.document["by_key"] == third["by_key"]
    site.s3.put_object(Bucket=site.bucket, Key="reports/data/1.csv.gz", Body=b"damaged")
    refused = site.rewrap("inventory", "--from", place)
    assert (refused.code, "[source_damaged]" in refused.err) == (2, True), refused
    assert "nothing was changed" in refused.err


def _inventory(cloud: Cloud, site: CloudSite, *words: str) -> tuple[dict[str, Any], int]:
    """Take an inventory; return it, and how many objects were read for it."""
    before = _reads(cloud)
    return site.ask("inventory", *words), _reads(cloud) - before


def _reads(cloud: Cloud) -> int:
    operations: dict[str, int] = cloud.control()["operations"]
    return operations.get("GetObject", 0)


def _keys(site: CloudSite) -> list[str]:
    pages = site.s3.get_paginator("list_objects_v2").paginate(Bucket=site.bucket)
    return [found["Key"] for page in pages for found in page["Contents"]]


def _report(site: CloudSite) -> str:
    """Write a report of the bucket as S3 Inventory does, into the bucket itself."""
    keys = _keys(site)
    data = csv_file([(site.bucket, key) for key in [*keys, "elsewhere/x.blob"]])
    files = {"reports/data/1.csv.gz": data}
    site.s3.put_object(Bucket=site.bucket, Key="reports/data/1.csv.gz", Body=data)
    document = manifest(files, sourceBucket=site.bucket)
    site.s3.put_object(Bucket=site.bucket, Key="reports/day/manifest.json", Body=document)
    return f"s3://{site.bucket}/reports/day/manifest.json"
