import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from keywrap.blobs import EncryptedBlobs
from keywrap.contents import ContentError
from keywrap.filestore import FileStore
from keywrap.kms import ProofFailedError, UnavailableError
from keywrap.reading import SidecarReader
from keywrap.reencrypting import Reencrypter, is_marked, new_generation
from keywrap.rewrapping import Goal, Outcome, Prove, Report, Selection
from keywrap.stores import StoreUnavailableError
from keywrap.stream_v1 import StreamV1
from tests.worlds import KEK, KINDS, SimulatedCrash, World, at, by_id, crash, spoilt

MARK = b"one campaign"
STEPS = ("read", "open", "match", "wrap", "prove", "encrypt", "replace")
BIG = 20 * 1024 * 1024


@pytest.fixture
def world() -> World:
    return World()


def goal(world: World, mark: bytes = MARK) -> Goal:
    return Goal(world.target, Selection.ALL, Prove.ALL, mark=mark)


def engine(world: World, before: Callable[[str], None] = lambda _step: None) -> Reencrypter:
    return Reencrypter(world.reader, world.keys, world.legacy_content, world.pool, before)


def reencrypt(
    world: World,
    *blob_ids: str,
    mark: bytes = MARK,
    before: Callable[[str], None] = lambda _step: None,
) -> Report:
    return engine(world, before).rewrap(blob_ids, goal(world, mark))


def plant_all(world: World) -> list[str]:
    return [world.plant(kind, f"t/{kind}") for kind in KINDS]


def contents(world: World) -> list[str]:
    """Return the objects with a generation: the contents written anew."""
    return [name for name in world.snapshot() if ".~" in name]


@pytest.mark.parametrize("kind", KINDS)
def test_a_blob_gets_a_data_key_of_its_own_and_a_new_content(world: World, kind: str) -> None:
    world.plant(kind, "a/b")
    before = world.snapshot()
    version = json.loads(before.get("a/b.sidecar.json", b"{}")).get("dek_version", 0)
    assert by_id(reencrypt(world, "a/b"))["a/b"].outcome is Outcome.REWRAPPED
    sidecar = world.sidecar("a/b")
    assert sidecar["key_id"] == f"{KEK}?version=1"
    assert (sidecar["content"], sidecar["dek_version"]) == ("stream-v1", version + 1)
    assert "previous" not in sidecar
    assert contents(world) == [f"a/b.~{sidecar['object']}"]
    assert world.snapshot()["a/b"] == before["a/b"], "the old content is there still"
    assert world.wrong() == []


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_every_blob_opens_and_a_second_run_ends_it(
    world: World, step: str
) -> None:
    ids = plant_all(world)
    with pytest.raises(SimulatedCrash):
        reencrypt(world, *ids, before=at(step, crash))
    assert world.wrong() == []
    assert {r.outcome for r in reencrypt(world, *ids).results} == {Outcome.REWRAPPED}
    assert world.wrong() == []


