"""Scanning one part of the store: for the inventory, and for stragglers before the end."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from uuid import UUID

from keywrap.keyring import KeyRing
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.reading import GoneError, QuarantineError, Seen, SidecarReader
from keywrap.rewrapping import Goal, selects
from keywrap.scan import Listed, contents, scan
from keywrap.stores import StoreUnavailableError, SweepingStore, TaggedStore
from keywrap.unwinding import was_left
from ledger import findings, history, listed, queues, shards
from ledger.campaigns import Campaign
from ledger.connection import Connection
from ledger.findings import UNCUT, Finding
from ledger.samples import SHARD_BLOBS
from ledger.states import FOLLOWING, KEEPING, MOVING, Kind, ShardKind
from tasks.leases import Work, under_lease
from tasks.marks import require_store
from tasks.rewrap import goal_of
from tasks.runtime import Counts, Progress, Runtime
from tasks.spool import Spool

_INDEXABLE_BYTES = 1100
"""Above `MAX_BLOB_ID_BYTES`, below the 2,704 bytes of a B-tree entry (PostgreSQL, "B-Tree")."""

_LEFTOVERS_AFTER_S = 3600.0

MAX_PASSES = 5
"""Fresh scans that may find stragglers before they are called conflicts."""


def inventory_shard(runtime: Runtime, shard_id: UUID, progress: Progress) -> Counts:
    """List one part of the store and record which key wraps each blob.

    One transaction: a worker that dies leaves nothing behind, and its successor starts anew.

    Args:
        runtime: what the task may use.
        shard_id: the shard.
        progress: told how far it is.

    Returns:
        How many blobs were found; empty where there was nothing to do.
    """

    def body(work: Work) -> Counts:
        require_store(work)
        _sweep(work)
        old = _contents(work)
        seen = 0
        with Spool(SHARD_BLOBS) as spool:
            for chunk in _look(work):
                found = [_with_leftovers(f, old) for f in chunk] if old else chunk
                for lane, group in _by_lane(work, found).items():
                    spool.add(lane, group)
                seen += len(found)
                progress(seen, seen)
            # Only now: a transaction that waited for the store would be cut off as idle.
            with runtime.ledger.begin() as connection:
                shards.require(connection, work.lease)
                for (queue, _), group in spool.groups():
                    _record(connection, work, queue, group)
                shards.finish(connection, work.lease, total=seen)
        return {"scanned": seen}

    return under_lease(runtime, shard_id, ShardKind.INVENTORY, body)


def _contents(work: Work) -> dict[str, list[str]]:
    """List the contents of this part, where the campaign removes old ones."""
    lease, reader = work.lease, work.runtime.reader
    if lease.campaign.kind is not Kind.SWEEP:
        return {}
    store, layout, prefix = reader.store, reader.layout, lease.campaign.prefix
    return contents(store, layout, prefix, lease.part, lease.parts, beat=work.check)


def _with_leftovers(finding: Finding, old: Mapping[str, Sequence[str]]) -> Finding:
    """Note the contents that a blob's sidecar does not name; none where it names no other.

    All are noted where it cannot be read: it may be mended before the blob is taken up again.
    """
    if finding.generation is None and finding.problem is None:
        return finding
    found = (each for each in old.get(finding.blob_id, ()) if each != finding.generation)
    return replace(finding, leftovers=tuple(found))


def _sweep(work: Work) -> None:
    """Remove what crashes left; no other campaign than one that writes anyway touches the store."""
    store, lease = work.runtime.reader.store, work.lease
    moves = lease.campaign.kind in MOVING
    if moves and lease.part == 0 and isinstance(store, SweepingStore):
        store.sweep(_LEFTOVERS_AFTER_S)


def _by_lane(work: Work, found: list[Finding]) -> dict[tuple[str, str], list[Finding]]:
    """Group findings by who can do what the campaign does with them."""
    campaign = work.lease.campaign

    def opened_with(finding: Finding) -> KeyVersion | None:
        version = finding.key_version
        if campaign.kind in FOLLOWING:
            return _stays(campaign, finding)
        # What it leaves as it is any host can tell: a rotation waits for no host of legacy keys.
        moves = campaign.kind in MOVING and version is not None and campaign.moves(version)
        return version if moves or campaign.escrow or _opens_all(campaign) else None

    queue_of = work.runtime.queue_of
    if _opens_all(campaign):
        queue_of = queues.of_verifiers(queue_of, work.runtime.verify_queue)
    return queues.by_lane([(f, opened_with(f)) for f in found], queue_of)


def _stays(campaign: Campaign, finding: Finding) -> KeyVersion | None:
    """Return the KEK version of the wrap that a campaign opens, which is the one that stays."""
    return finding.previous if campaign.kind is Kind.UNDO else finding.key_version


def _opens_all(campaign: Campaign) -> bool:
    return campaign.kind is Kind.VERIFY and campaign.sample_size is None


def _record(connection: Connection, work: Work, queue: str, group: list[Finding]) -> None:
    campaign = work.lease.campaign
    shard_no, total = UNCUT, len(group)
    if campaign.kind in MOVING:
        shard_no = shards.add(connection, campaign.id, ShardKind.REWRAP, total=total, queue=queue)
    elif _opens_all(campaign):
        shard_no = shards.add(connection, campaign.id, ShardKind.VERIFY, total=total, queue=queue)
    elif campaign.kind is Kind.BACKUP:
        shard_no = shards.add(connection, campaign.id, ShardKind.BACKUP, total=total, queue=queue)
    findings.add(connection, campaign.id, shard_no, group)


def straggler_shard(runtime: Runtime, shard_id: UUID, progress: Progress) -> Counts:
    """Scan one part of the store anew for blobs that are not where the campaign wants them.

    Args:
        runtime: what the task may use.
        shard_id: the shard.
        progress: told how far it is.

    Returns:
        How many stragglers were taken up; empty where there was nothing to do.
    """

    def body(work: Work) -> Counts:
        campaign = work.lease.campaign
        goal = goal_of(campaign, keep_previous=runtime.keep_previous)
        require_store(work)
        seen, late = 0, []
        for chunk in _look(work):
            seen += len(chunk)
            late += [f for f in chunk if _is_late(f, campaign, goal, runtime.keys)]
            progress(seen, seen)
        with runtime.ledger.begin() as connection:
            taken = findings.note_stragglers(
                connection,
                campaign.id,
                late,
                last_pass=campaign.passes >= MAX_PASSES,
                queue_of=runtime.queue_of,
                opened_with=partial(_stays, campaign),
            )
            shards.finish(connection, work.lease, total=seen)
        if campaign.kind in KEEPING:  # others take up what is under the target, too
            runtime.meter.stragglers(Counter(finding.key_version for finding in taken))
        return {"stragglers": len(taken)}

    return under_lease(runtime, shard_id, ShardKind.STRAGGLERS, body)


def _is_late(finding: Finding, campaign: Campaign, goal: Goal, keys: KeyRing) -> bool:
    version = finding.key_version
    if version is None:
        return True  # the rewrap says what is wrong with it
    if campaign.kind in FOLLOWING:
        return finding.previous is not None and was_left(
            keys, version, finding.previous, goal.target
        )
    if campaign.kind is Kind.REENCRYPT:
        # What names a generation was written by this campaign, was listed and has its outcome, or
        # was put since under a data key of its own. Who writes without one shares keys as ever.
        return finding.generation is None
    return selects(goal.selection, version) and not keys.reaches(version, goal.target)


def _look(work: Work) -> Iterator[list[Finding]]:
    """Yield what stands in the sidecars of this shard's part, a shard's worth at a time."""
    blobs, earlier = _blobs(work), _earlier(work)
    while chunk := list(islice(blobs, SHARD_BLOBS)):
        work.check()
        known = _known(work, chunk, earlier)
        rest = [blob.blob_id for blob in chunk if blob.blob_id not in known]
        read = work.runtime.pool.map(lambda blob_id: _finding(work, blob_id), rest)
        yield [*known.values(), *filter(None, read)]


def _blobs(work: Work) -> Iterator[Listed]:
    """Yield the blobs of this shard's part, as the store lists them or a list was given."""
    reader, lease = work.runtime.reader, work.lease
    if lease.campaign.list_id is None:
        prefix, part, parts = lease.campaign.prefix, lease.part, lease.parts
        return scan(reader.store, reader.layout, prefix, part, parts, beat=work.check)
    given = listed.blobs(work.runtime.ledger, lease.campaign.list_id, lease.part, lease.parts)
    return (Listed(blob_id, has_content=True, has_sidecar=True) for blob_id in given)


