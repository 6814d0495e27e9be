"""Retiring a KEK version: refused while anything needs it, and it leaves the version usable."""

import os
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from keywrap.datakey import DataKey
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import Context
from keywrap.rewrapping import Prove
from keywrap.stores import Stored
from ledger.campaigns import RequestRefusedError
from ledger.connection import Ledger
from ledger.retirements import Retirement, Step
from ledger.states import Kind, State
from scheduler.desk import DeskError
from scheduler.oldversions import OldWraps
from scheduler.retiring import Retiring
from tests.rotations import STORE, desk_at
from tests.worlds import KEK, World
from tests.yards import Yard
from workers.settings import Retire

INTERLEAVINGS = int(os.environ.get("REWRAP_INTERLEAVINGS", "30"))
"""How many random ones are tried; the first seeds are always the same."""


class Switch:
    """The KEK in memory, as a service that disables versions one by one."""

    def __init__(self, world: World) -> None:
        self.key = KEK
        self._world = world
        self.disabled: list[KeyVersion] = []

    def current_version(self) -> KeyVersion:
        return self._world.target

    def disable_version(self, version: KeyVersion) -> None:
        self._world.kms.disable_version(version)
        self.disabled.append(version)

    def enable_version(self, version: KeyVersion) -> None:
        self._world.kms.enable_version(version)
        self.disabled.remove(version)


class Retirer:
    """A rotated KEK in a yard, and what an operator types to retire its old version.

    Attributes:
        between: called before each scan and each look at the clock.
    """

    def __init__(self, ledger: Ledger, folder: Path) -> None:
        self.yard = Yard(ledger)
        self.world = self.yard.world
        self.desk = desk_at(folder, ledger, STORE.format(store=folder.as_uri()))
        place = self.desk.settings.keywrap.store.place
        self.yard.runtime = replace(self.yard.runtime, store=place)
        self.old = self.world.target
        self.switch = Switch(self.world)
        self.between: Callable[[], None] = lambda: None
        self.accepted = False
        self.old_versions = OldWraps(unseen="a folder keeps none")

    def rotate(self, *, seal: bool = True) -> int:
        self.world.kms.rotate(KEK)
        place = self.desk.settings.keywrap.store.place
        campaign = self.yard.start(Kind.ROTATE, prove=Prove.ALL, store=place)
        assert self.yard.run(campaign).state is State.COMPLETE
        if seal:
            sealing = self.yard.start(Kind.SEAL, follows=campaign, target=self.world.target)
            assert self.yard.run(sealing).state is State.COMPLETE
        return campaign

    def scan(self, campaign: int) -> Any:
        self.between()
        return SimpleNamespace(campaign=self.yard.run(campaign))

    def retire(self) -> Retirement:
        def say(line: str) -> None:
            if not line.startswith("retired"):  # from then on nobody looks any more
                self.between()

        retiring = Retiring(
            self.desk,
            self.switch,  # type: ignore[arg-type] # what a retirement asks of a KEK
            self.old,
            Retire(drain_s=0, soak_s=0),
            self.accepted,
            self.scan,
            say,
            look_back=lambda _desk, _needs: self.old_versions,
        )
        return retiring.run()

    def refused(self) -> DeskError:
        with pytest.raises(DeskError) as refused:
            self.retire()
        assert self.switch.disabled == [], "the version is usable"
        assert self.world.wrong() == []
        return refused.value

    def old_wrap(self, blob_id: str) -> WrappedKey:
        """Make a wrap under the version to retire, as a writer has one in his hand."""
        live = self.world.reader.read(blob_id).wrapped
        data_key = self.world.kek.unwrap(live, {"blob_id": blob_id})
        return wrap_under(self.world, self.old, data_key, {"blob_id": blob_id})


def wrap_under(
    world: World, version: KeyVersion, data_key: DataKey, context: Context
) -> WrappedKey:
    key = world.kms._keys[KEK]
    newest = dict(key.versions)
    key.versions = {n: cipher for n, cipher in newest.items() if n <= int(version.version)}
    try:
        return world.kms.wrap(KEK, data_key, context)
    finally:
        key.versions = newest


@pytest.fixture
def retirer(ledger: Ledger, tmp_path: Path) -> Retirer:
    return Retirer(ledger, tmp_path)


def test_a_version_that_nothing_needs_is_disabled_and_every_blob_opens(retirer: Retirer) -> None:
    retirer.yard.plant(12, ("managed",))
    retirer.rotate()
    assert retirer.retire().step is Step.RETIRED
    assert retirer.switch.disabled == [retirer.old]
    assert retirer.world.wrong() == []
    assert retirer.retire().step is Step.RETIRED, "done already is done"


