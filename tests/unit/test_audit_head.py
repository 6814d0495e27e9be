import base64
import json
import random
from pathlib import Path

import pytest

from keywrap.auditchain import Head
from keywrap.audithead import NAME, AuditHeadError
from keywrap.stores import StoreUnavailableError
from keywrap.trailfaults import FaultKind
from tests.trails import Trail, signing_key


@pytest.fixture
def trail(tmp_path: Path) -> Trail:
    return Trail(tmp_path, random.Random(1), 4)


def goes_through(trail: Trail, known: Head) -> bool:
    there = {0: Head().hash} | {entry.place: entry.hash for entry in trail.entries}
    return there.get(known.entries) == known.hash


def test_a_trail_as_it_was_written_has_no_faults_and_grows(trail: Trail) -> None:
    assert trail.faults() == []
    trail.write(3)
    assert trail.faults() == []
    signed = trail.file.read()
    assert signed is not None
    assert (signed.serial, signed.head) == (2, trail.head)


def test_what_is_not_signed_yet_is_no_fault(trail: Trail) -> None:
    head = trail.head_bytes()
    trail.write(3)
    trail.put_head(head)
    assert trail.faults() == []


def test_each_fault_is_told_by_its_kind(trail: Trail) -> None:
    entries = list(trail.entries)
    del trail.entries[1]
    assert trail.kinds() == {"row_missing"}
    del trail.entries[-1]
    assert trail.kinds() == {"row_missing", "chain_cut"}
    trail.chain_anew([e.segment for e in reversed(entries)])
    assert trail.kinds() == {"head_mismatch"}
    trail.entries = entries
    trail.put_head(None)
    assert trail.kinds() == {"head_missing"}
    trail.put_head(b"{}")
    assert trail.kinds() == {"head_not_trusted"}


def test_a_fault_names_its_segment(trail: Trail) -> None:
    entry = trail.entries[2]
    trail.path(entry).unlink()
    (fault,) = trail.faults()
    assert (fault.kind, fault.segment) == (FaultKind.MISSING, entry.segment.name)


def test_publishing_what_is_published_changes_nothing(trail: Trail) -> None:
    before = trail.head_bytes()
    trail.file.publish(trail.key, trail.head, lambda known: goes_through(trail, known))
    assert trail.head_bytes() == before


def test_nothing_is_published_of_an_empty_chain(tmp_path: Path) -> None:
    trail = Trail(tmp_path, random.Random(2), 0)
    assert trail.file.publish(trail.key, Head(), lambda _known: True) is None
    assert trail.file.read() is None
    assert trail.faults() == []


def test_a_ledger_that_was_put_back_never_takes_the_head_back(trail: Trail) -> None:
    before, entries = trail.head_bytes(), list(trail.entries)
    del trail.entries[2:]
    with pytest.raises(AuditHeadError, match="put back") as refused:
        trail.file.publish(trail.key, trail.head, lambda known: goes_through(trail, known))
    assert refused.value.reason_code == "audit_chain_rolled_back"
    # And grown past it again, it is still another chain.
    trail.chain_anew([entries[i].segment for i in (0, 1, 3, 2, 0)])
    with pytest.raises(AuditHeadError, match="does not go through it"):
        trail.file.publish(trail.key, trail.head, lambda known: goes_through(trail, known))
    assert trail.head_bytes() == before


def test_two_publishers_at_once_leave_the_later_head(trail: Trail) -> None:
    before = trail.head
    trail.write(1)
    later = trail.head
    trail.put_head(None)
    trail.file.publish(trail.key, before, lambda _known: True)
    trail.store.before("replace", lambda: trail.put_head(_signed(trail, later)) or None)
    found = trail.file.publish(trail.key, later, lambda _known: True)
    assert found is not None
    assert found.head == later


def _signed(trail: Trail, head: Head) -> bytes:
    other = Trail(trail.folder / "other", random.Random(3), 0)
    other.key, other.file = trail.key, type(trail.file)(other.store, trail.key.public)
    other.file.publish(trail.key, head, lambda _known: True)
    return other.head_bytes()


def test_a_publisher_that_is_late_leaves_the_later_head(trail: Trail) -> None:
    before = trail.head
    trail.write(2)
    later = trail.head_bytes()
    trail.file.publish(trail.key, before, lambda known: goes_through(trail, known))
    assert trail.head_bytes() == later


def test_a_lost_reply_is_looked_up(trail: Trail) -> None:
    head = trail.head_bytes()
    trail.write(1)
    later = trail.head
    trail.put_head(head)
    trail.store.lose_next_reply()
    assert trail.file.publish(trail.key, later, lambda _known: True) == trail.file.read()


def test_a_store_that_is_away_is_said_to_be(trail: Trail) -> None:
    trail.store.fail_next("read", StoreUnavailableError("away"))
    with pytest.raises(StoreUnavailableError):
        trail.file.read()


def test_the_key_of_another_signs_nothing(trail: Trail) -> None:
    with pytest.raises(AuditHeadError) as refused:
        trail.file.publish(signing_key(random.Random(9)), trail.head, lambda _known: True)
    assert refused.value.reason_code == "audit_key_of_another"
    assert refused.value.next_command == "rewrap audit key --out FILE"


@pytest.mark.parametrize("field", ["serial", "entries", "hash", "time", "signature", "format"])
@pytest.mark.parametrize("value", [None, True, 7, "x", [], ""])
def test_a_head_that_was_not_signed_so_is_not_trusted(
    trail: Trail, field: str, value: object
) -> None:
    record = json.loads(trail.head_bytes()) | {field: value}
    trail.put_head(json.dumps(record).encode())
    assert trail.kinds() == {"head_not_trusted"}
    with pytest.raises(AuditHeadError):
        trail.file.publish(trail.key, trail.head, lambda _known: True)


def test_a_signature_in_another_spelling_is_not_trusted(trail: Trail) -> None:
    data = trail.head_bytes()
    spelled = base64.b64decode(json.loads(data)["signature"])
    last = data.index(b'==","time"') - 1
    others = [
        data[:last] + bytes([c]) + data[last + 1 :]
        for c in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
        if c != data[last]
    ]
    same = [o for o in others if base64.b64decode(json.loads(o)["signature"]) == spelled]
    assert same
    for head in [*same, data + b"\n", b" " + data]:
        trail.put_head(head)
        assert trail.kinds() == {"head_not_trusted"}


def test_a_head_too_large_is_not_read(trail: Trail) -> None:
    trail.put_head(b" " * 5000)
    assert trail.kinds() == {"head_not_trusted"}
    assert NAME == ".rewrap/audit-head.json"
