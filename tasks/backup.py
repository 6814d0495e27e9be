"""Writing a campaign's wraps to an encrypted backup, part by part, and the list of its parts.

A crash is safe anywhere: a part that was written and not noted is in no list, and its successor
writes another one under another name.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import msgspec

from keywrap.backups.bundle import (
    FORMAT,
    Kept,
    Manifest,
    PartEntry,
    digest,
    encrypt,
    seal_part,
)
from keywrap.backups.vault import BackupUnavailableError, Vault
from keywrap.datakey import DataKey
from keywrap.kms import KmsError, RefusedError
from keywrap.layout import UnsafeBlobIdError
from keywrap.opening import open_each
from keywrap.reading import GoneError, QuarantineError, Seen
from keywrap.sidecar import MAX_SIDECAR_BYTES
from keywrap.stores import NotAnObjectError, NotFoundError, TooLargeError
from ledger import audit, backups, findings, shards
from ledger.backups import Part
from ledger.campaigns import Campaign
from ledger.states import ShardKind
from tasks.leases import Work, under_lease
from tasks.runtime import Counts, Progress, Runtime

NOT_CONFIGURED = "backup_not_configured"


def backup_shard(runtime: Runtime, shard_id: UUID, progress: Progress) -> Counts:
    """Write the sidecars of a shard's blobs to one part of the backup, and read it back.

    Args:
        runtime: what the task may use.
        shard_id: the shard.
        progress: told how far it is.

    Returns:
        How many blobs were backed up; empty where there was nothing to do.
    """

    def body(work: Work) -> Counts:
        vault, lease = vault_of(runtime), work.lease
        campaign = lease.campaign
        with runtime.ledger.begin() as connection:
            ids = backups.blobs_of(connection, campaign.id, lease.part or lease.shard_no)
        requests = runtime.keys.requests
        kept = _keep(work, ids)
        header = {"store": runtime.store, "campaign": campaign.id, "escrow": campaign.escrow}
        sealed = seal_part(header, kept, vault.recipients)
        escrowed = sum(blob.data_key is not None for blob in kept)
        name = f"{folder_of(campaign.id)}/part-{lease.shard_no:09d}-{lease.fence}.age"
        part = _write(vault, name, sealed, len(kept), escrowed)
        progress(len(kept), len(ids))
        segment = work.journal.close()
        with runtime.ledger.begin() as connection:
            shards.record(connection, lease, [], runtime.keys.requests - requests)
            if segment is not None:
                audit.note(connection, segment)
            backups.note_part(connection, campaign.id, lease.shard_no, part)
            shards.finish(connection, lease)
        return {"backed_up": len(kept)}

    return under_lease(runtime, shard_id, ShardKind.BACKUP, body)


def manifest_shard(runtime: Runtime, shard_id: UUID, progress: Progress) -> Counts:
    """Write the list of a backup's parts, with the metadata of the KEKs that its wraps need.

    Args:
        runtime: what the task may use.
        shard_id: the shard.
        progress: told how far it is.

    Returns:
        How many blobs the backup holds; empty where there was nothing to do.
    """

    def body(work: Work) -> Counts:
        vault, lease = vault_of(runtime), work.lease
        with runtime.ledger.begin() as connection:
            parts = backups.parts(connection, lease.campaign.id)
        for _ in runtime.pool.map(lambda part: vault.read(part.name, part.sha256), parts):
            work.check()
        keys = _write_keys(work, vault)
        manifest = _manifest(work, vault, parts, keys)
        data = manifest.encode()
        name = f"{folder_of(lease.campaign.id)}/manifest-{lease.shard_no:09d}-{lease.fence}.json"
        _write(vault, name, data, manifest.blobs)
        with runtime.ledger.begin() as connection:
            backups.note_manifest(
                connection,
                lease.campaign.id,
                place=vault.place,
                manifest=name,
                sha256=digest(data),
                blobs=manifest.blobs,
                recipients=vault.recipients,
            )
            shards.finish(connection, lease)
        progress(manifest.blobs, manifest.blobs)
        return {"backed_up": manifest.blobs}

    return under_lease(runtime, shard_id, ShardKind.MANIFEST, body)


def folder_of(campaign_id: int) -> str:
    """Return the folder of a campaign's backup in the place of backups."""
    return f"campaign-{campaign_id:06d}"


