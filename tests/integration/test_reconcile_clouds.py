"""Google's and Azure's logs beside our trail: real clients, and logs written from the servers' own.

The entries are in the vendors' documented form; the servers stand in for the services.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from keywrap.datakey import DataKey
from keywrap.journal import SegmentJournal
from keywrap.keys import WrappedKey
from keywrap.kms import KeyProvider, KmsError, unwrap_many, wrap_many
from keywrap.segments import Source, contents
from scheduler import kmslogs, ownuses
from scheduler.reconciling import Comparison, Span, compare
from tests.unit.test_azure_provider import World as AzureWorld
from tests.unit.test_gcp_provider import NAME
from tests.unit.test_gcp_provider import World as GcpWorld

BLOBS = 30
HOUR = timedelta(hours=1)


@dataclass
class Service:
    """A provider by its real client, and the log that its service would write.

    Attributes:
        provider: the KEK.
        entries: makes the log of everything that was asked for.
        wraps_are_logged: whether a wrap is a request.
    """

    provider: KeyProvider
    entries: Callable[[], list[dict[str, Any]]]
    wraps_are_logged: bool


def _google(world: GcpWorld) -> list[dict[str, Any]]:
    return [
        {
            "insertId": f"entry-{number}",
            "timestamp": datetime.now(UTC).isoformat(),
            "protoPayload": {
                "serviceName": "cloudkms.googleapis.com",
                "methodName": event.operation,
                "resourceName": event.name,
                "status": {"code": 7} if event.error else {},
                "authenticationInfo": {"principalEmail": "worker@example.iam"},
            },
        }
        for number, event in enumerate(world.kms.trail)
    ]


def _azure(world: AzureWorld, key: str) -> list[dict[str, Any]]:
    names = {"unwrapkey": "KeyUnwrap", "wrapkey": "KeyWrap", "get": "KeyGet"}
    return [
        {
            "time": datetime.now(UTC).isoformat(),
            "operationName": names.get(event.operation, event.operation),
            "category": "AuditEvent",
            "identity": {"claim": {"appid": "worker"}},
            "properties": {
                "requestUri": f"https://{key.removeprefix('azure-kv://').upper()}/x",
                "httpStatusCode": int(event.status),
            },
        }
        for event in world.vault.trail
    ]


@pytest.fixture(params=["google", "azure"])
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    if request.param == "google":
        google = GcpWorld()
        yield Service(google.provider(NAME), lambda: _google(google), wraps_are_logged=True)
        google.close()
    else:
        azure = AzureWorld()
        provider = azure.provider()
        yield Service(provider, lambda: _azure(azure, provider.key), wraps_are_logged=False)


def _work(service: Service, folder: Path) -> tuple[list[ownuses.OwnUse], list[WrappedKey]]:
    """Wrap and prove data keys as a worker does; return what its trail says of it."""
    journal = SegmentJournal(folder, Source(7, 1, 1, "tests"))
    ids = [f"blob-{n}" for n in range(BLOBS)]
    contexts = [{"blob_id": blob_id} for blob_id in ids]
    keys = [DataKey.generate() for _ in ids]
    made = wrap_many(service.provider, list(zip(keys, contexts, strict=True)))
    wraps = [each for each in made if not isinstance(each, KmsError)]
    version = wraps[0].key_version
    journal.used("wrap", [(b, version, w, "") for b, w in zip(ids, wraps, strict=True)])
    opened = unwrap_many(service.provider, list(zip(wraps, contexts, strict=True)))
    assert opened == keys
    journal.used("prove", [(b, version, o, "") for b, o in zip(ids, opened, strict=True)])
    segment = journal.close()
    assert segment is not None
    lines = contents(segment, [folder])
    assert isinstance(lines, bytes)
    uses = list(ownuses.of_workers(lines))
    return [u for u in uses if service.wraps_are_logged or u.operation != "wrap"], wraps


def _compared(
    service: Service, ours: list[ownuses.OwnUse], path: Path, lost: int | None = None
) -> Comparison:
    entries = service.entries()
    if lost is not None:
        opened = [n for n, e in enumerate(entries) if "ecrypt" in str(e) or "KeyUnwrap" in str(e)]
        del entries[opened[lost]]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    logged = [entry.use for entry in kmslogs.read(path) if entry.use]
    key = service.provider.key
    logged = [use for use in logged if use.key.lower() == key.lower()]
    named = [type(use)(**{**_fields(use), "key": key}) for use in logged]
    now = datetime.now(UTC)
    return compare(named, ours, [], Span(now - HOUR, now + HOUR), 3600)


def _fields(use: kmslogs.LoggedUse) -> dict[str, Any]:
    return {name: getattr(use, name) for name in use.__slots__}


def test_both_tell_the_same(service: Service, tmp_path: Path) -> None:
    ours, _ = _work(service, tmp_path)
    found = _compared(service, ours, tmp_path / "log")
    assert found.is_clean, (found.unknown, found.unseen)
    counted = sum(line.ours for line in found.lines.values())
    assert counted == BLOBS * (2 if service.wraps_are_logged else 1)


def test_an_unwrap_that_nobody_made_is_found_and_named(service: Service, tmp_path: Path) -> None:
    ours, wraps = _work(service, tmp_path)
    service.provider.unwrap(wraps[3], {"blob_id": "blob-3"})  # a person, with the same credentials
    found = _compared(service, ours, tmp_path / "log")
    (stranger,) = found.unknown
    assert (stranger.operation, stranger.count) == ("unwrap", 1)
    assert stranger.who.startswith("worker")


def test_one_of_ours_that_the_service_did_not_see_is_found(
    service: Service, tmp_path: Path
) -> None:
    ours, _ = _work(service, tmp_path)
    found = _compared(service, ours, tmp_path / "log", lost=-1)
    (missing,) = found.unseen
    assert found.unknown == []
    assert missing.key == service.provider.key
