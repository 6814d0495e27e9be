import base64
import json
from collections.abc import Callable

import pytest

from keywrap.datakey import DataKey
from keywrap.keys import KeyVersion
from keywrap.kms import Context, RefusedError
from keywrap.moves import Selection, selects
from keywrap.rewrapping import Move, Outcome, Prove, Result
from keywrap.storewatch import StoreWatch
from keywrap.testing.kms import MemoryKeyProvider, SimpleMemoryKeyProvider
from tests.worlds import KEK, LEGACY_KINDS, OTHER_KEK, World, at, by_id


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("kind", LEGACY_KINDS)
def test_a_legacy_blob_is_rewrapped_under_the_target_and_bound_to_its_id(
    world: World, kind: str
) -> None:
    world.plant(kind, "a/b")
    before = world.snapshot()
    report = world.migrate("a/b")
    assert report.results == [Result("a/b", Outcome.REWRAPPED)]
    assert report.interruption is None
    sidecar = world.sidecar("a/b")
    assert sidecar["key_id"] == f"{KEK}?version=1"
    assert sidecar["context"] == {"blob_id": "a/b"}
    assert sidecar.get("provider", "vault") == "vault"
    assert world.wrong() == []
    assert world.snapshot()["a/b"] == before["a/b"], "a rewrap never touches content"


@pytest.mark.parametrize(("kind", "version"), [("direct", 1), ("bare", 1), ("wrapped", 2)])
def test_dek_version_grows_by_one(world: World, kind: str, version: int) -> None:
    world.plant(kind, "a")
    world.migrate("a")
    assert world.sidecar("a")["dek_version"] == version
    world.kms.rotate(KEK)
    world.rotate("a")
    assert world.sidecar("a")["dek_version"] == version + 1


@pytest.mark.parametrize("prove", Prove)
def test_a_managed_blob_is_rewrapped_under_the_new_version(world: World, prove: Prove) -> None:
    world.plant("managed", "a")
    target = world.kms.rotate(KEK)
    assert by_id(world.rotate("a", prove=prove))["a"].outcome is Outcome.REWRAPPED
    assert world.sidecar("a")["key_id"] == str(target)
    assert world.wrong() == []


@pytest.mark.parametrize("prove", [Prove.ALL, Prove.SAMPLE])
def test_a_blob_is_rotated_from_another_kek(world: World, prove: Prove) -> None:
    world.plant("managed", "a")
    wrapped = world.other_kek.wrap(
        world.kek.unwrap(world.reader.read("a").wrapped, {"blob_id": "a"}), {"blob_id": "a"}
    )
    text = base64.b64encode(wrapped.ciphertext).decode()
    world.edit("a", key_id=str(wrapped.key_version), wrapped_dek=text)
    world.kms.operations.clear()
    assert by_id(world.rotate("a", prove=prove))["a"].outcome is Outcome.REWRAPPED
    assert world.kms.operations == {"unwrap": 2, "wrap": 1}, "no service rewraps another's wrap"
    assert world.sidecar("a")["previous"]["key_id"] == f"{OTHER_KEK}?version=1"
    assert world.wrong() == []


def test_the_old_wrap_stays_beside_the_new_one(world: World) -> None:
    world.plant("wrapped", "a")
    world.plant("direct", "b")
    old = world.sidecar("a")
    world.migrate("a", "b")
    assert world.sidecar("a")["previous"] == {k: old[k] for k in ("key_id", "wrapped_dek")}
    assert world.sidecar("b")["previous"] == {"key_id": "env:BLOB_KEY"}


def test_the_old_wrap_is_dropped_where_asked(world: World) -> None:
    world.plant("wrapped", "a")
    world.migrate("a", keep_previous=False)
    assert "previous" not in world.sidecar("a")
    assert world.wrong() == []


def test_a_second_rewrap_replaces_previous_and_does_not_nest_it(world: World) -> None:
    world.plant("wrapped", "a")
    world.migrate("a")
    first = world.sidecar("a")
    world.kms.rotate(KEK)
    world.rotate("a")
    assert world.sidecar("a")["previous"] == {k: first[k] for k in ("key_id", "wrapped_dek")}


def test_unknown_fields_survive_byte_for_byte(world: World) -> None:
    world.plant("direct", "a")
    values = rb'"ratio":1.10,"big":123456789012345678901,"name":"Zo\u00eb","deep":{"x": [1, 2]}'
    world.write_sidecar("a", b"{" + values + b"}")
    world.migrate("a")
    assert values in world.raw("a")


