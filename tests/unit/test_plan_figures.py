"""What a plan reckons: what would move, requests, money, time and what its sample shows."""

import datetime as dt
import uuid
from collections import Counter
from dataclasses import replace
from typing import Any

import click
import pytest

from keywrap.config import KeywrapConfig
from keywrap.keys import KeyVersion
from keywrap.kms import KeyProvider
from keywrap.rewrapping import Outcome, Prove
from keywrap.tables.keys import read_keys
from keywrap.testing.kms import MemoryKeyProvider, SimpleMemoryKeyProvider
from ledger.campaigns import Campaign
from ledger.findings import CensusLine
from ledger.progress import Progress
from ledger.states import Kind, State
from scheduler import estimates, plan_lines, schemes
from scheduler.estimates import KmsRequests, Money, Rate, StoreRequests
from scheduler.mix import Mix, mix_of
from scheduler.plans import Report
from scheduler.prices import prices
from scheduler.proofs import Proof, ProveType, default_proof
from scheduler.proposals import Proposal
from scheduler.status import Status
from scheduler.waits import Wait

TARGET = KeyVersion("hcvault://memory/blob-kek", "3")
LEGACY = KeyVersion("env:BLOB_KEY")
OLDER = KeyVersion(TARGET.key, "2")
OTHER = KeyVersion("hcvault://memory/other", "1")
AWS = KeyVersion("aws-kms://arn:aws:kms:eu-west-1:111122223333:key/k", "ab")


def _plan(plan_of: Kind = Kind.MIGRATE) -> Campaign:
    return Campaign(
        id=1,
        kind=Kind.PLAN,
        state=State.COMPLETE,
        prefix="",
        target=TARGET,
        prove=Prove.ALL,
        sample=None,
        sample_size=500,
        reason_code=None,
        reason=None,
        resume_state=None,
        passes=0,
        gates_passed=False,
        store="",
        requested_by="tests",
        created_at=dt.datetime.now(dt.UTC),
        started_at=None,
        finished_at=None,
        plan_of=plan_of,
    )


def _more(store: str) -> dict[str, str]:
    """Return what a store's table needs beside its URL."""
    return {"s3": {"region": "eu-west-1"}, "az": {"account": "blobs7"}}.get(store[:2], {})


def _proposal(
    kind: Kind = Kind.MIGRATE,
    proof: Proof | None = None,
    *,
    provider: KeyProvider | None = None,
    target: KeyVersion = TARGET,
    prefix: str = "",
    key: str | None = None,
    store: str = "file:///srv/blobs",
) -> Proposal:
    provider = provider or MemoryKeyProvider(key=TARGET.key)
    tables = {
        "store": {"url": store, "legacy_default": LEGACY.key} | _more(store),
        "keys": {"env": {"BLOB_KEY": {"encoding": "hex", "scheme": "direct"}}},
    }
    return Proposal(
        kind=kind,
        prefix=prefix,
        key=key,
        provider=provider,
        target=target,
        proof=proof or default_proof(kind, provider),
        config=KeywrapConfig.from_table(tables),
    )


def _mix(pool: int | None = None, **moving: int) -> Mix:
    named = {"legacy": LEGACY, "older": OLDER, "other": OTHER, "aws": AWS}
    counted = Counter({named[name]: blobs for name, blobs in moving.items()})
    return Mix(counted, 0, Counter(), Counter(), counted.total() if pool is None else pool)


def _line(version: KeyVersion | None, blobs: int = 1, problem: str = "") -> CensusLine:
    if version is None:
        return CensusLine("", "", "", problem, blobs, 0)
    return CensusLine(version.provider, version.key, version.version, problem, blobs, 5)


BEYOND = KeyVersion(TARGET.key, "4")
FORGED = KeyVersion(TARGET.key, "999")
LINES = [
    _line(LEGACY, 10),
    _line(KeyVersion("env:STRANGER"), 2),
    _line(OLDER, 20),
    _line(OTHER, 3),
    _line(TARGET, 40),
    _line(BEYOND, 1),
    _line(FORGED, 7),
    _line(None, 4, "sidecar_not_json"),
    _line(KeyVersion("env:OLD_PREVIOUS"), 0),
]