def test_killed_within_the_writes_every_blob_opens_and_a_second_run_ends_it() -> None:
    for nth in range(1, 100):
        world = World()
        ids = plant_all(world)
        left = [nth]

        def count(left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise SimulatedCrash

        for _ in range(nth):
            world.store.before("create", count)
            world.store.before("replace", count)
        try:
            reencrypt(world, *ids)
        except SimulatedCrash:
            assert world.wrong() == []
            left[0] = 1000
            done = by_id(reencrypt(world, *ids))
            assert {r.outcome for r in done.values()} <= {Outcome.REWRAPPED, Outcome.CURRENT}
            assert world.wrong() == []
            live = {f"{b}.~{world.sidecar(b)['object']}" for b in ids}
            assert len(live) == len(ids)
            assert live <= set(contents(world))
        else:
            assert nth > 2 * len(ids) - 2
            return
    pytest.fail("no run passed clean")


def test_running_twice_changes_nothing(world: World) -> None:
    ids = plant_all(world)
    reencrypt(world, *ids)
    before = world.snapshot()
    assert {r.outcome for r in reencrypt(world, *ids).results} == {Outcome.CURRENT}
    assert world.snapshot() == before


def test_another_campaign_makes_new_data_keys_again(world: World) -> None:
    world.plant("managed", "a")
    reencrypt(world, "a")
    first = world.sidecar("a")["object"]
    assert by_id(reencrypt(world, "a", mark=b"the next"))["a"].outcome is Outcome.REWRAPPED
    assert world.sidecar("a")["object"] != first
    assert world.wrong() == []


def test_a_mark_says_nothing_of_another_blob_or_campaign() -> None:
    name = new_generation(MARK, "a")
    assert is_marked(MARK, "a", name)
    assert not is_marked(MARK, "b", name)
    assert not is_marked(b"another", "a", name)
    assert not is_marked(MARK, "a", None)
    assert new_generation(MARK, "a") != name


def test_the_shared_direct_key_opens_no_blob_any_more(world: World) -> None:
    ids = [world.plant("direct", f"d{n}") for n in range(3)]
    reencrypt(world, *ids)
    objects = world.snapshot()
    for blob_id in ids:
        sealed = objects[f"{blob_id}.~{world.sidecar(blob_id)['object']}"]
        with pytest.raises(ContentError):
            StreamV1().open(world.direct_key, sealed)
    keys = [world.kek.unwrap(world.reader.read(b).wrapped, {"blob_id": b}) for b in ids]
    assert all(a != b for n, a in enumerate(keys) for b in [*keys[n + 1 :], world.direct_key])


@pytest.mark.parametrize("step", STEPS[1:])
def test_a_writer_who_comes_in_between_wins(world: World, step: str) -> None:
    world.plant("wrapped", "a")
    report = reencrypt(world, "a", before=at(step, lambda: world.put("a", b"newer")))
    assert by_id(report)["a"].outcome is Outcome.REWRAPPED  # of what the writer wrote
    assert world.wrong() == []


def test_what_lost_to_a_writer_is_removed(world: World) -> None:
    world.plant("managed", "a")
    written: list[str] = []

    def lose() -> None:
        written.extend(contents(world))
        world.put("a", b"newer")

    reencrypt(world, "a", before=at("replace", lose))
    assert len(written) == 1
    assert written[0] not in world.snapshot()


def test_a_writer_who_always_comes_first_makes_a_conflict_and_keeps_all(world: World) -> None:
    world.plant("managed", "a")
    number = iter(range(100))

    def before(step: str) -> None:
        if step == "replace":
            world.put("a", f"edition {next(number)}".encode())

    assert by_id(reencrypt(world, "a", before=before))["a"].outcome is Outcome.CONFLICT
    assert world.wrong() == []


def test_a_lost_reply_to_the_sidecar_is_read_back(world: World) -> None:
    world.plant("managed", "a")
    world.store.lose_next_reply()
    assert by_id(reencrypt(world, "a"))["a"].outcome is Outcome.REWRAPPED
    assert world.wrong() == []


def test_a_content_whose_sidecar_names_it_after_all_is_never_removed(world: World) -> None:
    world.plant("managed", "a")
    reencrypt(world, "a")
    engine(world)._discard("a", world.sidecar("a")["object"])
    assert world.wrong() == []


@pytest.mark.parametrize("kind", ["wrapped", "managed"])
def test_a_swapped_sidecar_is_quarantined_and_not_laundered(world: World, kind: str) -> None:
    for blob_id in ("a", "b"):
        world.plant(kind, blob_id)
    a, b = world.raw("a"), world.raw("b")
    world.write_sidecar("a", b)
    world.write_sidecar("b", a)
    before = world.snapshot()
    assert {r.outcome for r in reencrypt(world, "a", "b").results} == {Outcome.QUARANTINED}
    assert world.snapshot() == before


def test_damage_after_the_first_record_is_quarantined_and_left_as_it_was(world: World) -> None:
    world.plant("direct", "a", b"x" * 20_000)
    name = world.layout.content_name("a")
    world.store._objects[name] = spoilt(world.store._objects[name])
    before = world.snapshot()
    result = by_id(reencrypt(world, "a"))["a"]
    assert (result.outcome, result.reason_code) == (Outcome.QUARANTINED, "content_does_not_open")
    assert world.snapshot() == before


def test_a_content_that_is_overwritten_while_it_is_read_is_read_again(world: World) -> None:
    world.plant("direct", "a", b"old" * 5_000)

    def overwrite() -> None:
        world.originals["a"] = b"new" * 5_000
        world.write_content("a", world.originals["a"], world.direct_key, "records-v1")

    world.store.before("create", overwrite)
    assert by_id(reencrypt(world, "a"))["a"].outcome is Outcome.REWRAPPED
    assert world.wrong() == []
    assert len(contents(world)) == 1


def test_a_store_that_spoils_the_new_content_stops_the_batch(world: World) -> None:
    ids = plant_all(world)
    before = world.snapshot()
    create = world.store.create
    world.store.create = lambda name, data: create(name, spoilt(data))  # type: ignore[method-assign]
    report = reencrypt(world, *ids)
    assert isinstance(report.interruption, ProofFailedError)
    assert {n: d for n, d in world.snapshot().items() if ".~" not in n} == before
    assert world.wrong() == []


def test_no_content_is_written_while_the_kms_is_away(world: World) -> None:
    ids = [world.plant("direct", f"d{n}") for n in range(3)]
    before = world.snapshot()
    world.kms.fail_next(UnavailableError("away", key=KEK))
    assert reencrypt(world, *ids).interruption is not None
    assert world.snapshot() == before


def test_a_store_that_takes_no_contents_interrupts_the_batch(world: World) -> None:
    ids = [world.plant("direct", f"d{n}") for n in range(12)]
    for _ in range(100):
        world.store.fail_next("create", StoreUnavailableError("full"))
    report = reencrypt(world, *ids)
    assert isinstance(report.interruption, StoreUnavailableError)
    assert world.wrong() == []


def test_a_dry_run_writes_nothing(world: World) -> None:
    ids = plant_all(world)
    before = world.snapshot()
    canary = replace(goal(world), opens_all=True)
    done = engine(world).dry_run(ids, canary)
    assert {r.outcome for r in done.results} == {Outcome.REWRAPPED}
    assert world.snapshot() == before


def test_a_dry_run_says_how_large_the_contents_are_where_it_is_to_measure_them(
    world: World,
) -> None:
    ids = plant_all(world)
    sizes = {blob_id: len(world.snapshot()[blob_id]) for blob_id in ids}
    done = replace(engine(world), measures=True).dry_run(ids, goal(world))
    assert {r.blob_id: r.content_bytes for r in done.results} == sizes


def test_a_large_blob_streams_in_memory_that_does_not_grow_with_it(
    tmp_path: Path, world: World
) -> None:
    store = FileStore(tmp_path)
    reader = SidecarReader(store, world.layout, world.reader.legacy_default)
    app = EncryptedBlobs(reader, world.keys)
    text = bytes(range(256)) * (BIG // 256)
    app.put("big", text * 3)
    engine_on_files = Reencrypter(reader, world.keys, "gcm-v1", world.pool)
    tracemalloc.start()
    try:
        report = engine_on_files.rewrap(["big"], goal(world))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert by_id(report)["big"].outcome is Outcome.REWRAPPED
    assert peak < 2 * BIG
    assert app.get("big") == text * 3


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_on_real_files_every_blob_opens(
    tmp_path: Path, world: World, step: str
) -> None:
    reader = SidecarReader(FileStore(tmp_path), world.layout, world.reader.legacy_default)
    app = EncryptedBlobs(reader, world.keys)
    texts = {f"t/{n}": bytes([n]) * 100_000 for n in range(4)}
    for blob_id, text in texts.items():
        app.put(blob_id, text)
    means = reader, world.keys, "gcm-v1", world.pool
    with pytest.raises(SimulatedCrash):
        Reencrypter(*means, at(step, crash)).rewrap(texts, goal(world))
    assert {blob_id: app.get(blob_id) for blob_id in texts} == texts
    report = Reencrypter(*means).rewrap(texts, goal(world))
    assert {r.outcome for r in report.results} == {Outcome.REWRAPPED}
    assert {blob_id: app.get(blob_id) for blob_id in texts} == texts