def test_running_twice_changes_nothing(world: World) -> None:
    ids = [world.plant(kind, kind) for kind in LEGACY_KINDS]
    world.migrate(*ids)
    writes, before = world.store.writes, world.snapshot()
    again = world.migrate(*ids)
    assert {r.outcome for r in again.results} == {Outcome.CURRENT}
    assert (world.store.writes, world.snapshot()) == (writes, before)


def test_a_blob_beyond_the_target_is_not_pulled_back(world: World) -> None:
    world.plant("managed", "a")
    goal = world.goal(selection="managed", prove=Prove.ALL)
    world.kms.rotate(KEK)
    world.rotate("a")
    assert world.rewrapper().rewrap(["a"], goal).results == [Result("a", Outcome.CURRENT)]


@pytest.mark.parametrize("kind", LEGACY_KINDS)
def test_a_rotation_leaves_legacy_blobs_alone(world: World, kind: str) -> None:
    world.plant(kind, "a")
    before = world.snapshot()
    result = by_id(world.rotate("a"))["a"]
    assert (result.outcome, result.reason_code) == (Outcome.EXCLUDED, "not_managed")
    assert world.snapshot() == before


def test_a_migration_leaves_managed_blobs_alone(world: World) -> None:
    world.plant("managed", "a")
    world.kms.rotate(KEK)
    before = world.snapshot()
    result = by_id(world.migrate("a"))["a"]
    assert (result.outcome, result.reason_code) == (Outcome.EXCLUDED, "not_legacy")
    assert f"{KEK}?version=1" in result.detail
    assert world.snapshot() == before


def test_a_deleted_blob_is_gone(world: World) -> None:
    assert world.migrate("a").results == [Result("a", Outcome.GONE)]


def _tampered(world: World) -> None:
    wrap = bytearray(base64.b64decode(world.sidecar("bad")["wrapped_dek"]))
    wrap[20] ^= 1
    world.edit("bad", wrapped_dek=base64.b64encode(wrap).decode())


def _other_key(world: World) -> None:
    world.write_content("bad", b"text", DataKey.generate(), "records-v1")


QUARANTINES: dict[str, tuple[str, Callable[[World], object]]] = {
    "sidecar_not_json": ("direct", lambda w: w.write_sidecar("bad", b"{")),
    "sidecar_empty": ("direct", lambda w: w.write_sidecar("bad", b"")),
    "sidecar_duplicate_key": ("direct", lambda w: w.write_sidecar("bad", b'{"a":1,"a":1}')),
    "sidecar_too_large": ("direct", lambda w: w.edit("bad", pad="x" * 70_000)),
    "key_id_malformed": ("wrapped", lambda w: w.edit("bad", key_id="http://evil.example")),
    "key_not_listed": ("wrapped", lambda w: w.edit("bad", key_id="env:NOT_LISTED")),
    "wrapped_dek_not_base64": ("wrapped", lambda w: w.edit("bad", wrapped_dek="%")),
    "wrap_does_not_open": ("wrapped", _tampered),
    "wrap_length": ("wrapped", lambda w: w.edit("bad", wrapped_dek="AAAA")),
    "wrapped_dek_missing": (
        "managed",
        lambda w: w.edit("bad", wrapped_dek=None),
    ),
    "direct_key_with_wrap": ("direct", lambda w: w.edit("bad", wrapped_dek="AAAA")),
    "context_mismatch": ("wrapped", lambda w: w.edit("bad", context={"blob_id": "good"})),
    "content_missing": ("direct", lambda w: w.aside.delete("bad")),
    "content_does_not_open": ("direct", _other_key),
    "content_truncated": ("direct", lambda w: w.store._objects.update(bad=b"short")),
    "content_format_unknown": ("direct", lambda w: w.edit("bad", content="rot13-v1")),
    "object_invalid": ("wrapped", lambda w: w.edit("bad", object="../../etc/passwd")),
    "dek_version_invalid": ("direct", lambda w: w.edit("bad", dek_version=2**53 - 1)),
}


