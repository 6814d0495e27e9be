"""Attacks on sidecars and key ids that must end in quarantine, on two strict key services.

Each attack tampers with a world and says why each blob is to be put aside; `strike` sees that
nothing else comes of it.
"""

import base64
import os
from collections.abc import Callable, Iterator

import pytest

from keywrap.rewrapping import Outcome, Prove
from keywrap.sidecar import MAX_DEK_VERSION, MAX_SIDECAR_BYTES
from tests.installations import AwsInstallation, Installation, MemoryInstallation, strike

Attack = Callable[[Installation], dict[str, str]]
"""Tampers with a world; returns the reason code of each blob that it tampered with."""

ON_MANAGED: list[Attack] = []  # a rotation meets these
ON_LEGACY: list[Attack] = []  # a migration does


@pytest.fixture(params=[MemoryInstallation, AwsInstallation], ids=["memory", "aws"])
def world(request: pytest.FixtureRequest, aws_credentials: None) -> Iterator[Installation]:  # noqa: ARG001 - boto3 wants some
    return request.param()


def on_managed(attack: Attack) -> Attack:
    ON_MANAGED.append(attack)
    return attack


def on_legacy(attack: Attack) -> Attack:
    ON_LEGACY.append(attack)
    return attack


def _name(attack: Attack) -> str:
    return attack.__name__


def _alter(world: Installation, blob_id: str, alter: Callable[[bytes], bytes]) -> None:
    wrap = base64.b64decode(world.sidecar(blob_id)["wrapped_dek"])
    world.edit(blob_id, wrapped_dek=base64.b64encode(alter(wrap)).decode())


def _relabel(world: Installation, blob_id: str, version: str) -> None:
    world.edit(blob_id, key_id=f"{world.kek.key}?version={version}")


# Whose wrap it is


@on_managed
def two_sidecars_are_swapped(world: Installation) -> dict[str, str]:
    a, b = (world.raw(world.plant("managed", blob_id)) for blob_id in ("a", "b"))
    world.write_sidecar("a", b)
    world.write_sidecar("b", a)
    return {"a": "context_mismatch", "b": "context_mismatch"}


@on_managed
def two_sidecars_are_swapped_and_name_no_blob(world: Installation) -> dict[str, str]:
    two_sidecars_are_swapped(world)
    world.edit("a", context=None)
    world.edit("b", context=None)
    return {"a": "wrap_does_not_open", "b": "wrap_does_not_open"}


@on_managed
def a_wrap_of_another_tenant_under_the_same_key_is_said_to_be_ones_own(
    world: Installation,
) -> dict[str, str]:
    world.plant("managed", "tenants/7/secret")
    world.plant("managed", "tenants/8/mine")
    stolen = world.sidecar("tenants/7/secret")["wrapped_dek"]
    world.edit("tenants/8/mine", wrapped_dek=stolen)
    return {"tenants/8/mine": "wrap_does_not_open"}


@on_managed
def a_context_is_of_another_blob_or_nearly_ones_own(world: Installation) -> dict[str, str]:
    for n, bound in enumerate(("a", "x/0 ", "X/1", "x/./2", "x/3/", "x/４", "x/5\0")):  # noqa: RUF001 - the defect
        world.plant("managed", f"x/{n}")
        world.edit(f"x/{n}", context={"blob_id": bound})
    world.plant("managed", "größe")
    world.edit("größe", context={"blob_id": "gro\u0308ße"})
    return dict.fromkeys((*(f"x/{n}" for n in range(7)), "größe"), "context_mismatch")


@on_managed
def a_context_names_no_blob(world: Installation) -> dict[str, str]:
    for blob_id, context in (("a", {}), ("b", {"tenant": "b"}), ("c", {"Blob_Id": "c"})):
        world.plant("managed", blob_id)
        world.edit(blob_id, context=context)
    return dict.fromkeys("abc", "context_mismatch")


@on_managed
def a_wrap_is_bound_to_more_than_its_blob(world: Installation) -> dict[str, str]:
    context = {"blob_id": world.plant("managed", "a"), "tenant": "7"}
    wrapped = world.kek.wrap(world.data_key("a"), context)
    wrap = base64.b64encode(wrapped.ciphertext).decode()
    world.edit("a", wrapped_dek=wrap, context=context)
    return {"a": "wrap_does_not_open"}