@pytest.mark.parametrize(
    ("plan_of", "moving", "excluded", "pool"),
    [
        (Kind.MIGRATE, {LEGACY: 10}, {"not_legacy": 23}, 12),
        (Kind.ROTATE, {OLDER: 20, OTHER: 3}, {"not_managed": 10}, 23),
    ],
)
def test_every_blob_of_a_scan_is_sorted_as_the_workers_would(
    plan_of: Kind, moving: dict[KeyVersion, int], excluded: dict[str, int], pool: int
) -> None:
    listed = {LEGACY.key, TARGET.key, OTHER.key}.__contains__
    mix = mix_of(LINES, _plan(plan_of), listed, lambda version: version == BEYOND)
    assert dict(mix.moving) == moving
    assert dict(mix.excluded) == excluded
    assert mix.current == 41
    assert dict(mix.problems) == {
        "sidecar_not_json": 4,
        "key_not_listed": 2,
        "key_version_unknown": 7,
    }
    assert mix.pool == pool
    assert mix.scanned == sum(line.blobs for line in LINES)


def test_only_versions_beyond_the_target_are_asked_for() -> None:
    def never(version: KeyVersion) -> bool:
        raise AssertionError(version)

    lines = [_line(LEGACY), _line(TARGET), _line(OLDER)]
    assert mix_of(lines, _plan(), {LEGACY.key, TARGET.key}.__contains__, never).current == 1


def test_master_keys_that_a_table_lists_together_are_listed_for_a_plan_too() -> None:
    named = {"mode": "native", "master_keys": [str(uuid.uuid4())]}
    keys = read_keys({"dpapi": {"named": named, "all-others": {}}})
    lines = [_line(KeyVersion(f"dpapi:{uuid.uuid4()}"))]
    mix = mix_of(lines, _plan(), keys.lists, lambda _version: False)
    assert (mix.moving.total(), mix.problems) == (lines[0].blobs, {})


@pytest.mark.parametrize(
    ("opened", "bad", "pool", "bound"),
    [(459, 0, 10**6, 0.00998), (500, 0, 10**6, 0.00917), (1, 0, 10, 0.99), (10, 0, 10, 0.0)],
)
def test_none_bad_of_n_bounds_the_share_of_bad_ones(
    opened: int, bad: int, pool: int, bound: float
) -> None:
    found = estimates.upper_bound(opened, bad, pool)
    assert found == pytest.approx(bound, abs=1e-5)
    assert found is not None
    assert found == 0 or (1 - found) ** opened == pytest.approx(0.01)


@pytest.mark.parametrize(("opened", "bad"), [(0, 0), (500, 1)])
def test_a_sample_that_shows_nothing_bounds_nothing(opened: int, bad: int) -> None:
    assert estimates.upper_bound(opened, bad, 1000) is None


def test_requests_are_extrapolated_from_those_of_the_sample() -> None:
    mix = _mix(legacy=1_000_000)
    kms = estimates.kms_requests(_proposal(), mix, sampled=500, requests=1000)
    assert kms == KmsRequests(sampled=1000, campaign=2_000_000, verifying=0)
    assert estimates.kms_requests(_proposal(), mix, 0, 0).total == 0


@pytest.mark.parametrize(("moving", "verifying"), [(100, 100), (2000, 500), (1_000_000, 10_000)])
def test_the_verifying_sample_of_a_rotation_is_reckoned_with(moving: int, verifying: int) -> None:
    proposal = _proposal(Kind.ROTATE)
    kms = estimates.kms_requests(proposal, _mix(older=moving), sampled=100, requests=100)
    assert (kms.campaign, kms.verifying) == (moving, verifying)
    assert kms.total == moving + verifying


def test_blobs_that_would_be_moved_by_no_listed_key_are_in_the_sample_and_in_its_figures() -> None:
    kms = estimates.kms_requests(_proposal(), _mix(legacy=80, pool=100), 10, 8)
    assert kms.campaign == 80


@pytest.mark.parametrize(
    ("kind", "prove", "mix", "reads"),
    [
        (Kind.MIGRATE, Prove.ALL, {"legacy": 9}, 9),
        (Kind.MIGRATE, Prove.SAMPLE, {"legacy": 9}, 9),
        (Kind.ROTATE, Prove.SAMPLE, {"older": 9, "other": 2}, 2),
        (Kind.ROTATE, Prove.ALL, {"older": 9, "other": 2}, 2),
        (Kind.ROTATE, Prove.CONTENT, {"older": 9, "other": 2}, 11),
    ],
)
def test_content_is_read_where_the_target_did_not_bind_the_wrap(
    kind: Kind, prove: Prove, mix: dict[str, int], reads: int
) -> None:
    assert estimates.content_reads(_proposal(kind, Proof(prove)), _mix(**mix)) == reads


def test_the_requests_to_a_store_are_those_of_two_scans_and_the_moves() -> None:
    requests = estimates.store_requests(_proposal(), _mix(legacy=10_000), scan_parts=4)
    assert requests == StoreRequests(
        reads=2 * 10_000 + 10_000 + 10_000 + 10 + 8, writes=10_000, lists=2 * 4 * 22
    )
    sampled = estimates.store_requests(_proposal(Kind.ROTATE), _mix(older=10_000), scan_parts=1)
    assert sampled.reads == 2 * 10_000 + 10_000 + 2 * 500 + 11 + 2