@pytest.mark.parametrize("reason_code", QUARANTINES)
def test_what_cannot_be_opened_is_quarantined_as_it_was_and_the_others_go_on(
    world: World, reason_code: str
) -> None:
    kind, harm = QUARANTINES[reason_code]
    world.plant("direct", "good")
    world.plant(kind, "bad")
    harm(world)
    before = world.snapshot()
    results = by_id(world.migrate("bad", "good"))
    assert (results["bad"].outcome, results["bad"].reason_code) == (
        Outcome.QUARANTINED,
        reason_code,
    )
    assert results["bad"].detail not in {"", "None"}
    assert results["good"].outcome is Outcome.REWRAPPED
    after = world.snapshot()
    for name in ("bad", "bad.sidecar.json"):
        assert after.get(name) == before.get(name)


@pytest.mark.parametrize(
    ("kind", "reason_code"), [("bare", "sidecar_missing"), ("direct", "no_key_named")]
)
def test_a_blob_that_names_no_key_is_legacy_only_if_the_configuration_says_so(
    kind: str, reason_code: str
) -> None:
    world = World(legacy_default=False)
    world.plant(kind, "a")
    before = world.snapshot()
    result = by_id(world.migrate("a"))["a"]
    assert (result.outcome, result.reason_code) == (Outcome.QUARANTINED, reason_code)
    assert world.snapshot() == before


def test_a_wrap_of_another_managed_blob_does_not_open(world: World) -> None:
    for blob_id in ("a", "b"):
        world.plant("managed", blob_id)
        world.edit(blob_id, context=None)  # so that only the binding itself can tell
    a, b = world.raw("a"), world.raw("b")
    world.write_sidecar("a", b)
    world.write_sidecar("b", a)
    world.kms.rotate(KEK)
    before = world.snapshot()
    for prove in Prove:
        results = by_id(world.rotate("a", "b", prove=prove))
        assert {r.reason_code for r in results.values()} == {"wrap_does_not_open"}
    assert world.snapshot() == before


@pytest.mark.parametrize("prove", Prove)
def test_swapped_legacy_sidecars_are_never_laundered(world: World, prove: Prove) -> None:
    world.plant("wrapped", "a")
    world.plant("wrapped", "b")
    a, b = world.raw("a"), world.raw("b")
    world.write_sidecar("a", b)
    world.write_sidecar("b", a)
    before = world.snapshot()
    results = by_id(world.migrate("a", "b", prove=prove))
    assert {(r.outcome, r.reason_code) for r in results.values()} == {
        (Outcome.QUARANTINED, "content_does_not_open")
    }
    assert world.snapshot() == before


UNSAFE = {
    "": "blob_id_empty",
    "../up": "blob_id_traversal",
    "a/../b": "blob_id_traversal",
    "/a": "blob_id_traversal",
    "a//b": "blob_id_traversal",
    "a\nb": "blob_id_control_character",
    "a\x1b[2Jb": "blob_id_control_character",
    "a\u202eb": "blob_id_control_character",
    "a\\b": "blob_id_not_portable",
    "x" * 1025: "blob_id_too_long",
    "a\ud800": "blob_id_not_unicode",
    ".rewrap/control.json": "blob_id_ambiguous",
}


@pytest.mark.parametrize("blob_id", UNSAFE)
def test_an_unsafe_id_is_quarantined_and_never_becomes_a_name(world: World, blob_id: str) -> None:
    world.plant("direct", "good")
    results = by_id(world.migrate(blob_id, "good"))
    assert results[blob_id].outcome is Outcome.QUARANTINED
    assert results[blob_id].reason_code == UNSAFE[blob_id]
    assert results["good"].outcome is Outcome.REWRAPPED
    assert world.snapshot().keys() == {"good", "good.sidecar.json"}


@pytest.mark.parametrize("blob_id", ["år/文書 1.pdf", "🗝", " a ", "x" * 1024, "a'b\"c%s;--"])
def test_spaces_and_letters_of_every_script_move(world: World, blob_id: str) -> None:
    world.plant("wrapped", blob_id)
    assert by_id(world.migrate(blob_id))[blob_id].outcome is Outcome.REWRAPPED
    assert json.loads(world.raw(blob_id))["context"] == {"blob_id": blob_id}
    assert world.wrong() == []


class PickyProvider(MemoryKeyProvider):
    """A KEK whose service refuses to wrap for one blob."""

    def wrap(self, data_key: DataKey, context: Context):  # noqa: ANN201
        if context["blob_id"] == "bad":
            raise RefusedError("not this one", key=self.key, reason_code="context_refused")
        return super().wrap(data_key, context)

    def wrap_many(self, items):  # noqa: ANN001, ANN201
        answers: list[object] = []
        for item in items:
            try:
                answers.append(self.wrap(*item))
            except RefusedError as error:
                answers.append(error)
        return answers


