from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from mypy_boto3_s3 import S3Client

from keywrap.config import StoreConfig
from keywrap.testing.aws_server import AwsServer
from scheduler.sources import SourceError, open_source
from tests.clouds import REGION, CannedServer
from tests.inventories import DAY, csv_file, manifest, md5, parquet_file

KEY = f"{DAY}/manifest.json"


class Bucket:
    """A bucket that holds blobs and the reports on them."""

    def __init__(self, address: str, name: str, client: S3Client) -> None:
        self.client = client
        self.name = name
        self.store = StoreConfig(url=f"s3://{name}/tenant", region=REGION, endpoint=address)
        self.place = f"s3://{name}/{KEY}"

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=data)

    def report(self, files: dict[str, bytes], file_format: str = "CSV") -> bytes:
        for key, data in files.items():
            self.put(key, data)
        document = manifest(files, sourceBucket=self.name, fileFormat=file_format)
        self.put(KEY, document)
        return document

    def refused(self) -> SourceError:
        with pytest.raises(SourceError) as caught:
            list(open_source(self.place, self.store))
        return caught.value


def client_of(address: str) -> S3Client:
    config = Config(s3={"addressing_style": "path"})
    return boto3.client("s3", region_name=REGION, endpoint_url=address, config=config)


@pytest.fixture
def bucket(aws_server: AwsServer, s3_bucket: str) -> Iterator[Bucket]:
    client = client_of(aws_server.address)
    yield Bucket(aws_server.address, s3_bucket, client)
    client.close()


def test_a_report_is_read_from_its_bucket(bucket: Bucket) -> None:
    files = {
        "reports/data/1 +ü.csv.gz": csv_file([[bucket.name, "tenant/a b"], [bucket.name, "x"]]),
        "reports/data/../2.csv.gz": csv_file([[bucket.name, "tenant/c"]]),
    }
    document = bucket.report(files)
    source = open_source(bucket.place, bucket.store)
    assert list(source) == list(source) == ["a b", "c"]
    bucket.put(KEY.replace(".json", ".checksum"), md5(document).encode())
    assert list(open_source(bucket.place, bucket.store)) == ["a b", "c"]
    bucket.put(KEY.replace(".json", ".checksum"), md5(b"").encode())
    assert bucket.refused().reason_code == "source_damaged"


def test_a_report_in_parquet_is_read_from_its_bucket(bucket: Bucket) -> None:
    data = parquet_file(key=["tenant/a b", "other/c"], is_latest=[True, True])
    bucket.report({"1.parquet": data}, "Parquet")
    assert list(open_source(bucket.place, bucket.store)) == ["a b"]


def test_the_store_in_the_endpoint_of_others_is_read_alike(
    moto_address: str,
    aws_credentials: None,  # noqa: ARG001
) -> None:
    client = client_of(moto_address)
    client.create_bucket(
        Bucket="reports-of-moto", CreateBucketConfiguration={"LocationConstraint": REGION}
    )
    bucket = Bucket(moto_address, "reports-of-moto", client)
    bucket.report({f"{DAY}/1.csv.gz": csv_file([["reports-of-moto", "tenant/a"]])})
    assert list(open_source(bucket.place, bucket.store)) == ["a"]
    client.close()


def test_what_is_not_there_or_not_as_the_manifest_says_is_refused(bucket: Bucket) -> None:
    assert bucket.refused().reason_code == "source_missing"
    data = csv_file([[bucket.name, "tenant/a"]])
    bucket.report({"1.csv.gz": data})
    bucket.put("1.csv.gz", data[:-1] + b"x")
    assert bucket.refused().reason_code == "source_damaged"
    bucket.put("1.csv.gz", data + b"x")
    assert "bytes, and the manifest says" in str(bucket.refused())
    bucket.client.delete_object(Bucket=bucket.name, Key="1.csv.gz")
    assert bucket.refused().reason_code == "source_missing"
    bucket.place = f"s3://no-such-{bucket.name}/{KEY}"
    assert bucket.refused().reason_code == "source_missing"


@pytest.mark.parametrize("place", ["s3:///manifest.json", "s3://reports", "s3://a b/a.json"])
def test_a_place_that_is_no_bucket_or_key_is_refused(bucket: Bucket, place: str) -> None:
    bucket.place = place
    assert bucket.refused().reason_code in {"source_unreadable", "source_kind"}


def test_a_bucket_that_refuses_or_is_away_says_what_it_needs(
    bucket: Bucket, aws_server: AwsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket.report({"1.csv.gz": csv_file([[bucket.name, "tenant/a"]])})
    aws_server.control(deny=["GetObject"])
    refusal = bucket.refused()
    assert refusal.reason_code == "source_refused"
    assert "s3:GetObject" in refusal.next_command
    aws_server.control(deny=[], slow_reads=1)
    assert list(open_source(bucket.place, bucket.store)) == ["a"]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    assert bucket.refused().reason_code == "source_unreadable"


@pytest.mark.usefixtures("aws_credentials")
def test_a_body_that_breaks_off_is_fetched_again(
    canned: Callable[[Callable[[bytes], bytes | None]], CannedServer],
) -> None:
    data = csv_file([["reports", "tenant/a"]])
    objects = {
        "manifest.json": manifest({"1.csv.gz": data}, sourceBucket="reports"),
        "1.csv.gz": data,
    }
    asked: list[str] = []

    def answer(head: bytes) -> bytes:
        key = head.split()[1].decode().partition("?")[0].rpartition("/")[2]
        asked.append(key)
        if key not in objects:
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        body = objects[key]
        whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        return whole[:-9] if asked.count(key) == 1 else whole

    store = StoreConfig(
        url="s3://reports/tenant", region=REGION, endpoint=canned(answer).address, timeout_s=0.5
    )
    with pytest.raises(SourceError, match="404"):
        open_source("s3://reports/manifest.json", store)
    objects["manifest.checksum"] = md5(objects["manifest.json"]).encode()
    assert list(open_source("s3://reports/manifest.json", store)) == ["a"]
    assert asked.count("1.csv.gz") == 2
