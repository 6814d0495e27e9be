"""Restoring wraps, one by one: what is put back, what never is, and what is left to a person."""

import base64
import secrets
import uuid
from collections.abc import Callable
from dataclasses import replace

import pytest

from keywrap.contents import content_format
from keywrap.datakey import DataKey
from keywrap.keyring import KeyRing
from keywrap.kms import Context, UnavailableError
from keywrap.sidecar import MAX_DEK_VERSION
from keywrap.testing.dpapi import Account
from ledger.connection import Ledger
from ledger.states import Kind
from tests.integration.test_safety import SafeYard
from tests.unit.test_dpapi_sidecars import world_of
from tests.worlds import KEK, OTHER_KEK


@pytest.fixture
def yard(ledger: Ledger) -> SafeYard:
    return SafeYard(ledger)


def backed_up(yard: SafeYard, *, escrow: bool = False) -> int:
    campaign = yard.start(Kind.BACKUP, escrow=escrow)
    yard.run(campaign)
    return campaign


def lose_kek(yard: SafeYard, primary: str | None = OTHER_KEK) -> None:
    """Let the KEK be gone, and only another one be primary."""
    world = yard.world
    world.kms.delete_key(KEK)
    providers = [world.keys.provider(key) for key in (KEK, OTHER_KEK, world.direct.key)]
    world.keys = KeyRing(providers, primary)
    world.app = replace(world.app, keys=world.keys)


def swap(yard: SafeYard, one: str, other: str) -> None:
    first, second = yard.world.raw(one), yard.world.raw(other)
    yard.world.write_sidecar(one, second)
    yard.world.write_sidecar(other, first)


def test_sidecars_swapped_between_formats_are_put_back(yard: SafeYard) -> None:
    ids = [yard.world.plant(k, k) for k in ("direct", "wrapped", "empty", "managed")]
    campaign = backed_up(yard)
    swap(yard, "direct", "wrapped")
    swap(yard, "empty", "managed")
    assert yard.restore(campaign) == {"rewrapped": len(ids)}
    assert yard.world.wrong() == []


@pytest.mark.parametrize("size", [0, 1, 70_000])
def test_a_sidecar_overwritten_by_garbage_of_any_size_is_put_back(
    yard: SafeYard, size: int
) -> None:
    (blob_id,) = yard.plant(1, ("managed",))
    campaign = backed_up(yard)
    yard.world.write_sidecar(blob_id, secrets.token_bytes(size))
    assert yard.restore(campaign) == {"rewrapped": 1}
    assert yard.world.wrong() == []


@pytest.mark.parametrize("damage", ["lost", "swapped", "unbound"])
def test_content_under_a_name_of_its_own_is_found_by_what_was_kept(
    yard: SafeYard, damage: str
) -> None:
    ids = yard.plant(2, ("managed",))
    yard.world.put(ids[0], b"written anew, under a name of its own")
    generation = yard.world.sidecar(ids[0])["object"]
    # Its first content went after the grace time: nothing lies under the blob's own name.
    del yard.world.store._objects[yard.world.layout.content_name(ids[0])]
    campaign = backed_up(yard)
    if damage == "lost":
        del yard.world.store._objects[yard.world.layout.sidecar_name(ids[0])]
    elif damage == "swapped":
        swap(yard, *ids)
    else:
        yard.world.edit(ids[0], context=None, object="0" * 32, wrapped_dek="AAAA")
    assert yard.restore(campaign)["rewrapped"] == (2 if damage == "swapped" else 1)
    assert yard.world.sidecar(ids[0])["object"] == generation
    assert yard.world.wrong() == []


@pytest.mark.parametrize("record", [{"provider": "dpapi"}, {"key_id": "dpapi"}])
def test_a_wrap_of_dpapi_that_names_no_master_key_is_put_back(
    ledger: Ledger, record: dict[str, str]
) -> None:
    account = Account(str(uuid.uuid4()))
    yard = SafeYard(ledger, world_of(account))
    key = DataKey.generate()
    yard.world.write_content("a", b"text", key, "gcm-v1")
    wrap = base64.b64encode(account.protect(key.reveal())).decode()
    yard.world.write_sidecar("a", {**record, "wrapped_dek": wrap, "content": "gcm-v1"})
    campaign = backed_up(yard)
    yard.world.write_sidecar("a", b"garbage")
    assert yard.restore(campaign) == {"rewrapped": 1}
    assert yard.world.app.get("a") == b"text"


def test_an_empty_content_ties_no_wrap_that_may_be_anothers(yard: SafeYard) -> None:
    yard.world.plant("wrapped", "victim")
    yard.world.plant("empty", "empty")
    yard.world.write_sidecar("empty", yard.world.sidecar("victim") | {"content": "records-v1"})
    campaign = backed_up(yard, escrow=True)
    yard.world.write_sidecar("empty", b"garbage")
    assert yard.restore(campaign) == {"quarantined": 1, "current": 1}
    assert yard.world.raw("empty") == b"garbage"


