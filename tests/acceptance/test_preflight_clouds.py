"""The checklist on S3 and AWS KMS, before anything of ours runs there."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from embedded import OpenBao
from tests.cloudsites import PREFIX, Cloud, CloudSite


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with Cloud() as cloud:
        yield cloud


@pytest.fixture(scope="module")
def site(cloud: Cloud, server_directory: Path, openbao: OpenBao) -> Iterator[CloudSite]:
    cloud.s3.create_bucket("preflights")
    site = CloudSite(server_directory / "preflights", openbao, cloud.address)
    yield site
    site.close()


def lines(site: CloudSite, **environment: str) -> dict[str, dict[str, Any]]:
    ran = site.rewrap("preflight", "--json", **environment)
    assert ran.code == 3, ran  # there is no ledger yet
    return {line["name"]: line for line in ran.document["checks"]}


def objects(site: CloudSite) -> dict[str, str]:
    found = site.s3.list_objects_v2(Bucket=site.bucket, Prefix=PREFIX).get("Contents", [])
    return {o["Key"]: o["ETag"] for o in found}


def test_keys_and_store_are_checked_where_no_ledger_is_yet(site: CloudSite) -> None:
    site.make(20, "p/")
    before = objects(site)
    found = lines(site)
    assert objects(site) == before
    assert found["conditional writes"]["status"] == "pass"
    assert found["staging sample"]["status"] == "pass", found["staging sample"]
    managed = [f"aws-kms://{arn}" for arn in site.arns] + [f"hcvault://transit/{site.kek}"]
    for key in managed:
        assert found[f"key {key}"]["status"] == "pass"
        assert found[f"binding of {key}"]["status"] == "pass"
    assert found["legacy key env:BLOB_KEY"]["reason_code"] == "needs_another"


def test_a_disabled_key_is_told_and_holds_up_no_other(site: CloudSite) -> None:
    site.kms.disable_key(KeyId=site.arns[1])
    found = lines(site)
    site.kms.enable_key(KeyId=site.arns[1])
    disabled = found[f"key aws-kms://{site.arns[1]}"]
    assert (disabled["status"], disabled["reason_code"]) == ("fail", "key_disabled")
    assert disabled["next_command"]
    assert found[f"key aws-kms://{site.arns[0]}"]["status"] == "pass"


def test_a_bucket_that_is_not_there_is_told_once(site: CloudSite) -> None:
    elsewhere = site.directory / "elsewhere.toml"
    elsewhere.write_text(site.config.read_text().replace("s3://preflights", "s3://no-such-bucket"))
    found = lines(site, REWRAP_CONFIG=str(elsewhere))
    assert (found["store"]["status"], found["store"]["reason_code"]) == (
        "fail",
        "store_unavailable",
    )
    assert "[store] url" in found["store"]["next_command"]
    assert found["conditional writes"]["status"] == "skip"
    assert found["staging sample"]["status"] == "skip"


def test_a_store_that_ignores_conditions_is_told_before_anything_is_moved(
    cloud: Cloud, site: CloudSite
) -> None:
    site.make(5, "c/")
    before = objects(site)
    cloud.careless.add(site.bucket)
    line = lines(site)["conditional writes"]
    cloud.careless.clear()
    assert (line["status"], line["reason_code"]) == ("fail", "store_ignores_conditions")
    assert line["next_command"]
    assert objects(site) == before