def _earlier(work: Work) -> int | None:
    """Return the inventory whose findings count while tags are the same; None: none does."""
    campaign = work.lease.campaign
    if not campaign.is_incremental:
        return None
    with work.runtime.ledger.begin() as connection:
        return history.newest_inventory(connection, campaign.store, campaign.prefix)


def _known(work: Work, chunk: list[Listed], earlier: int | None) -> dict[str, Finding]:
    reader = work.runtime.reader
    tags = {blob.blob_id: _digest_of(blob.tag, reader) for blob in chunk if blob.tag}
    if earlier is None or not tags:
        return {}
    with work.runtime.ledger.begin() as connection:
        return findings.unchanged(connection, earlier, tags)


def _finding(work: Work, blob_id: str) -> Finding | None:
    try:
        seen = work.runtime.reader.read(blob_id)
    except QuarantineError as error:
        return Finding(_indexable(blob_id), None, problem=error.reason_code)
    except GoneError:
        return None
    except StoreUnavailableError as error:
        work.runtime.reader.store.check()  # the store as a whole is there: this object is not
        return Finding(blob_id, None, problem=error.reason_code)
    reader = work.runtime.reader
    is_tagged = seen.stored is not None and isinstance(reader.store, TaggedStore)
    return Finding(
        blob_id,
        seen.wrapped.key_version,
        _previous(seen),
        wrap_bytes=_wrap_bytes(seen.wrapped),
        generation=seen.sidecar.object,
        tag=_digest_of(seen.stored.tag, reader) if is_tagged and seen.stored else None,
    )


def _digest_of(tag: str, reader: SidecarReader) -> int:
    """Return what the ledger keeps of a version tag: 8 bytes, as a signed integer."""
    # Which key a sidecar names may depend on the configuration: under another, all is read anew.
    of = f"{tag}\n{reader.legacy_default or ''}"
    digest = hashlib.blake2b(of.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _indexable(blob_id: str) -> str:
    """Shorten an id that PostgreSQL cannot index; it stays longer than any that is safe."""
    raw = blob_id.encode("utf-8", "surrogatepass")
    if len(raw) <= _INDEXABLE_BYTES:
        return blob_id
    head = raw[:_INDEXABLE_BYTES].decode("utf-8", "ignore")
    return f"{head}~{hashlib.sha256(raw).hexdigest()}"


def _wrap_bytes(wrapped: WrappedKey) -> int | None:
    # A key of the environment does not say how it wraps; the length leaves a few schemes.
    return len(wrapped.ciphertext) if wrapped.key_version.provider == "env" else None


def _previous(seen: Seen) -> KeyVersion | None:
    previous = seen.sidecar.previous
    return previous.key_version if previous else None