# Which key it names


@on_managed
def a_wrap_is_labelled_as_one_of_another_listed_key(world: Installation) -> dict[str, str]:
    version = world.target.version
    world.plant("managed", "a")
    world.edit("a", key_id=f"{world.other_kek.key}?version={version}")
    return {"a": world.unopened["another key"]}


@on_managed
def a_wrap_of_another_listed_key_is_labelled_as_one_of_ours(world: Installation) -> dict[str, str]:
    version = world.target.version
    world.plant("managed", "a")
    world.relabel("a", world.other_kek, world.data_key("a"))
    _relabel(world, "a", version)
    return {"a": world.unopened["another key"]}


@on_managed
def a_wrap_is_labelled_with_another_version_in_either_direction(
    world: Installation,
) -> dict[str, str]:
    first = world.target.version
    world.plant("managed", "a")
    second = world.turn().version
    world.plant("managed", "b")
    _relabel(world, "a", second)
    _relabel(world, "b", first)
    return dict.fromkeys("ab", world.unopened["another version"])


@on_managed
def a_wrap_names_a_version_that_never_was(world: Installation) -> dict[str, str]:
    world.plant("managed", "a")
    _relabel(world, "a", world.no_version())
    reason = {"0": "wrap_version_unknown"}.get(world.no_version(), "wrap_of_another_version")
    return {"a": reason}


@on_managed
def a_wrap_names_no_version_or_spells_it_otherwise(world: Installation) -> dict[str, str]:
    version = world.target.version
    labels = ("", f"?version=0{version}", f"?version=-{version}", "?version=v1", "?version=..")
    for n, label in enumerate(labels):
        world.plant("managed", f"x{n}")
        world.edit(f"x{n}", key_id=f"{world.kek.key}{label}")
    return {f"x{n}": "wrap_version_unknown" for n in range(len(labels))}


@on_managed
def a_wrap_names_a_version_far_in_the_future(world: Installation) -> dict[str, str]:
    world.plant("managed", "a")
    future = "9" * 64 if len(world.target.version) == 64 else "9" * 128
    _relabel(world, "a", future)
    return {"a": world.unopened["version to come"]}


@on_managed
def a_wrap_is_moved_to_a_key_that_is_not_listed(world: Installation) -> dict[str, str]:
    world.plant("managed", "a")
    world.relabel("a", world.attacker, world.data_key("a"))
    return {"a": "key_not_listed"}


@on_managed
def a_key_id_smuggles_in_an_endpoint_credentials_or_another_account(
    world: Installation,
) -> dict[str, str]:
    key, version = world.kek.key, world.target.version
    scheme, _, rest = key.partition("://")
    labels = {
        f"{key}?endpoint=https://evil.example&version={version}": "key_id_malformed",
        f"{key}?version={version}&endpoint=https://evil.example": "key_id_malformed",
        f"{key}?version={version}#evil": "key_id_malformed",
        f"{key}\n?version={version}": "key_id_malformed",
        f"{scheme}://user:pass@{rest}?version={version}": "key_not_listed",
        f"{scheme}://evil.example:8200/{rest}?version={version}": "key_not_listed",
        f"{key}/?version={version}": "key_not_listed",
        f"{key}%2f..?version={version}": "key_not_listed",
        f"{key.upper().replace(scheme.upper(), scheme)}?version={version}": "key_not_listed",
        "aws-kms://arn:aws:kms:eu-west-1:999999999999:key/evil": "key_not_listed",
        "aws-kms://arn:aws:kms:evil-region-1:111122223333:key/evil": "key_not_listed",
        "aws-kms://alias/blob-kek": "key_not_listed",
        "hcvault://evil:8200/transit/k?version=1": "key_not_listed",
        "pkcs11:module-path=/tmp/evil.so;object=k": "key_not_listed",
    }
    for n, label in enumerate(labels):
        world.plant("managed", f"x{n:02d}")
        world.edit(f"x{n:02d}", key_id=label)
    return {f"x{n:02d}": reason for n, reason in enumerate(labels.values())}


@on_managed
def a_legacy_wrap_is_labelled_as_one_of_the_kek(world: Installation) -> dict[str, str]:
    version = world.target.version
    world.plant("wrapped", "a")
    _relabel(world, "a", version)
    return {"a": "wrap_does_not_open"}


