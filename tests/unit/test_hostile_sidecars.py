"""Every malformed sidecar, through the whole engine, on stores in memory and of files."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from keywrap.blobs import EncryptedBlobs
from keywrap.filestore import FileStore
from keywrap.reading import QuarantineError
from keywrap.rewrapping import Outcome, Prove, Selection
from tests.hostiles import WatchedStore, besiege, in_memory, plant_healthy, plant_shapes
from tests.shapes import MALFORMED, NAMELESS, NO_DPAPI, UNLISTED
from tests.worlds import World, by_id

UNUSABLE = (*MALFORMED, *UNLISTED, *NO_DPAPI)


@pytest.mark.parametrize("selection", [Selection.LEGACY, Selection.MANAGED])
@pytest.mark.parametrize("prove", Prove)
def test_every_unusable_sidecar_is_quarantined_with_its_reason_while_its_neighbours_move(
    selection: Selection, prove: Prove
) -> None:
    besiege(World(), UNUSABLE, selection, prove, in_memory)


@pytest.mark.parametrize("selection", [Selection.LEGACY, Selection.MANAGED])
def test_where_no_key_is_the_default_a_sidecar_that_names_none_is_quarantined_too(
    selection: Selection,
) -> None:
    world = World(legacy_default=False)
    besiege(world, (*UNUSABLE, *NAMELESS), selection, Prove.ALL, in_memory)


@pytest.mark.parametrize("selection", [Selection.LEGACY, Selection.MANAGED])
def test_every_unusable_sidecar_is_left_alone_as_a_file_too(
    selection: Selection, tmp_path: Path
) -> None:
    def fill(objects: Mapping[str, bytes]) -> FileStore:
        for name, data in objects.items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        return FileStore(tmp_path)

    besiege(World(), UNUSABLE, selection, Prove.ALL, fill)


def test_a_sidecar_that_names_no_key_is_taken_for_legacy_only_where_the_content_opens() -> None:
    world = World()
    bad = plant_shapes(world, NAMELESS, "managed")
    before = world.snapshot()
    results = by_id(world.migrate(*bad))
    assert {r.outcome for r in results.values()} == {Outcome.QUARANTINED}
    reasons = {r.reason_code.partition("_")[0] for r in results.values()}
    assert reasons == {"content", "direct", "key"}, "no blob is moved without its content's word"
    assert world.snapshot() == before


def test_a_sidecar_that_names_no_key_is_none_of_a_rotations_business() -> None:
    world = World()
    legacy = tuple(shape for shape in NAMELESS if shape.name != "DPAPI without a wrap")
    bad = plant_shapes(world, legacy, "managed")
    before = world.snapshot()
    results = by_id(world.rotate(*bad))
    assert {(r.outcome, r.reason_code) for r in results.values()} == {
        (Outcome.EXCLUDED, "not_managed")
    }
    assert world.snapshot() == before


def test_a_dry_run_foresees_every_refusal() -> None:
    world = World()
    bad = plant_shapes(world, UNUSABLE, "wrapped")
    before = world.snapshot()
    goal = world.goal(Selection.LEGACY, Prove.ALL)
    results = by_id(world.rewrapper().dry_run(bad, goal))
    assert {b: r.reason_code for b, r in results.items()} == {
        b: s.reason_code for b, s in bad.items()
    }
    assert world.snapshot() == before


def test_verifying_names_every_unusable_sidecar_and_opens_the_others() -> None:
    world = World()
    bad = plant_shapes(world, UNUSABLE, "wrapped")
    good = plant_healthy(world, Selection.LEGACY)
    results = by_id(world.verifier().verify([*bad, *good]))
    assert {b: results[b].reason_code for b in bad} == {b: s.reason_code for b, s in bad.items()}
    assert {results[b].outcome for b in good} == {Outcome.CURRENT}


def test_an_application_neither_reads_nor_replaces_a_malformed_sidecar() -> None:
    world = World()
    bad = plant_shapes(world, MALFORMED, "wrapped")
    watched = WatchedStore(world.aside)
    app = EncryptedBlobs(replace(world.reader, store=watched), world.keys)
    sidecars = {world.layout.sidecar_name(b) for b in bad}
    before = {name: world.store._objects[name] for name in sidecars}
    for blob_id, shape in bad.items():
        with pytest.raises(QuarantineError) as caught:
            app.get(blob_id)
        assert caught.value.reason_code == shape.reason_code
        with pytest.raises(QuarantineError):
            app.put(blob_id, b"new")
    assert not sidecars & set(watched.tried)
    assert {name: world.store._objects[name] for name in sidecars} == before
