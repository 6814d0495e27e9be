import base64
import json
import os
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from keywrap.datakey import DataKey
from keywrap.keyring import KeyRing
from keywrap.keys import DPAPI, KeyVersion, WrappedKey
from keywrap.providers.dpapi import DpapiFamily
from keywrap.reading import QuarantineError, SidecarReader
from keywrap.rewrapping import Outcome, Prove, Rewrapper, Selection
from keywrap.sidecar import MAX_WRAP_BYTES, BadSidecarError, Sidecar
from keywrap.testing.dpapi import TDES_SHA1, Account, WrappingDpapiProvider, protect
from tests.worlds import World, by_id

ENV = KeyVersion("env:BLOB_KEY")
GUID = str(uuid.uuid4())


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def world_of(*accounts: Account) -> World:
    """Return a world whose configuration also lists these accounts' master keys."""
    world = World()
    families = [
        DpapiFamily(lambda key, a=account: key == f"dpapi:{a.guid}", account.ring())  # type: ignore[misc]
        for account in accounts
    ]
    named = [world.kek, world.other_kek, world.direct, world.wrapping]
    world.keys = KeyRing(named, primary=world.kek.key, families=families)
    world.app = type(world.app)(world.app.reader, world.keys, world.legacy_content)
    return world


def read(world: World, record: dict[str, Any] | None, default: KeyVersion | None) -> WrappedKey:
    world.write_content("a", b"text", DataKey.generate(), "gcm-v1")
    if record is not None:
        world.write_sidecar("a", record)
    return SidecarReader(world.store, world.layout, default).read("a").wrapped


def quarantine(record: dict[str, Any] | None, default: KeyVersion | None = None) -> str:
    with pytest.raises(QuarantineError) as caught:
        read(World(), record, default)
    return caught.value.reason_code


@pytest.mark.parametrize("default", [None, ENV, DPAPI, KeyVersion(f"dpapi:{GUID}")])
@pytest.mark.parametrize("write", [base64_of, bytes.hex, lambda data: data.hex().upper()])
@pytest.mark.parametrize(
    "label",
    [
        {"key_id": "dpapi"},
        {"provider": "dpapi"},
        {"key_id": "dpapi", "provider": "dpapi"},
        {"key_id": f"dpapi:{GUID}"},
        {"key_id": f"dpapi:{GUID}", "provider": "dpapi"},
    ],
)
def test_the_wrap_says_which_master_key_it_is_of_and_no_secret_is_needed(
    label: dict[str, str], write: Callable[[bytes], str], default: KeyVersion | None
) -> None:
    data = Account(GUID).protect(os.urandom(32))
    wrapped = read(World(), {**label, "wrapped_dek": write(data)}, default)
    assert wrapped == WrappedKey(KeyVersion(f"dpapi:{GUID}"), data)


@pytest.mark.parametrize("default", [DPAPI, KeyVersion(f"dpapi:{GUID}")])
def test_a_sidecar_that_names_no_key_is_dpapis_only_by_configuration(default: KeyVersion) -> None:
    data = Account(GUID).protect(os.urandom(32))
    record = {"wrapped_dek": base64_of(data), "plaintext_size": 4}
    assert read(World(), record, default) == WrappedKey(KeyVersion(f"dpapi:{GUID}"), data)
    assert quarantine(record) == "no_key_named"


@pytest.mark.parametrize(
    "named",
    [f"dpapi:{uuid.uuid4()}", f"dpapi:{GUID}?version=1"],
)
def test_a_master_key_that_the_wrap_does_not_name_is_for_a_person(named: str) -> None:
    wrap = base64_of(Account(GUID).protect(os.urandom(32)))
    assert quarantine({"key_id": named, "wrapped_dek": wrap}) == "dpapi_key_contradicts_wrap"
    default = KeyVersion.parse(named)
    assert quarantine({"wrapped_dek": wrap}, default) == "dpapi_key_contradicts_wrap"


def test_what_is_no_guid_names_no_master_key_that_is_listed() -> None:
    data = Account(GUID).protect(os.urandom(32))
    for name in (GUID.upper(), "BLOB_KEY_DPAPI", "machine/host-7"):
        record = {"key_id": f"dpapi:{name}", "wrapped_dek": base64_of(data)}
        assert f"dpapi:{name}" not in world_of(Account(GUID)).keys
        assert read(World(), record, None).key_version == KeyVersion(f"dpapi:{name}")


LOOK_ALIKES = {
    "dpapi_malformed": os.urandom(60),
    "dpapi_wine": b"\1\0\0\0Wine Crypt32 ok\0" + bytes(100),
    "dpapi_ng": bytes.fromhex("308201ad") + bytes(60) + bytes.fromhex("060a2b0601040182374a01"),
    "dpapi_mono": os.urandom(240),
    "dpapi_with_prefix": b"DPAPI" + Account().protect(bytes(32)),
    "dpapi_encoded_twice": base64.b64encode(Account().protect(bytes(32))),
    "dpapi_algorithms": Account().protect(bytes(32)).replace(b"\x10\x66\0\0", b"\x0e\x66\0\0"),
}


@pytest.mark.parametrize("reason", LOOK_ALIKES)
@pytest.mark.parametrize("label", ["dpapi", f"dpapi:{GUID}", None])
def test_what_is_no_dpapi_blob_is_quarantined_by_its_name(reason: str, label: str | None) -> None:
    record = {"wrapped_dek": base64_of(LOOK_ALIKES[reason])}
    if label:
        record["key_id"] = label
    assert quarantine(record, DPAPI) == reason


