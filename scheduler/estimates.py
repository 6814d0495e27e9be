"""What a campaign would cost: requests, money and time, from what its plan counted."""

import math
from dataclasses import dataclass

from keywrap.contentformat import READ_BYTES, TAG_BYTES
from keywrap.rewrapping import Outcome, Prove
from keywrap.stream_v1 import CHUNK_BYTES, HEADER_BYTES
from ledger import history, progress
from ledger.campaigns import Campaign
from ledger.connection import Connection
from ledger.samples import SHARD_BLOBS, proof_size
from ledger.states import Kind
from scheduler import confidence
from scheduler.mix import Mix
from scheduler.prices import prices
from scheduler.proposals import Proposal

_SCANS = 2
"""The inventory, and the fresh scan before the end."""

_OBJECTS_A_BLOB = 2  # its content and its sidecar

_MORE_READS = 3
"""Of each content that is written anew: the old one, again under its own name, and the new one."""

_LISTED_AT_ONCE = 1000
"""Most keys in one answer of `ListObjectsV2` (Amazon S3 API reference, `max-keys`)."""


@dataclass(frozen=True, slots=True)
class KmsRequests:
    """Requests to key services.

    Attributes:
        sampled: how many the plan's own sample took.
        campaign: how many the campaign would take, extrapolated from those.
        verifying: how many the sample that proves it in the end would take, at the same rate.
    """

    sampled: int
    campaign: int
    verifying: int

    @property
    def total(self) -> int:
        """How many there would be in all."""
        return self.campaign + self.verifying