def test_the_bytes_of_a_reencryption_are_extrapolated_and_its_requests_counted() -> None:
    mix = _mix(legacy=600, older=400)
    proposal = _proposal(Kind.REENCRYPT, Proof(Prove.ALL))
    contents = estimates.content_bytes(proposal, mix, sampled=10, measured=10 * 2**20)
    assert contents is not None
    assert (contents.sampled, contents.stored) == (10 * 2**20, 1000 * 2**20)
    assert contents.written == 1000 * (2**20 + 72 + 16 + 16 * 16)
    assert contents.read_at_least == contents.stored + contents.written
    assert contents.read_at_most == 3 * contents.stored + contents.written
    requests = estimates.store_requests(proposal, mix, 1, contents)
    assert requests.writes == 2 * 1000 + contents.written // 2**23
    without = estimates.store_requests(proposal, mix, 1)
    assert requests.reads == without.reads + 3000 + contents.read_at_most // 2**23


@pytest.mark.parametrize(("kind", "sampled"), [(Kind.MIGRATE, 9), (Kind.REENCRYPT, 0)])
def test_no_bytes_are_told_where_none_are_moved_or_measured(kind: Kind, sampled: int) -> None:
    proposal = _proposal(kind, Proof(Prove.ALL))
    assert estimates.content_bytes(proposal, _mix(legacy=9), sampled, 100) is None


def test_what_charges_for_requests_costs_money_and_what_does_not_none() -> None:
    kms, store = KmsRequests(0, 10_000_000, 0), StoreRequests(1_000_000, 900_000, 100_000)
    free = estimates.money(_proposal(), _mix(legacy=1), kms, None)
    assert (free.kms, free.store, free.total, free.is_whole) == (None, None, 0, True)
    to_aws = estimates.money(_proposal(target=AWS, store="s3://blobs"), _mix(legacy=1), kms, store)
    assert to_aws.kms == pytest.approx(30.0)
    assert to_aws.store == pytest.approx(0.4 + 5.0)
    assert to_aws.total == pytest.approx(35.4)
    assert to_aws.is_whole
    from_aws = estimates.money(_proposal(Kind.ROTATE), _mix(aws=1), kms, None)
    assert from_aws.kms == pytest.approx(30.0)


@pytest.mark.parametrize("key", ["gcp-kms://projects/p", "azure-kv://v.vault.azure.net/keys/k"])
def test_google_and_azure_charge_too(key: str) -> None:
    kms = KmsRequests(0, 10_000_000, 0)
    target = KeyVersion(key, "1")
    found = estimates.money(_proposal(target=target), _mix(legacy=1), kms, None)
    assert found.kms == pytest.approx(30.0)


@pytest.mark.parametrize("store", ["az://blobs", "gs://blobs"])
def test_a_store_whose_price_is_not_known_is_never_called_free(store: str) -> None:
    kms, requests = KmsRequests(0, 1, 0), StoreRequests(1_000_000, 900_000, 100_000)
    found = estimates.money(_proposal(store=store), _mix(legacy=1), kms, requests)
    assert (found.store, found.is_whole) == (None, False)


def test_the_prices_are_dated_and_each_has_its_source() -> None:
    today = prices()
    assert dt.date.fromisoformat(today.as_of) <= dt.datetime.now(dt.UTC).date()
    for price in (*today.kms.values(), today.s3_read, today.s3_write):
        assert price.source.startswith("https://")


def test_the_time_is_that_of_the_moves_and_of_two_scans() -> None:
    assert estimates.duration_s(_mix(legacy=1000), Rate(50.0, 7), scan_s=3.0) == 26.0
    assert estimates.duration_s(_mix(legacy=1000), None, scan_s=3.0) is None
    assert estimates.duration_s(_mix(), None, scan_s=3.0) == 6.0


@pytest.mark.parametrize(
    ("kind", "provider", "prove"),
    [
        (Kind.MIGRATE, MemoryKeyProvider, Prove.ALL),
        (Kind.MIGRATE, SimpleMemoryKeyProvider, Prove.ALL),
        (Kind.ROTATE, MemoryKeyProvider, Prove.SAMPLE),
        (Kind.ROTATE, SimpleMemoryKeyProvider, Prove.ALL),
    ],
)
def test_a_sample_is_the_default_only_where_the_service_rewraps(
    kind: Kind, provider: type[SimpleMemoryKeyProvider], prove: Prove
) -> None:
    proof = default_proof(kind, provider())
    assert proof.prove is prove
    assert proof.why in proof.sentence()
    assert "default" in proof.sentence()