def test_a_live_wrap_refuses_and_is_named(retirer: Retirer) -> None:
    ids = retirer.yard.plant(6, ("managed",))
    retirer.rotate()
    put_back(retirer, ids[2])
    error = retirer.refused()
    assert (error.reason_code, error.exit_code) == ("version_needed", 4)
    assert ids[2] in str(error)
    assert error.next_command.startswith("rewrap start rotate")


def test_a_previous_wrap_refuses_and_is_named(retirer: Retirer) -> None:
    ids = retirer.yard.plant(3, ("managed",))
    campaign = retirer.rotate(seal=False)
    error = retirer.refused()
    assert error.reason_code == "version_needed"
    assert ids[0] in str(error)
    assert "previous" in str(error)
    assert error.next_command == f"rewrap seal {campaign} --wait"
    retirer.yard.desk.run("UPDATE campaign SET lists_dropped_at = clock_timestamp()")
    assert retirer.refused().next_command.startswith("rewrap seal CAMPAIGN --wait (")


def test_a_blob_that_cannot_be_read_refuses_and_is_named(retirer: Retirer) -> None:
    retirer.yard.plant(3, ("managed",))
    retirer.rotate()
    retirer.world.write_sidecar("zz-torn", b'{"key_id": ')
    error = retirer.refused()
    assert "zz-torn" in str(error)
    assert "cannot be read" in str(error)


@pytest.mark.parametrize("scan", [1, 2, 3])
def test_a_writer_who_comes_in_mid_scan_with_an_old_wrap_is_found(
    retirer: Retirer, scan: int
) -> None:
    ids = retirer.yard.plant(4, ("managed",))
    retirer.rotate()
    wrapped, count = retirer.old_wrap(ids[1]), [0]

    def late(campaign: int) -> Any:
        count[0] += 1
        found = SimpleNamespace(campaign=retirer.yard.run(campaign))
        if count[0] == scan:  # after this scan, so that only the next one sees it
            commit(retirer.world, ids[1], wrapped)
        return found

    retirer.scan = late  # type: ignore[method-assign]
    if scan == 3:
        assert retirer.retire().step is Step.RETIRED, "after the last one nobody looks any more"
        return
    error = retirer.refused()
    assert error.reason_code == "version_needed"
    assert ids[1] in str(error)


def test_a_version_that_still_wraps_is_not_retired(retirer: Retirer) -> None:
    retirer.yard.plant(3, ("managed",))
    error = retirer.refused()
    assert error.reason_code == "version_is_current"
    assert error.next_command == f"rewrap rotate-kek {KEK} --wait"


def test_an_open_campaign_that_may_bring_old_wraps_back_keeps_a_retirement_from_beginning(
    retirer: Retirer,
) -> None:
    retirer.yard.plant(3, ("managed",))
    campaign = retirer.rotate(seal=False)
    retirer.yard.start(Kind.UNDO, follows=campaign, target=retirer.world.target)
    assert retirer.refused().reason_code == "campaign_open"


def test_nothing_is_opened_towards_a_version_that_is_being_retired(retirer: Retirer) -> None:
    retirer.yard.plant(3, ("managed",))
    campaign = retirer.rotate()
    asked: list[str] = []

    def ask() -> None:
        for kind, target in ((Kind.UNDO, retirer.world.target), (Kind.ROTATE, retirer.old)):
            follows = campaign if kind is Kind.UNDO else None
            with pytest.raises(RequestRefusedError) as refused:
                retirer.yard.start(kind, follows=follows, target=target)
            asked.append(refused.value.reason_code)

    retirer.between = ask
    assert retirer.retire().step is Step.RETIRED
    assert set(asked) == {"key_version_retiring", "key_version_retired"}
    with pytest.raises(RequestRefusedError, match="retired"):
        retirer.yard.start(Kind.ROTATE, target=retirer.old)


@pytest.mark.parametrize("after", range(8))
def test_a_retirement_cut_off_anywhere_goes_on_and_ends(retirer: Retirer, after: int) -> None:
    retirer.yard.plant(3, ("managed",))
    retirer.rotate()
    left = [after]

    def cut() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    retirer.between = cut
    try:
        retirer.retire()
    except KeyboardInterrupt:
        retirer.between = lambda: None
        assert retirer.world.wrong() == []
        assert retirer.retire().step is Step.RETIRED
    assert retirer.switch.disabled == [retirer.old]
    assert retirer.world.wrong() == []