def vault_of(runtime: Runtime) -> Vault:
    """Return where backups go.

    Raises:
        BackupUnavailableError: the configuration of this worker names no recipient.
    """
    if runtime.vault is None:
        raise BackupUnavailableError(
            "this worker was started without [backup] recipients, and nothing is moved before its "
            "wraps are backed up: start the workers again once the configuration names some",
            NOT_CONFIGURED,
        )
    return runtime.vault


def _keep(work: Work, blob_ids: Sequence[str]) -> list[Kept]:
    runtime = work.runtime
    found = [k for k in runtime.pool.map(lambda b: _sidecar(runtime, b), blob_ids) if k]
    work.check()
    return _escrow(work, found) if work.lease.campaign.escrow else found


def _sidecar(runtime: Runtime, blob_id: str) -> Kept | None:
    """Copy what lies beside a blob, whatever it is; None where there is nothing to copy."""
    reader = runtime.reader
    try:
        name = reader.layout.sidecar_name(blob_id)
        return Kept(blob_id, reader.store.read(name, limit=MAX_SIDECAR_BYTES).data)
    except NotFoundError:
        return Kept(blob_id, None)
    except (UnsafeBlobIdError, TooLargeError, NotAnObjectError):
        return None  # no campaign replaces it either: it will be quarantined


def _escrow(work: Work, kept: Sequence[Kept]) -> list[Kept]:
    """Open the data keys; one that does not open is kept as its wrap alone.

    Raises:
        BackupUnavailableError: a KEK as a whole cannot be used.
    """
    seen: list[tuple[Kept, Seen]] = []
    for blob in kept:
        try:
            seen.append((blob, work.runtime.reader.read(blob.blob_id)))
        except (QuarantineError, GoneError):
            continue
    wraps = [(s.wrapped, {"blob_id": b.blob_id}) for b, s in seen]
    opened = open_each(work.runtime.keys, wraps, work.journal)
    keys: dict[str, DataKey] = {}
    for (blob, _), key in zip(seen, opened, strict=True):
        if isinstance(key, DataKey):
            keys[blob.blob_id] = key
        elif isinstance(key, KmsError) and not isinstance(key, RefusedError):
            raise BackupUnavailableError(str(key), key.reason_code)
    return [Kept(b.blob_id, b.sidecar, keys.get(b.blob_id)) for b in kept]


def _write(vault: Vault, name: str, data: bytes, blobs: int, escrowed: int = 0) -> Part:
    return Part(name, vault.write(name, data), len(data), blobs, escrowed)


def _write_keys(work: Work, vault: Vault) -> Part:
    """Write what an operator needs to know of the KEKs, encrypted: which, and how many wraps."""
    runtime, campaign = work.runtime, work.lease.campaign
    with runtime.ledger.begin() as connection:
        lines = findings.census(connection, campaign.id)
    record = {
        "format": FORMAT,
        "wraps": [line for line in lines if line.key],
        "listed": list(runtime.keys.keys()),
        "target": str(campaign.target) if campaign.target else None,
    }
    data = encrypt(msgspec.json.encode(record), vault.recipients)
    lease = work.lease
    name = f"{folder_of(campaign.id)}/keys-{lease.shard_no:09d}-{lease.fence}.age"
    return _write(vault, name, data, 0)


def _manifest(work: Work, vault: Vault, parts: Sequence[Part], keys: Part) -> Manifest:
    campaign: Campaign = work.lease.campaign
    return Manifest(
        format=FORMAT,
        campaign=campaign.id,
        store=work.runtime.store,
        escrow=campaign.escrow,
        recipients=list(vault.recipients),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        blobs=sum(part.blobs for part in parts),
        keys=_entry(keys),
        parts=[_entry(part) for part in parts],
    )


def _entry(part: Part) -> PartEntry:
    return PartEntry(part.name, part.sha256, part.bytes, part.blobs, part.escrowed)
