"""Checks whose trouble no honest server has, and the words of all."""

import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from keywrap.canary import require_bound
from keywrap.conditions import ProbeLeftError, UnconditionalStoreError, probe
from keywrap.datakey import DataKey
from keywrap.filestore import FileStore
from keywrap.keys import WrappedKey
from keywrap.kms import DeniedError, ProofFailedError
from keywrap.rewrapping import Outcome, Result
from keywrap.stores import Store, Stored, StoreUnavailableError
from keywrap.testing.kms import MemoryKeyProvider
from keywrap.testing.stores import MemoryStore
from scheduler.checks import staging
from scheduler.checks.check import AbsentError, Check, Needed, Status, make, passed
from scheduler.checks.installation import FreeSpace, soak
from scheduler.checks.keys import bound
from scheduler.checks.store import conditional
from tests.trails import signing_key
from workers.broker import is_old
from workers.settings import load

EXAMPLE = "postgresql://rewrap:never-to-be-shown@db/rewrap"


class Overwriting(MemoryStore):
    """Takes conditions and ignores them."""

    def create(self, name: str, data: bytes) -> None:
        self._objects[name] = data

    def replace(self, name: str, data: bytes, expected: Stored) -> None:
        del expected
        self._objects[name] = data


class Forgetful(MemoryStore):
    """Says that it has replaced an object, and has not."""

    def replace(self, name: str, data: bytes, expected: Stored) -> None:
        before = self._objects[name]
        super().replace(name, data, expected)
        self._objects[name] = before


class Unbinding(MemoryKeyProvider):
    """Opens a wrap whatever its context is."""

    def wrap(self, data_key: DataKey, _context: Mapping[str, str]) -> WrappedKey:
        return super().wrap(data_key, {})

    def unwrap(self, wrapped: WrappedKey, _context: Mapping[str, str]) -> DataKey:
        return super().unwrap(wrapped, {})


def test_a_probe_leaves_nothing_behind(tmp_path: Path) -> None:
    stores: list[Store] = [MemoryStore(), FileStore(tmp_path)]
    for store in stores:
        assert conditional(store).status is Status.PASS
        assert [name for name in store.names(".rewrap/") if "probe" in name] == []


def test_a_probe_finds_out_a_store_that_ignores_conditions_and_leaves_nothing_there() -> None:
    store = Overwriting()
    with pytest.raises(UnconditionalStoreError):
        probe(store)
    assert store._objects == {}
    (line,) = make([Check("conditional writes", lambda: conditional(store), "use another")])
    assert line.finding.status is Status.FAIL
    assert line.finding.reason_code == "store_ignores_conditions"
    assert not line.finding.is_unreachable, "it answered, and wrongly"


def test_a_probe_finds_out_a_store_that_does_not_replace() -> None:
    with pytest.raises(StoreUnavailableError, match="old bytes"):
        probe(Forgetful())


def test_a_probe_that_may_not_be_removed_is_a_warning_that_names_it() -> None:
    store = MemoryStore()
    store.fail_next("delete", StoreUnavailableError("not allowed"))
    with pytest.raises(ProbeLeftError):
        probe(store)
    store.fail_next("delete", StoreUnavailableError("not allowed"))
    finding = conditional(store)
    assert finding.status is Status.WARN
    assert finding.reason_code == "probe_left_behind"
    assert any(name in finding.sentence for name in store._objects)


def test_a_key_that_opens_with_any_context_is_found_out() -> None:
    require_bound(MemoryKeyProvider())
    assert bound(MemoryKeyProvider()).status is Status.PASS
    with pytest.raises(ProofFailedError, match="context of another blob"):
        require_bound(Unbinding())
    (line,) = make([Check("binding", lambda: bound(Unbinding()), "use another")])
    assert (line.finding.status, line.finding.reason_code) == (Status.FAIL, "proof_failed")


def test_too_little_room_is_a_failure_and_little_a_warning(tmp_path: Path) -> None:
    not_there = tmp_path / "not" / "there"
    assert FreeSpace(not_there, 1, 2)().status is Status.PASS
    assert FreeSpace(not_there, 1, 2**62)().reason_code == "disk_nearly_full"
    full = FreeSpace(not_there, 2**62, 2**62)()
    assert (full.status, full.reason_code) == (Status.FAIL, "disk_full")
    assert full.next_command