def test_a_count_of_versions_that_is_damaged_holds_no_restore_up(yard: SafeYard) -> None:
    (blob_id,) = yard.plant(1, ("managed",))
    campaign = backed_up(yard)
    yard.world.edit(blob_id, dek_version=MAX_DEK_VERSION, wrapped_dek="AAAA")
    assert yard.restore(campaign) == {"rewrapped": 1}
    assert yard.world.wrong() == []


def test_a_blob_that_was_deleted_is_gone(yard: SafeYard) -> None:
    ids = yard.plant(2, ("managed",))
    campaign = backed_up(yard)
    yard.world.delete(ids[0])
    before = yard.world.snapshot()
    assert yard.restore(campaign) == {"gone": 1, "current": 1}
    assert yard.world.snapshot() == before


@pytest.mark.parametrize("still_listed", [True, False])
def test_an_escrow_replaces_a_kek_that_is_gone(yard: SafeYard, still_listed: bool) -> None:  # noqa: FBT001 - a parameter
    yard.plant(6, ("managed", "direct", "empty"))
    campaign = backed_up(yard, escrow=True)
    lose_kek(yard)
    if not still_listed:
        yard.world.keys = KeyRing([yard.world.direct, yard.world.other_kek], OTHER_KEK)
        yard.world.app = replace(yard.world.app, keys=yard.world.keys)
    assert yard.restore(campaign) == {"rewrapped": 2, "current": 4}
    assert yard.world.wrong() == []


def test_without_a_primary_an_escrow_changes_nothing(yard: SafeYard) -> None:
    yard.plant(2, ("managed",))
    campaign = backed_up(yard, escrow=True)
    lose_kek(yard, None)
    before = yard.world.snapshot()
    assert yard.restore(campaign) == {"quarantined": 2}
    assert yard.world.snapshot() == before


def test_an_escrow_never_goes_over_what_a_writer_wrote_since(yard: SafeYard) -> None:
    ids = yard.plant(2, ("managed",))
    campaign = backed_up(yard, escrow=True)
    yard.world.put(ids[0], b"written since")
    lose_kek(yard)
    before = yard.world.raw(ids[0])
    assert yard.restore(campaign) == {"quarantined": 1, "rewrapped": 1}
    assert yard.world.raw(ids[0]) == before


def test_a_writer_who_comes_in_between_wins(yard: SafeYard) -> None:
    (blob_id,) = yard.plant(1, ("managed",))
    campaign = backed_up(yard, escrow=True)
    lose_kek(yard)
    wrap = yard.world.other_kek.wrap_many
    writer: list[Callable[[], None]] = [lambda: yard.world.put(blob_id, b"written in between")]

    def slow(*arguments: object) -> object:
        if writer:
            writer.pop()()
        return wrap(*arguments)  # type: ignore[arg-type]

    yard.world.other_kek.wrap_many = slow  # type: ignore[method-assign, assignment]
    assert yard.restore(campaign) == {"conflict": 1}
    assert yard.world.app.get(blob_id) == b"written in between"


def test_a_wrap_of_the_escrow_that_is_not_proved_is_not_written(yard: SafeYard) -> None:
    yard.plant(1, ("managed",))
    campaign = backed_up(yard, escrow=True)
    lose_kek(yard)
    wrap = yard.world.other_kek.wrap_many

    def other_keys(items: list[tuple[DataKey, Context]]) -> object:
        return wrap([(DataKey.generate(), context) for _, context in items])

    yard.world.other_kek.wrap_many = other_keys  # type: ignore[method-assign, assignment]
    before = yard.world.snapshot()
    assert yard.restore(campaign) == {"quarantined": 1}
    assert yard.world.snapshot() == before


def test_an_escrowed_key_that_does_not_open_the_content_is_not_written(yard: SafeYard) -> None:
    (blob_id,) = yard.plant(1, ("managed",))
    campaign = backed_up(yard, escrow=True)
    lose_kek(yard)
    sealed = content_format("gcm-v1").seal(DataKey.generate(), b"another's")
    yard.world.store._objects[yard.world.layout.content_name(blob_id)] = sealed
    before = yard.world.snapshot()
    assert yard.restore(campaign) == {"quarantined": 1}
    assert yard.world.snapshot() == before


def test_a_key_service_that_is_away_stops_the_restore(yard: SafeYard) -> None:
    yard.plant(2, ("managed",))
    campaign = backed_up(yard, escrow=True)

    def away(*_: object) -> None:
        raise UnavailableError("it does not answer")

    yard.world.kek.unwrap_many = away  # type: ignore[method-assign, assignment]
    before = yard.world.snapshot()
    with pytest.raises(UnavailableError):
        yard.restore(campaign)
    assert yard.world.snapshot() == before