def test_a_refused_wrap_quarantines_its_blob_alone_and_asks_nothing_else_of_the_service() -> None:
    world = World(provider=PickyProvider)
    world.plant("wrapped", "bad")
    world.plant("wrapped", "good")
    results = by_id(world.migrate("bad", "good"))
    assert results["bad"].reason_code == "context_refused"
    assert results["good"].outcome is Outcome.REWRAPPED
    assert world.kms.operations["rewrap"] == 0


def test_prove_sample_never_shows_a_data_key_to_the_worker(world: World) -> None:
    ids = [world.plant("managed", f"m{n}") for n in range(5)]
    world.kms.rotate(KEK)
    world.kms.operations.clear()
    world.rotate(*ids, prove=Prove.SAMPLE)
    assert world.kms.operations == {"rewrap": 5}
    assert world.wrong() == []


def test_prove_sample_opens_both_wraps_where_the_service_cannot_rewrap() -> None:
    world = World(provider=SimpleMemoryKeyProvider)
    ids = [world.plant("managed", f"m{n}") for n in range(5)]
    world.kms.rotate(KEK)
    world.kms.operations.clear()
    world.rotate(*ids, prove=Prove.SAMPLE)
    assert world.kms.operations == {"unwrap": 10, "wrap": 5}


@pytest.mark.parametrize("prove", Prove)
def test_a_legacy_blob_is_proved_by_opening_whatever_was_asked(world: World, prove: Prove) -> None:
    world.plant("wrapped", "a")
    world.migrate("a", prove=prove)
    assert world.kms.operations == {"wrap": 1, "unwrap": 1}


@pytest.mark.parametrize("prove", [Prove.ALL, Prove.CONTENT])
def test_prove_all_on_a_rotation_opens_both_wraps(world: World, prove: Prove) -> None:
    ids = [world.plant("managed", f"m{n}") for n in range(5)]
    world.kms.rotate(KEK)
    world.kms.operations.clear()
    world.rotate(*ids, prove=prove)
    assert world.kms.operations == {"unwrap": 10, "wrap": 5}


def test_only_prove_content_opens_the_content_of_a_bound_blob(world: World) -> None:
    for blob_id in ("a", "b"):
        world.plant("managed", blob_id)
        world.write_content(blob_id, b"?", DataKey.generate(), "gcm-v1")
    world.kms.rotate(KEK)
    result = by_id(world.rotate("a", prove=Prove.CONTENT))["a"]
    assert (result.outcome, result.reason_code) == (Outcome.QUARANTINED, "content_does_not_open")
    assert by_id(world.rotate("b", prove=Prove.ALL))["b"].outcome is Outcome.REWRAPPED


def test_the_plaintext_data_key_is_let_go_of_and_never_shown(world: World) -> None:
    world.plant("wrapped", "a")
    move = Move("a", StoreWatch(world.store.check))
    steps = world.rewrapper()
    goal = world.goal(selection="legacy", prove=Prove.ALL)
    steps.read([move], goal)
    steps.open([move], goal)
    assert move.data_key is not None
    assert "DataKey" not in repr(move)
    steps.wrap([move], goal)
    steps.replace([move], goal)
    assert move.data_key is None


def test_a_newer_version_from_the_service_is_taken(world: World) -> None:
    world.plant("wrapped", "a")
    report = world.migrate("a", before=at("wrap", lambda: world.kms.rotate(KEK) and None))
    assert by_id(report)["a"].outcome is Outcome.REWRAPPED
    assert world.reader.read("a").wrapped.key_version == KeyVersion(KEK, "2")
    assert world.wrong() == []


@pytest.mark.parametrize("selection", Selection)
def test_a_selection_takes_what_its_name_says(selection: Selection) -> None:
    legacy, managed = KeyVersion("env:BLOB_KEY"), KeyVersion(KEK, "1")
    taken = {version for version in (legacy, managed) if selects(selection, version)}
    wanted = {
        Selection.ALL: {legacy, managed},
        Selection.LEGACY: {legacy},
        Selection.MANAGED: {managed},
    }
    assert taken == wanted[selection]