def test_wraps_in_backups_want_an_acceptance_and_a_fresh_backup(retirer: Retirer) -> None:
    retirer.yard.plant(3, ("managed",))
    retirer.rotate()
    (old,) = retirer.yard.desk.rows("SELECT min(id) FROM campaign")[0]
    note_backup(retirer, old, verified=True)
    error = retirer.refused()
    assert error.reason_code == "backups_need_it"
    assert "3 wraps in backups" in str(error)
    again = f"rewrap retire '{retirer.old}' --accept-unopenable"
    assert error.next_command == (
        "rewrap backup create --wait, then: rewrap backup verify CAMPAIGN --identity FILE, "
        f"then: {again}"
    )
    retirer.accepted = True
    assert retirer.refused().reason_code == "no_fresh_backup"
    fresh = retirer.yard.start(Kind.INVENTORY, store=retirer.desk.settings.keywrap.store.place)
    retirer.yard.run(fresh)
    retirer.yard.desk.run("UPDATE campaign SET kind = 'backup' WHERE id = :id", id=fresh)
    note_backup(retirer, fresh, verified=False)
    unopened = retirer.refused()
    assert unopened.reason_code == "no_fresh_backup", "nobody has opened it"
    verify = f"rewrap backup verify {fresh} --identity FILE, then: "
    assert unopened.next_command == verify + again
    retirer.yard.desk.run("UPDATE backup SET verified_at = clock_timestamp()")
    retirer.accepted = False
    assert retirer.refused().next_command == again, "there is a fresh one by now"
    retirer.accepted = True
    assert retirer.retire().step is Step.RETIRED


@pytest.mark.parametrize("unreadable", [False, True])
def test_old_versions_in_the_bucket_want_an_acceptance_and_a_fresh_backup(
    retirer: Retirer, *, unreadable: bool
) -> None:
    retirer.yard.plant(3, ("managed",))
    retirer.rotate()
    retirer.old_versions = OldWraps(0, 7, ["a"]) if unreadable else OldWraps(7, 0, ["a"])
    error = retirer.refused()
    assert (error.reason_code, error.exit_code) == ("object_versions_need_it", 4)
    assert "7 old versions" in str(error)
    assert "'a'" in str(error)
    retirer.accepted = True
    assert retirer.refused().reason_code == "no_fresh_backup"
    fresh = retirer.yard.start(Kind.INVENTORY, store=retirer.desk.settings.keywrap.store.place)
    retirer.yard.run(fresh)
    retirer.yard.desk.run("UPDATE campaign SET kind = 'backup' WHERE id = :id", id=fresh)
    note_backup(retirer, fresh, verified=True)
    retired = retirer.retire()
    assert (retired.step, retired.object_versions, retired.backup_wraps) == (Step.RETIRED, 7, 0)


class WholeSwitch:
    """The KEK in memory, as a service that disables a key with all its versions."""

    def __init__(self, world: World, log: list[str]) -> None:
        self.key = KEK
        self._world = world
        self._log = log

    def disable_key(self) -> None:
        self._log.append("disabled")
        for number in ("1", "2"):
            self._world.kms.disable_version(KeyVersion(KEK, number))

    def enable_key(self) -> None:
        self._log.append("enabled")
        for number in ("1", "2"):
            self._world.kms.enable_version(KeyVersion(KEK, number))


def as_a_whole(retirer: Retirer) -> list[str]:
    """Move every wrap of two versions to another key, and let the first be retired as a whole."""
    log: list[str] = []
    retirer.world.kms.rotate(KEK)
    target = retirer.world.other_kek.current_version()
    campaign = retirer.yard.start(Kind.ROTATE, prove=Prove.ALL, target=target)
    assert retirer.yard.run(campaign).state is State.COMPLETE
    sealing = retirer.yard.start(Kind.SEAL, follows=campaign, target=target)
    assert retirer.yard.run(sealing).state is State.COMPLETE
    retirer.switch = WholeSwitch(retirer.world, log)  # type: ignore[assignment]
    retirer.old = KeyVersion(KEK)
    return log


def test_a_key_is_retired_as_a_whole_and_nothing_moves_to_any_version_of_it(
    retirer: Retirer,
) -> None:
    retirer.yard.plant(4, ("managed",))
    log = as_a_whole(retirer)
    open_one = retirer.yard.start(Kind.ROTATE, target=KeyVersion(KEK, "2"), prefix="nothing")
    with pytest.raises(DeskError) as refused:
        retirer.retire()
    assert refused.value.reason_code == "campaign_open"
    retirer.yard.run(open_one)
    assert retirer.retire().step is Step.RETIRED
    assert log == ["disabled"]
    assert retirer.world.wrong() == []
    with pytest.raises(RequestRefusedError, match="retired"):
        retirer.yard.start(Kind.ROTATE, target=KeyVersion(KEK, "2"))