@pytest.mark.parametrize("typed", ["all", "content", "sample:1", "sample:0", "sample:12.5"])
def test_a_proof_that_is_asked_for_is_repeated_as_it_was_typed(typed: str) -> None:
    proof = ProveType().convert(typed, None, None)
    assert proof.option() == typed
    assert "default" not in proof.sentence()


@pytest.mark.parametrize("typed", ["", "none", "sample", "sample:", "sample:101", "sample:nan"])
def test_a_proof_that_is_none_is_refused(typed: str) -> None:
    with pytest.raises(click.BadParameter):
        ProveType().convert(typed, None, None)


def test_the_next_command_has_the_options_that_were_given() -> None:
    assert _proposal().command() == "rewrap start migrate"
    proposal = _proposal(Kind.ROTATE, Proof(Prove.SAMPLE, 0.05), prefix="it's/", key=TARGET.key)
    assert proposal.command() == (
        f"rewrap start rotate --prefix 'it'\"'\"'s/' --to {TARGET.key} --prove sample:5"
    )


@pytest.mark.parametrize(
    ("found", "command"),
    [
        ({"moving": Counter({LEGACY: 1})}, "rewrap start migrate"),
        ({"problems": Counter(sidecar_not_json=1)}, "rewrap inventory --export blobs.csv"),
        ({"current": 9}, None),
    ],
)
def test_a_plan_where_nothing_would_move_names_no_campaign_to_start(
    found: dict[str, Any], command: str | None
) -> None:
    nothing = Mix(Counter(), 0, Counter(), Counter(), 0)
    done = Progress(0, dict.fromkeys(Outcome, 0), 0, {}, 0, None, 0)
    status = Status(_plan(), done, Wait(), {}, keeps_previous=True)
    mix, kms = replace(nothing, **found), KmsRequests(0, 0, 0)
    report = Report(_proposal(), status, mix, kms, None, None, Money(None, None), None, None)
    assert report.next_command == command


def test_a_plan_whose_contents_do_not_open_leads_to_what_finds_their_format() -> None:
    counts = dict.fromkeys(Outcome, 0) | {Outcome.QUARANTINED: 20}
    failures = {("quarantined", "content_truncated"): 18, ("quarantined", "wrap_length"): 2}
    done = Progress(20, counts, 0, {}, 0, None, 0)
    status = Status(_plan(), done, Wait(), failures, keeps_previous=True)
    mix, kms = _mix(legacy=20), KmsRequests(0, 0, 0)
    report = Report(_proposal(), status, mix, kms, None, None, Money(None, None), None, None)
    document = report.document()
    assert document["next_command"] == report.next_command == "rewrap preflight"
    assert document["reason_code"] == "contents_do_not_open"
    said = '18 of 20 contents do not open: [store] legacy_content is probably wrong. It is "gcm-v1"'
    assert f'{said}; the others are "stream-v1" and "records-v1".' in document["reason"]
    assert any(said in line for line in plan_lines.lines(report))


def test_a_key_that_is_itself_the_data_key_is_told_of_before_a_migration_alone() -> None:
    assert "itself the data key" in _proposal().notes()[0]
    assert _proposal(Kind.ROTATE).notes() == []


def _shape(key: KeyVersion, lengths: dict[int, int]) -> CensusLine:
    return CensusLine("env", key.key, "", "", sum(lengths.values()), 0, lengths)


def test_lengths_that_the_configured_scheme_cannot_have_are_warned_of() -> None:
    configured = _proposal().config.keys.env
    lines = [
        _shape(LEGACY, {0: 5, 40: 12, 41: 1}),
        _shape(KeyVersion("env:STRANGER"), {60: 2}),
        _line(TARGET, 3),
    ]
    said = list(schemes.lines(schemes.shapes(lines, configured)))
    assert said == [
        "env:BLOB_KEY: 5 blobs without a wrap: direct; configured as direct",
        "env:BLOB_KEY: 12 wraps of 40 bytes: aes-kw or aes-kwp; configured as direct",
        "env:BLOB_KEY: 1 wrap of 41 bytes: of no scheme known here; configured as direct",
        "env:STRANGER: 2 wraps of 60 bytes: aes-gcm or aes-gcm-tag-first; not configured",
        (
            "warning: env:BLOB_KEY is configured as direct, but 12 wraps of 40 bytes can only be "
            "aes-kw or aes-kwp"
        ),
        (
            "warning: env:BLOB_KEY is configured as direct, but 1 wrap of 41 bytes can only be of "
            "no scheme known here"
        ),
        "A length only tells what a wrap may be; opening it decides: rewrap plan migrate",
    ]
