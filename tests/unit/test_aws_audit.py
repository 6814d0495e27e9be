"""What a rewrap with AWS KMS leaves in our trail, beside what CloudTrail would say of it."""

import json
import os
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from keywrap import noted
from keywrap.datakey import DataKey
from keywrap.journal import SegmentJournal
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import RequestNamer
from keywrap.providers.aws import AwsKeyProvider
from keywrap.providers.aws_client import AwsAccess, kms_client
from keywrap.segments import Source
from keywrap.testing.aws_kms import Event, StrictKms
from keywrap.testing.aws_kms_hook import attach
from scheduler import kmslogs, ownuses
from scheduler.reconciling import Comparison, Span, compare

BLOBS = [f"tenants/7/{n}" for n in range(12)]


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never-sent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.delenv("AWS_PROFILE", raising=False)


class Site:
    """A KMS, a provider of one of its keys, and the trail of what it does."""

    def __init__(self, folder: Path) -> None:
        self.kms = StrictKms()
        self.provider = AwsKeyProvider(self.kms.create_key(), self._client, threads=4)
        self.folder = folder
        self.journal = SegmentJournal(folder, Source(7, 1, 1, "host:1"))

    def _client(self) -> Any:
        client = kms_client("eu-west-1", AwsAccess())
        attach(client, self.kms)
        return client

    def wrap(self, blob_ids: list[str]) -> list[WrappedKey]:
        items = [(DataKey.generate(), {"blob_id": blob_id}) for blob_id in blob_ids]
        target = self.provider.current_version()
        wraps = noted.wrap_many(self.provider, items, target, self.journal)
        return [wrapped for wrapped in wraps if isinstance(wrapped, WrappedKey)]

    def events(self) -> bytes:
        segment = self.journal.close()
        assert segment is not None
        return (self.folder / segment.name).read_bytes()

    def cloudtrail(self) -> Path:
        """Write what CloudTrail would deliver."""
        file = self.folder / "cloudtrail.json"
        file.write_text(json.dumps({"Records": [_record(event) for event in self.kms.trail]}))
        return file

    def compared(self, lines: bytes) -> Comparison:
        entries = list(kmslogs.read(self.cloudtrail()))
        times = [entry.time for entry in entries]
        logged = [entry.use for entry in entries if entry.use]
        return compare(
            logged, list(ownuses.of_workers(lines)), [], Span(min(times), max(times)), 60
        )


def _record(event: Event) -> dict[str, Any]:
    """Say what CloudTrail says, in whole seconds as it does (examples in KMS's documentation)."""
    record: dict[str, Any] = {
        "eventSource": "kms.amazonaws.com",
        "eventName": event.name,
        "eventTime": datetime.fromtimestamp(int(event.at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "requestID": event.request_id,
        "userIdentity": {"arn": "arn:aws:iam::111122223333:role/worker"},
        "sourceIPAddress": "192.0.2.1",
        "resources": [{"ARN": arn} for arn in event.keys],
        "requestParameters": {"encryptionContext": dict(event.contexts[-1])}
        if event.contexts
        else {},
    }
    if event.name == "ReEncrypt":
        context = dict(event.contexts[-1])
        record["requestParameters"] = {
            "sourceEncryptionContext": context,
            "destinationEncryptionContext": context,
            "sourceKeyId": event.keys[0],
            "destinationKeyId": event.keys[-1],
        }
    return record | ({"errorCode": event.error} if event.error else {})


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_each_use_is_noted_under_the_request_that_cloudtrail_names(site: Site) -> None:
    assert isinstance(site.provider, RequestNamer)
    wraps = site.wrap(BLOBS)
    items = [(wrap, {"blob_id": blob_id}) for wrap, blob_id in zip(wraps, BLOBS, strict=True)]
    noted.unwrap_many(site.provider, items, site.journal)
    noted.rewrap_many(site.provider, items, site.provider.current_version(), site.journal)
    events = [json.loads(line) for line in site.events().splitlines()]
    named = {
        (event.name, event.request_id): event.contexts[-1]["blob_id"]
        for event in site.kms.trail
        if event.contexts
    }
    for event, operation in (("wrap", "Encrypt"), ("unwrap", "Decrypt"), ("rewrap", "ReEncrypt")):
        ours = [e for e in events if e["event"] == event]
        assert len(ours) == len(BLOBS)
        assert all(named[operation, e["request_id"]] == e["blob_id"] for e in ours)


def test_cloudtrail_and_our_trail_tell_the_same(site: Site) -> None:
    wraps = site.wrap(BLOBS)
    items = [(wrap, {"blob_id": blob_id}) for wrap, blob_id in zip(wraps, BLOBS, strict=True)]
    noted.rewrap_many(site.provider, items, site.provider.current_version(), site.journal)
    result = site.compared(site.events())
    assert (result.unknown, result.unseen) == ([], [])
    logged = Counter[str]()
    for (_, _, operation), line in result.lines.items():
        logged[operation] += line.logged
    assert logged == {"wrap": 12, "unwrap": 12, "rewrap": 12}


def test_a_decrypt_by_somebody_else_is_found_with_its_blob(site: Site) -> None:
    wraps = site.wrap(BLOBS)
    lines = site.events()
    stranger = AwsKeyProvider(site.provider.key.removeprefix("aws-kms://"), site._client)
    stranger.unwrap(wraps[3], {"blob_id": BLOBS[3]})
    (use,) = site.compared(lines).unknown
    assert (use.operation, use.blob_id) == ("unwrap", BLOBS[3])
    assert use.request_id == site.kms.trail[-1].request_id


def test_what_was_not_sent_has_no_request(site: Site) -> None:
    (wrapped,) = site.wrap(BLOBS[:1])
    other = WrappedKey(KeyVersion("aws-kms://other", "1"), b"x")
    items = [(other, {"blob_id": "a"}), (wrapped, {"blob_id": BLOBS[0]})]
    noted.unwrap_many(site.provider, items, site.journal)
    assert [bool(name) for name in site.provider.last_requests()] == [False, True]
