"""Malformed sidecars in S3, and names and links that lead elsewhere, through the whole engine."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from keywrap.filestore import FileStore
from keywrap.objectstore import ObjectStore
from keywrap.rewrapping import Outcome, Prove, Report, Selection
from tests.hostiles import WatchedStore, assert_moved, besiege
from tests.shapes import MALFORMED, UNLISTED
from tests.worlds import World, by_id

NAMES = {
    "": "blob_id_empty",
    "..": "blob_id_traversal",
    "../good": "blob_id_traversal",
    "a/../../good": "blob_id_traversal",
    "a/..": "blob_id_traversal",
    "./good": "blob_id_traversal",
    "/etc/passwd": "blob_id_traversal",
    "a//b": "blob_id_traversal",
    "good/": "blob_id_traversal",
    "..\\good": "blob_id_not_portable",
    "C:\\good": "blob_id_not_portable",
    "good\0": "blob_id_control_character",
    "good\n": "blob_id_control_character",
    "good\r\nINFO all is well": "blob_id_control_character",
    "good\x1b[2K": "blob_id_control_character",
    "good\x7f": "blob_id_control_character",
    "good\u2028": "blob_id_control_character",
    "\u202edoog": "blob_id_control_character",
    "good\ud800": "blob_id_not_unicode",
    "x" * 1025: "blob_id_too_long",
    "ß" * 513: "blob_id_too_long",
    "good.sidecar.json": "blob_id_ambiguous",
    ".rewrap/control.json": "blob_id_ambiguous",
    "good.~" + "0" * 32: "blob_id_ambiguous",
}


def _files(root: Path, objects: Mapping[str, bytes]) -> FileStore:
    for name, data in objects.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return FileStore(root)


def _migrate(world: World, store: object, *blob_ids: str) -> Report:
    reader = replace(world.reader, store=store)
    goal = world.goal(Selection.LEGACY, Prove.ALL)
    return replace(world.rewrapper(), reader=reader).rewrap(blob_ids, goal)


@pytest.mark.parametrize("selection", [Selection.LEGACY, Selection.MANAGED])
def test_unusable_sidecars_are_left_alone_in_a_bucket_too(
    selection: Selection, s3_store: ObjectStore
) -> None:
    def fill(objects: Mapping[str, bytes]) -> ObjectStore:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(s3_store.create, objects, objects.values()))
        return s3_store

    besiege(World(), (*MALFORMED, *UNLISTED)[::4], selection, Prove.ALL, fill)


def test_a_name_that_could_lead_elsewhere_is_put_aside_and_leads_nowhere(
    tmp_path: Path,
) -> None:
    world = World()
    world.plant("wrapped", "good")
    asked: list[str] = []

    class Asked(WatchedStore):
        def read(self, name: str, **named: int | None) -> object:
            asked.append(name)
            return super().read(name, **named)

    store = _files(tmp_path / "store", world.snapshot())
    (tmp_path / "good").write_bytes(b"outside")
    watched = Asked(store)
    results = by_id(_migrate(world, watched, *NAMES, "good"))
    assert results.pop("good").outcome is Outcome.REWRAPPED
    assert {r.outcome for r in results.values()} == {Outcome.QUARANTINED}
    assert {b: r.reason_code for b, r in results.items()} == NAMES
    assert set(watched.tried) == {"good.sidecar.json"}
    assert {name.removesuffix(".sidecar.json") for name in asked} == {
        "good",
        "good.sidecar.json",  # their contents' names are ambiguous, not their sidecars'
        "good.~" + "0" * 32,
    }
    assert_moved(world, store, ["good"])


def test_links_pipes_and_folders_in_the_place_of_sidecars_are_put_aside_as_they_are(
    tmp_path: Path,
) -> None:
    world = World()
    ids = ["relative", "absolute", "dangling", "pipe", "folder", "device"]
    for blob_id in (*ids, "victim", "good"):
        world.plant("wrapped", blob_id)
    root, outside = tmp_path / "store", tmp_path / "outside.json"
    store = _files(root, world.snapshot())
    outside.write_bytes(world.raw("absolute"))
    sidecars = {blob_id: root / f"{blob_id}.sidecar.json" for blob_id in ids}
    for path in sidecars.values():
        path.unlink()
    sidecars["relative"].symlink_to("victim.sidecar.json")
    sidecars["absolute"].symlink_to(outside)
    sidecars["dangling"].symlink_to("nowhere.json")
    sidecars["device"].symlink_to("/dev/zero")
    os.mkfifo(sidecars["pipe"])
    sidecars["folder"].mkdir()
    links = {b: path.lstat().st_ino for b, path in sidecars.items()}
    results = by_id(_migrate(world, store, *ids, "victim", "good"))
    assert {(results[b].outcome, results[b].reason_code) for b in ids} == {
        (Outcome.QUARANTINED, "sidecar_not_an_object")
    }
    assert_moved(world, store, ["victim", "good"])
    assert {b: path.lstat().st_ino for b, path in sidecars.items()} == links
    assert outside.read_bytes() == world.raw("absolute")


def test_a_linked_folder_or_content_leads_nowhere(tmp_path: Path) -> None:
    world = World()
    for blob_id in ("real/a", "content", "good"):
        world.plant("wrapped", blob_id)
    root = tmp_path / "store"
    store = _files(root, world.snapshot())
    (root / "linked").symlink_to("real")
    (root / "content").rename(tmp_path / "content")
    (root / "content").symlink_to(tmp_path / "content")
    results = by_id(_migrate(world, store, "linked/a", "content", "good"))
    assert {b: (r.outcome, r.reason_code) for b, r in results.items()} == {
        "linked/a": (Outcome.QUARANTINED, "sidecar_not_an_object"),
        "content": (Outcome.QUARANTINED, "not_an_object"),
        "good": (Outcome.REWRAPPED, ""),
    }
    assert (root / "content.sidecar.json").read_bytes() == world.raw("content")


def test_a_sidecar_that_is_one_file_with_anothers_is_parted_from_it_and_only_its_own_blob_moves(
    tmp_path: Path,
) -> None:
    world = World()
    for blob_id in ("a", "b"):
        world.plant("wrapped", blob_id)
    root = tmp_path / "store"
    store = _files(root, world.snapshot())
    (root / "b.sidecar.json").unlink()
    os.link(root / "a.sidecar.json", root / "b.sidecar.json")
    results = by_id(_migrate(world, store, "a", "b"))
    assert results["a"].outcome is Outcome.REWRAPPED
    assert results["b"].reason_code == "content_does_not_open"
    assert (root / "b.sidecar.json").read_bytes() == world.raw("a"), "as it was"
    assert_moved(world, store, ["a"])