# What the wrap is


@on_managed
def a_wrap_is_cut_lengthened_or_altered(world: Installation) -> dict[str, str]:
    alterations: list[Callable[[bytes], bytes]] = [
        lambda wrap: wrap[:-1],
        lambda wrap: wrap[1:],
        lambda wrap: wrap[:12],
        lambda wrap: wrap[:1],
        lambda wrap: wrap + b"\0",
        lambda wrap: wrap + wrap,
        lambda wrap: wrap[:-1] + bytes([wrap[-1] ^ 1]),
        lambda wrap: bytes([wrap[0] ^ 0x80]) + wrap[1:],
        lambda wrap: bytes(len(wrap)),
    ]
    for n, alter in enumerate(alterations):
        _alter(world, world.plant("managed", f"x{n}"), alter)
    return {f"x{n}": "wrap_does_not_open" for n in range(len(alterations))}


@on_managed
def a_wrap_is_of_another_key_service(world: Installation) -> dict[str, str]:
    wraps = (os.urandom(184), os.urandom(60), os.urandom(512), b"vault:v1:" + os.urandom(60))
    for n, wrap in enumerate(wraps):
        _alter(world, world.plant("managed", f"x{n}"), lambda _old, wrap=wrap: wrap)
    return {f"x{n}": "wrap_does_not_open" for n in range(len(wraps))}


@on_managed
def a_wrap_is_left_out(world: Installation) -> dict[str, str]:
    world.edit(world.plant("managed", "a"), wrapped_dek=None)
    world.edit(world.plant("managed", "b"), wrapped_dek="")
    return {"a": "wrapped_dek_missing", "b": "wrapped_dek_empty"}


@on_managed
def a_record_leaves_no_room_for_another_wrap(world: Installation) -> dict[str, str]:
    world.edit(world.plant("managed", "a"), dek_version=MAX_DEK_VERSION)
    room = MAX_SIDECAR_BYTES - len(world.raw(world.plant("managed", "b"))) - 20
    world.edit("b", pad="x" * room)
    return {"a": "dek_version_invalid", "b": "sidecar_too_large"}


# Legacy wraps, which are bound to nothing


@on_legacy
def two_legacy_sidecars_are_swapped(world: Installation) -> dict[str, str]:
    a, b = (world.raw(world.plant("wrapped", blob_id)) for blob_id in ("a", "b"))
    world.write_sidecar("a", b)
    world.write_sidecar("b", a)
    return {"a": "content_does_not_open", "b": "content_does_not_open"}


@on_legacy
def a_legacy_wrap_of_another_blob_is_put_beside_a_direct_or_managed_one(
    world: Installation,
) -> dict[str, str]:
    stolen = world.raw(world.plant("wrapped", "victim"))
    for kind in ("direct", "bare", "managed"):
        world.write_sidecar(world.plant(kind, kind), stolen)
    return dict.fromkeys(("direct", "bare", "managed"), "content_does_not_open")


@on_legacy
def a_legacy_and_a_managed_sidecar_are_swapped(world: Installation) -> dict[str, str]:
    managed, legacy = (world.raw(world.plant(kind, kind)) for kind in ("managed", "wrapped"))
    world.write_sidecar("managed", legacy)
    world.write_sidecar("wrapped", managed)
    return {"managed": "content_does_not_open", "wrapped": "context_mismatch"}


@on_legacy
def a_sidecar_is_rolled_back_past_a_writer_that_changed_the_data_key(
    world: Installation,
) -> dict[str, str]:
    older = world.raw(world.plant("wrapped", "a"))
    world.plant("wrapped", "a")
    world.write_sidecar("a", older)
    return {"a": "content_does_not_open"}


@on_legacy
def a_managed_blob_is_said_to_be_under_the_direct_key(world: Installation) -> dict[str, str]:
    records: dict[str, dict[str, object] | None] = {
        "no sidecar": None,
        "empty": {},
        "content": {"content": "records-v1", "dek_version": 9},
        "named": {"key_id": "env:BLOB_KEY"},
        "provider": {"provider": "env"},
        "bound": {"key_id": "env", "context": {"blob_id": "bound"}},
    }
    for blob_id, record in records.items():
        world.plant_records(blob_id, "managed")
        del world.store._objects[world.layout.sidecar_name(blob_id)]
        if record is not None:
            world.write_sidecar(blob_id, record)
    return dict.fromkeys(records, "content_does_not_open")