def test_where_dpapi_is_the_default_a_blob_without_a_wrap_is_for_a_person() -> None:
    for record in (None, {}, {"key_id": f"dpapi:{GUID}"}, {"key_id": "dpapi"}):
        assert quarantine(record, DPAPI) == "wrapped_dek_missing"
    assert quarantine({"key_id": "dpapi"}) == "no_key_named"
    assert quarantine({"key_id": "dpapi"}, ENV) == "key_ambiguous"


@pytest.mark.parametrize("data", [Account().protect(bytes(32))])
def test_hexadecimal_digits_are_strict(data: bytes) -> None:
    mixed = data.hex()[:-2] + "aB"
    for text in (data.hex()[:-1], data.hex() + "\n", data.hex() + "zz", data.hex() + " ", mixed):
        with pytest.raises(BadSidecarError) as refused:
            Sidecar.parse(json.dumps({"key_id": "dpapi", "wrapped_dek": text}).encode())
        assert refused.value.reason_code == "wrapped_dek_not_hex"
    long = data.hex() + "00" * MAX_WRAP_BYTES
    with pytest.raises(BadSidecarError) as refused:
        Sidecar.parse(json.dumps({"wrapped_dek": long}).encode())
    assert refused.value.reason_code == "wrapped_dek_too_long"


def test_a_record_with_a_wrap_in_hexadecimal_is_written_back_in_base64() -> None:
    data = Account(GUID).protect(bytes(32))
    record = Sidecar.parse(
        json.dumps({"key_id": "dpapi:" + GUID, "wrapped_dek": data.hex()}).encode()
    )
    assert json.loads(record.to_bytes())["wrapped_dek"] == base64_of(data)
    assert Sidecar.parse(record.to_bytes()) == record


# A campaign


def plant(world: World, blob_id: str, account: Account, **fields: object) -> bytes:
    """Write a blob as a Windows application did; return its wrap."""
    data_key, text = DataKey.generate(), os.urandom(100)
    world.originals[blob_id] = text
    world.write_content(blob_id, text, data_key, "gcm-v1")
    wrap = WrappingDpapiProvider(account).wrap(data_key, {}).ciphertext
    record = {"key_id": "dpapi", "wrapped_dek": base64_of(wrap), "content": "gcm-v1"}
    world.write_sidecar(blob_id, record | fields)
    return wrap


def test_a_migration_moves_what_opens_and_quarantines_the_rest_byte_for_byte() -> None:
    user, machine, stranger = Account(), Account(suite=TDES_SHA1, flags=4), Account()
    world = world_of(user, machine)
    plant(world, "user", user)
    machine_wrap = plant(world, "machine", machine)
    world.edit("machine", key_id=None, provider="dpapi", wrapped_dek=machine_wrap.hex())
    plant(world, "other account", stranger)
    plant(world, "swapped with user", user)
    world.edit("swapped with user", wrapped_dek=base64_of(plant(world, "user", user)))
    plant(world, "flipped", user)
    flipped = bytearray(user.protect(bytes(32)))
    flipped[-1] ^= 1
    world.edit("flipped", wrapped_dek=base64_of(bytes(flipped)))
    plant(world, "entropy", user)
    bound = protect(bytes(32), user.master_key, user.guid, b"entropy")
    world.edit("entropy", wrapped_dek=base64_of(bound))
    plant(world, "no key", user)
    world.edit("no key", wrapped_dek=base64_of(user.protect(b"00" * 32)))
    plant(world, "wine", user)
    world.edit("wine", wrapped_dek=base64_of(LOOK_ALIKES["dpapi_wine"]))
    before = world.snapshot()
    results = by_id(world.migrate(*world.originals))
    assert {blob_id: (r.outcome, r.reason_code) for blob_id, r in results.items()} == {
        "user": (Outcome.REWRAPPED, ""),
        "machine": (Outcome.REWRAPPED, ""),
        "other account": (Outcome.QUARANTINED, "key_not_listed"),
        "swapped with user": (Outcome.QUARANTINED, "content_does_not_open"),
        "flipped": (Outcome.QUARANTINED, "dpapi_does_not_open"),
        "entropy": (Outcome.QUARANTINED, "dpapi_does_not_open"),
        "no key": (Outcome.QUARANTINED, "inner_key_malformed"),
        "wine": (Outcome.QUARANTINED, "dpapi_wine"),
    }
    moved = {world.layout.sidecar_name(blob_id) for blob_id in ("user", "machine")}
    after = world.snapshot()
    assert {name for name in after if after[name] != before[name]} == moved
    record = Sidecar.parse(world.store.read(world.layout.sidecar_name("machine")).data)
    assert record.previous == WrappedKey(KeyVersion(f"dpapi:{machine.guid}"), machine_wrap)


def test_a_dpapi_wrap_is_none_of_a_rotations_business() -> None:
    account = Account()
    world = world_of(account)
    plant(world, "a", account)
    result = by_id(world.rotate("a"))["a"]
    assert (result.outcome, result.reason_code) == (Outcome.EXCLUDED, "not_managed")


def test_an_application_reads_a_dpapi_blob_before_and_after_its_migration() -> None:
    account = Account()
    world = world_of(account)
    plant(world, "a", account)
    assert world.app.get("a") == world.originals["a"]
    assert by_id(world.migrate("a"))["a"].outcome is Outcome.REWRAPPED
    assert world.app.get("a") == world.originals["a"]


def test_the_content_decides_even_where_the_wrap_is_sound() -> None:
    account = Account()
    world = world_of(account)
    plant(world, "a", account)
    world.write_content("a", b"x", DataKey.generate(), "gcm-v1")
    goal = world.goal(Selection.LEGACY, Prove.ALL)
    rewrapper = Rewrapper(world.reader, world.keys, world.legacy_content, world.pool)
    assert by_id(rewrapper.rewrap(["a"], goal))["a"].reason_code == "content_does_not_open"
