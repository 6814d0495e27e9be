import random
from collections import defaultdict

import pytest

from keywrap.keys import KeyVersion
from ledger.findings import Finding
from tasks.spool import Lane, Spool

FINDINGS = (
    Finding("a", KeyVersion("env:BLOB_KEY")),
    Finding("é\u202e", KeyVersion("hcvault://transit/k", "3"), KeyVersion("env:A"), tag=-(2**63)),
    Finding("c", None, problem="sidecar_not_json", leftovers=("", "f" * 32)),
    Finding("d", KeyVersion("env:BLOB_KEY"), wrap_bytes=60, generation="0" * 32, tag=2**63 - 1),
)


def test_what_was_kept_comes_back_in_order_and_in_groups_of_its_lane() -> None:
    chance = random.Random(3)
    kept: dict[Lane, list[Finding]] = defaultdict(list)
    with Spool(4) as spool:
        for _ in range(60):
            lane = chance.choice([("rewrap", ""), ("host-a", "env:A"), ("host-a", "env:B")])
            found = chance.choices(FINDINGS, k=chance.randrange(12))
            kept[lane] += found
            spool.add(lane, found)
        back: dict[Lane, list[Finding]] = defaultdict(list)
        short = []
        for lane, group in spool.groups():
            assert 0 < len(group) <= 4
            short += [lane] if len(group) < 4 else []
            back[lane] += group
    assert back == kept
    assert len(short) == len(set(short)), "only the last group of a lane has fewer"


def test_nothing_was_kept() -> None:
    with Spool(4) as spool:
        spool.add(("rewrap", ""), [])
        assert list(spool.groups()) == []


def test_what_was_kept_is_gone_when_it_is_closed() -> None:
    with Spool(1) as spool:
        spool.add(("rewrap", ""), FINDINGS)
    with pytest.raises(ValueError, match="closed file"):
        list(spool.groups())