@on_legacy
def a_wrap_is_labelled_as_one_of_a_legacy_key(world: Installation) -> dict[str, str]:
    reasons = {
        "env:BLOB_KEY": "direct_key_with_wrap",
        "env:OLD_KEK": world.unopened["legacy length"],
        "env:OLD_KEK?version=1": "wrap_of_another_key",
        "env:PATH": "key_not_listed",
        "dpapi:2f6c": "key_not_listed",
        "dpapi": "dpapi_malformed",
        "env": "direct_key_with_wrap",
    }
    for label in reasons:
        world.edit(world.plant("managed", label), key_id=label)
    return reasons


@on_legacy
def a_legacy_wrap_is_altered_or_left_out(world: Installation) -> dict[str, str]:
    for blob_id in ("flipped", "cut", "longer", "none", "blank"):
        world.plant("wrapped", blob_id)
    _alter(world, "flipped", lambda wrap: wrap[:-1] + bytes([wrap[-1] ^ 1]))
    _alter(world, "cut", lambda wrap: wrap[:-1])
    _alter(world, "longer", lambda wrap: wrap + b"\0")
    world.edit("none", wrapped_dek=None)
    world.edit("blank", wrapped_dek="")
    lengths = dict.fromkeys(("cut", "longer", "none"), "wrap_length")
    return {"flipped": "wrap_does_not_open", "blank": "wrapped_dek_empty", **lengths}


@on_legacy
def a_legacy_sidecar_names_another_blob(world: Installation) -> dict[str, str]:
    for kind in ("wrapped", "direct"):
        world.edit(world.plant(kind, kind), context={"blob_id": "another"})
    return dict.fromkeys(("wrapped", "direct"), "context_mismatch")


@on_legacy
def an_object_is_another_content_or_none(world: Installation) -> dict[str, str]:
    for blob_id in ("none", "copied", "outside", "format"):
        world.plant("wrapped", blob_id)
    generation = "0123456789abcdef" * 2
    objects = world.store._objects
    objects[world.layout.content_name("copied", generation)] = objects["good/wrapped-0"]
    for blob_id in ("none", "copied"):
        world.edit(blob_id, object=generation)
    world.edit("outside", object="../good/wrapped-0")
    world.edit("format", content="stream-v9")
    return {
        "none": "content_missing",
        "copied": "content_does_not_open",
        "outside": "object_invalid",
        "format": "content_format_unknown",
    }


@on_legacy
def a_content_is_forged(world: Installation) -> dict[str, str]:
    contents = {
        "huge": (bytes(12) + b"\xff" * 4 + bytes(16), "content_record_length"),
        "short": (bytes(15), "content_truncated"),
        "cut": (bytes(12) + (64).to_bytes(4) + bytes(32), "content_truncated"),
        "another key": (os.urandom(12) + (32).to_bytes(4) + bytes(32), "content_does_not_open"),
    }
    for blob_id, (content, _) in contents.items():
        world.plant("direct", blob_id)
        world.store._objects[world.layout.content_name(blob_id)] = content
    return {blob_id: reason for blob_id, (_, reason) in contents.items()}


@pytest.mark.parametrize("prove", Prove)
@pytest.mark.parametrize("attack", ON_MANAGED, ids=_name)
def test_an_attack_on_managed_wraps_is_put_aside_under_its_own_reason(
    world: Installation, attack: Attack, prove: Prove
) -> None:
    expected = attack(world)
    world.turn()
    outcomes = strike(world, *expected, prove=prove)
    assert outcomes == {b: (Outcome.QUARANTINED, reason) for b, reason in expected.items()}


@pytest.mark.parametrize("prove", Prove)
@pytest.mark.parametrize("attack", ON_LEGACY, ids=_name)
def test_an_attack_on_legacy_wraps_is_put_aside_under_its_own_reason(
    world: Installation, attack: Attack, prove: Prove
) -> None:
    expected = attack(world)
    outcomes = strike(world, *expected, migrate=True, prove=prove)
    assert outcomes == {b: (Outcome.QUARANTINED, reason) for b, reason in expected.items()}