def test_a_late_wrap_of_any_version_opens_the_key_again(retirer: Retirer) -> None:
    ids = retirer.yard.plant(4, ("managed",))
    log = as_a_whole(retirer)
    blob_id = ids[2]
    live = retirer.world.reader.read(blob_id).wrapped
    data_key = retirer.world.other_kek.unwrap(live, {"blob_id": blob_id})
    late = retirer.world.kms.wrap(KEK, data_key, {"blob_id": blob_id})
    assert late.key_version.version == "2"

    def write() -> None:
        if log == ["disabled"]:
            commit(retirer.world, blob_id, late)

    retirer.between = write
    with pytest.raises(DeskError) as refused:
        retirer.retire()
    assert (refused.value.reason_code, blob_id in str(refused.value)) == ("version_needed", True)
    assert log == ["disabled", "enabled"]
    assert retirer.world.wrong() == []


class Others:
    """Writers and operators who do something at random, replayed by a seed.

    Args:
        retirer: the yard that they are in.
        campaign: the rotation that an operator may want to undo.
        seed: what they do.
    """

    def __init__(self, retirer: Retirer, campaign: int, seed: int) -> None:
        self.chance = random.Random(seed)
        self._retirer = retirer
        self._campaign = campaign
        self._hands: list[tuple[str, WrappedKey, Stored]] = []

    def act(self) -> None:
        """Do one thing."""
        blob_id = self.chance.choice(sorted(self._retirer.world.originals))
        acts: list[Callable[[], None]] = [
            lambda: self._retirer.world.put(blob_id, self.chance.randbytes(20)),
            lambda: self._take_in_hand(blob_id),
            self._commit,
            self._commit,
            self._undo,
            lambda: self._retirer.yard.tick(self.chance.randrange(3)),
        ]
        self.chance.choice(acts)()

    def _take_in_hand(self, blob_id: str) -> None:
        retirer = self._retirer
        seen = retirer.world.reader.read(blob_id)
        if retirer.old not in {seen.wrapped.key_version, *retirer.switch.disabled} and seen.stored:
            self._hands.append((blob_id, retirer.old_wrap(blob_id), seen.stored))

    def _commit(self) -> None:
        """Write what is in hand, as a late worker does: the compare-and-set does not stop it."""
        if not self._hands:
            return
        blob_id, wrapped, expected = self._hands.pop(self.chance.randrange(len(self._hands)))
        if self._retirer.world.raw(blob_id) == expected.data:
            commit(self._retirer.world, blob_id, wrapped)

    def _undo(self) -> None:
        target = self._retirer.world.target
        with suppress(RequestRefusedError):
            self._retirer.yard.start(Kind.UNDO, follows=self._campaign, target=target)


@pytest.mark.parametrize("seed", range(INTERLEAVINGS))
def test_whatever_writers_and_undos_do_in_between_every_blob_opens_in_the_end(
    retirer: Retirer, seed: int
) -> None:
    retirer.yard.plant(4, ("managed",))
    others = Others(retirer, retirer.rotate(seal=seed % 5 > 0), seed)
    for _ in range(others.chance.randrange(3)):
        others.act()
    retirer.between = others.act
    try:
        ended = retirer.retire()
    except DeskError:
        assert retirer.switch.disabled == []
    else:
        assert ended.step is Step.RETIRED
        assert retirer.switch.disabled == [retirer.old]
    assert retirer.world.wrong() == []


def put_back(retirer: Retirer, blob_id: str) -> None:
    commit(retirer.world, blob_id, retirer.old_wrap(blob_id))


def commit(world: World, blob_id: str, wrapped: WrappedKey) -> None:
    sidecar = world.reader.read(blob_id).sidecar
    world.write_sidecar(blob_id, sidecar.rewrapped(wrapped, {"blob_id": blob_id}, None).to_bytes())


def note_backup(retirer: Retirer, campaign: int, *, verified: bool) -> None:
    retirer.yard.desk.run(
        "INSERT INTO backup (campaign_id, serial, place, manifest, sha256, blobs, recipients,"
        " verified_at) VALUES (:c, 1, 'p', 'm', 's', 3, 'age1', CASE WHEN :v"
        " THEN clock_timestamp() END)",
        c=campaign,
        v=verified,
    )