@dataclass(frozen=True, slots=True)
class StoreRequests:
    """Requests to an object store, as the engine makes them where no writer interferes."""

    reads: int
    writes: int
    lists: int


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast blobs would move.

    Attributes:
        per_s: blobs a second.
        campaign: the finished campaign that it is from; None: the plan's own sample, which is
            small and opened by few workers.
    """

    per_s: float
    campaign: int | None


@dataclass(frozen=True, slots=True)
class ContentBytes:
    """What a re-encryption would move, in bytes.

    Attributes:
        sampled: of the contents of the plan's sample, as they lie in the store.
        stored: of the contents of all that would move, extrapolated from those.
        written: of their new contents, which the store needs room for besides until the old
            contents are swept.
        read_at_least: how much is read: each old content once, each new one once.
        read_at_most: likewise, where the old ones are `gcm-v1`, matched whole, and lie under the
            blobs' own names, so that they are read twice.
    """

    sampled: int
    stored: int
    written: int
    read_at_least: int
    read_at_most: int


def content_bytes(proposal: Proposal, mix: Mix, sampled: int, measured: int) -> ContentBytes | None:
    """Extrapolate from the contents of a sample to all that would move.

    Args:
        proposal: what is planned.
        mix: what the scan found.
        sampled: how many blobs of the sample were taken up to the write.
        measured: the bytes of their contents.

    Returns:
        The bytes; None where no content is written anew, or none was measured.
    """
    if proposal.kind is not Kind.REENCRYPT or not sampled:
        return None
    moving = mix.moving.total()
    stored = math.ceil(measured / sampled * moving)
    # Taken for ciphertext alone: what the old format adds is little beside it.
    written = stored + moving * (HEADER_BYTES + TAG_BYTES) + stored // CHUNK_BYTES * TAG_BYTES
    return ContentBytes(measured, stored, written, stored + written, 3 * stored + written)


def proof_blobs(proposal: Proposal, mix: Mix) -> int:
    """Return how many blobs the verifying task would open in the end."""
    if proposal.proof.prove is not Prove.SAMPLE:
        return 0
    moving = mix.moving.total()
    return min(moving, proof_size(proposal.proof.sample, moving))


def kms_requests(proposal: Proposal, mix: Mix, sampled: int, requests: int) -> KmsRequests:
    """Extrapolate from a sample to all that would move.

    Args:
        proposal: what is planned.
        mix: what the scan found.
        sampled: how many blobs of the sample are decided.
        requests: how many requests they took.
    """
    a_blob = requests / sampled if sampled else 0.0
    return KmsRequests(
        sampled=requests,
        campaign=math.ceil(a_blob * mix.pool),
        verifying=math.ceil(a_blob * proof_blobs(proposal, mix)),
    )


def content_reads(proposal: Proposal, mix: Mix) -> int:
    """Return how many blobs would be matched against their own content, one read each at least."""
    return sum(blobs for version, blobs in mix.moving.items() if proposal.reads_content(version))


def store_requests(
    proposal: Proposal, mix: Mix, scan_parts: int, contents: ContentBytes | None = None
) -> StoreRequests:
    """Count what `tasks` and `keywrap.rewrapping` would ask of an object store.

    Each part of a scan lists the whole store and reads the sidecars of its own blobs. A rewrap
    reads each sidecar again, the content of what has to be matched, and writes what moves; the
    verifying task reads sidecar and content. Each shard reads the store's mark. A blob without a
    sidecar takes one read more each time, and a listing of many pages looks for folders at times.
    Counted against the in-memory S3 of the tests with 1,500 blobs, 300 of them without a sidecar:
    6,010 of 6,612 reads, 1,500 of 1,501 writes, 40 of 40 lists. A re-encryption reads each old
    content once or twice more and its new one once, in large pieces, and writes it besides.
    """
    blobs, verified = mix.scanned, proof_blobs(proposal, mix)
    shards = math.ceil(blobs / SHARD_BLOBS) + math.ceil(verified / SHARD_BLOBS)
    pages = _OBJECTS_A_BLOB * blobs // _LISTED_AT_ONCE + 1
    more_reads = more_writes = 0
    if contents is not None:
        more_reads = _MORE_READS * mix.moving.total() + contents.read_at_most // READ_BYTES
        more_writes = mix.moving.total() + contents.written // READ_BYTES
    lists = pages + (pages > 1)  # and one for the folders at which the listing is cut
    return StoreRequests(
        reads=_SCANS * blobs
        + blobs
        + content_reads(proposal, mix)
        + _OBJECTS_A_BLOB * verified
        + shards
        + _SCANS * scan_parts
        + more_reads,
        writes=mix.moving.total() + more_writes,
        lists=_SCANS * scan_parts * lists,
    )


@dataclass(frozen=True, slots=True)
class Money:
    """What the requests would cost in US dollars; None where the service charges none.

    Attributes:
        kms: the requests to key services.
        store: those to the store; None also where its price is not known.
        is_whole: whether no price is missing.
    """

    kms: float | None
    store: float | None
    is_whole: bool = True

    @property
    def total(self) -> float:
        """What they would cost in all, as far as prices are known."""
        return (self.kms or 0.0) + (self.store or 0.0)


def money(proposal: Proposal, mix: Mix, kms: KmsRequests, store: StoreRequests | None) -> Money:
    """Price the requests by `prices.toml`.

    Where wraps move from one service to another, all requests are taken for the dearer one's: the
    plan does not count them apart.
    """
    today = prices()
    providers = {proposal.target.provider, *(version.provider for version in mix.moving)}
    charged = [today.kms[provider].of(kms.total) for provider in providers & today.kms.keys()]
    is_s3 = proposal.config.store.url.startswith("s3://")
    return Money(
        kms=max(charged, default=None),
        store=today.s3_read.of(store.reads) + today.s3_write.of(store.writes + store.lists)
        if store is not None and is_s3
        else None,
        is_whole=store is None or is_s3,
    )


def rate(connection: Connection, plan: Campaign, sampled_per_s: float | None) -> Rate | None:
    """Return how fast blobs would move, or None where nothing tells.

    Args:
        connection: the transaction.
        plan: the plan.
        sampled_per_s: the rate of its own sample.
    """
    assert plan.plan_of is not None  # noqa: S101 - a CHECK of the ledger
    for finished in history.newest_finished(connection, plan.plan_of, plan.store):
        done = progress.read(connection, finished.id, finished.kind)
        # One that found most of its blobs in place says nothing of how fast others move.
        if done.rate_per_s and 2 * done.counts[Outcome.REWRAPPED] >= done.decided:
            return Rate(done.rate_per_s, finished.id)
    return Rate(sampled_per_s, None) if sampled_per_s else None


def duration_s(mix: Mix, rate: Rate | None, scan_s: float) -> float | None:
    """Return how long a campaign would take with its scans, in seconds; None where nothing tells.

    Args:
        mix: what the scan found.
        rate: how fast blobs would move.
        scan_s: how long the plan's own scan took, in seconds.
    """
    moving = mix.moving.total()
    if moving and rate is None:
        return None
    return _SCANS * scan_s + (moving / rate.per_s if rate else 0.0)


def upper_bound(opened: int, bad: int, pool: int) -> float | None:
    """Return what share of bad blobs a sample leaves possible, with 99% confidence.

    Args:
        opened: how many blobs of the sample were opened.
        bad: how many of them would be quarantined or fail.
        pool: how many blobs it was drawn from.

    Returns:
        0 where all were opened and none was bad; `confidence.upper_bound` where none of a sample
        was bad; None where one was bad, or none was opened.
    """
    if bad or not opened:
        return None
    return 0.0 if opened >= pool else confidence.upper_bound(opened)