@pytest.mark.parametrize(
    ("kind", "old", "current"),
    [
        ("redis_version", "6.2.5", "6.2.20"),
        ("redis_version", "7.2.10", "7.2.11"),
        ("redis_version", "7.4.5", "7.4.6"),
        ("redis_version", "8.0.3", "8.0.4"),
        ("redis_version", "8.2.1", "8.2.2"),
        ("redis_version", "7.0.15", "8.4.0"),
        ("redis_version", "nonsense", "9.0.0"),
        ("valkey_version", "7.2.10", "7.2.11"),
        ("valkey_version", "8.0.5", "8.0.6"),
        ("valkey_version", "8.1.3", "9.0.0"),
    ],
)
def test_a_broker_is_old_until_the_release_that_mends_its_series(
    kind: str, old: str, current: str
) -> None:
    # Valkey tells a Redis version as well, which is not its own.
    assert is_old({"redis_version": "7.2.4", kind: old})
    assert not is_old({"redis_version": "7.2.4", kind: current})


def test_what_is_not_there_is_told_once_and_those_after_it_are_skipped() -> None:
    asked = []

    def fail() -> object:
        asked.append(1)
        raise StoreUnavailableError("no answer")

    needed = Needed("the service", fail)

    def look() -> object:
        return passed(str(needed.get()))

    first, second = make([Check(name, look, "start it") for name in "ab"])  # type: ignore[arg-type]
    assert (first.finding.status, first.finding.is_unreachable) == (Status.FAIL, True)
    assert first.finding.next_command == "start it"
    assert (second.finding.status, second.finding.sentence) == (
        Status.SKIP,
        "needs the service, see above",
    )
    assert asked == [1]
    with pytest.raises(AbsentError):
        needed.get()


def test_a_check_that_fails_by_itself_hides_neither_the_next_nor_a_secret() -> None:
    def broken() -> object:
        raise ValueError(EXAMPLE)

    first, second = make([Check("a", broken, "mend it"), Check("b", lambda: passed("fine"))])  # type: ignore[arg-type]
    assert first.finding.status is Status.FAIL
    assert first.finding.sentence == "the check itself failed: ValueError"
    assert second.finding.status is Status.PASS


def test_a_key_that_denies_has_answered() -> None:
    def denied() -> object:
        raise DeniedError("it is disabled", reason_code="key_disabled")

    (line,) = make([Check("key", denied, "enable it")])  # type: ignore[arg-type]
    assert line.finding.reason_code == "key_disabled"
    assert not line.finding.is_unreachable


def test_a_sample_counts_what_opens_and_says_why_the_rest_does_not() -> None:
    good = [Result(f"blob-{n}", Outcome.CURRENT) for n in range(3)]
    gone = Result("gone", Outcome.GONE)
    away = Result("away", Outcome.QUARANTINED, "key_elsewhere", "on other hosts")
    bad = Result("bad\n✓ forged", Outcome.QUARANTINED, "wrap_does_not_open", "it does not open")
    assert staging.judged(good).sentence == "3 of 3 blobs open, content and all"
    partly = staging.judged([*good, gone, away])
    assert partly.status is Status.PASS
    assert partly.sentence == (
        "3 of 5 blobs open, content and all; 1 are deleted since; the keys of 1 are on other hosts"
    )
    assert staging.judged([gone, away]).status is Status.WARN
    failed = staging.judged([*good, bad])
    assert (failed.status, failed.reason_code) == (Status.FAIL, "blobs_do_not_open")
    assert "1 wrap_does_not_open" in failed.sentence
    assert failed.next_command == "rewrap verify --all"
    assert "\n" not in failed.sentence


def test_a_soak_that_is_shorter_than_a_put_may_take_is_told_where_no_control_file_is(
    tmp_path: Path,
) -> None:
    def found(soak_s: int, more: str = "") -> tuple[Status, str]:
        file = tmp_path / "rewrap.toml"
        file.write_text(
            f'[store]\nurl = "{tmp_path.as_uri()}"\n[retire]\nsoak_s = {soak_s}\n{more}'
        )
        told = soak(load(str(file), {}))
        return told.status, told.reason_code

    assert found(21_599) == (Status.WARN, "soak_short")
    assert found(21_600) == (Status.PASS, "")
    public = signing_key(random.Random(1)).public
    control = f'[control]\npublic_key = "{public}"\nstore_id = "{"0" * 32}"\n'
    assert found(0, control) == (Status.PASS, "")
