import pytest

from keywrap.layout import Layout
from keywrap.scan import Listed, part_of, scan
from keywrap.stores import StoreUnavailableError
from keywrap.testing.stores import MemoryStore

ADOPTER = Layout(".blob", ".blob.meta")


def store_of(*names: str) -> MemoryStore:
    store = MemoryStore()
    for name in names:
        store.create(name, b"")
    return store


def test_content_and_sidecar_are_one_blob() -> None:
    store = store_of("a.blob", "a.blob.meta", "b.blob", "c.blob.meta", "readme.txt")
    assert sorted(scan(store, ADOPTER), key=lambda listed: listed.blob_id) == [
        Listed("a", has_content=True, has_sidecar=True),
        Listed("b", has_content=True, has_sidecar=False),
        Listed("c", has_content=False, has_sidecar=True),
    ]


def test_the_default_layout_tells_the_two_apart() -> None:
    store = store_of("a", "a.sidecar.json", "b")
    found = {listed.blob_id: listed for listed in scan(store, Layout())}
    assert found == {"a": Listed("a", True, True), "b": Listed("b", True, False)}  # noqa: FBT003


def test_other_generations_and_the_stores_own_corner_are_no_blobs() -> None:
    store = store_of("a", f"a.~{'0' * 32}", ".rewrap/control.json")
    assert [listed.blob_id for listed in scan(store, Layout())] == ["a"]
    assert list(scan(store, Layout(), prefix=".rewrap/")) == []


def test_the_parts_share_the_blobs_out_completely() -> None:
    ids = {f"tenant {n % 7}/größe-{n}" for n in range(500)}
    store = store_of(*(name for i in ids for name in (f"{i}.blob", f"{i}.blob.meta")))
    parts = [[listed.blob_id for listed in scan(store, ADOPTER, part=n, parts=4)] for n in range(4)]
    assert sorted(blob_id for part in parts for blob_id in part) == sorted(ids)
    assert all(len(part) > 80 for part in parts)


def test_a_blob_stays_in_its_part_from_release_to_release() -> None:
    assert [part_of(i, 16) for i in ("a", "tenants/7/invoice.pdf", "größe", "\udcff")] == [
        3,
        5,
        9,
        7,
    ]


def test_a_prefix_is_one_of_blob_ids_not_of_names() -> None:
    store = store_of("a.blob", "a.blob.meta", "a.blob2.blob", "b.blob")
    assert [listed.blob_id for listed in scan(store, ADOPTER, prefix="a")] == ["a", "a.blob2"]
    assert [listed.blob_id for listed in scan(store, ADOPTER, prefix="a.blob")] == ["a.blob2"]


def test_a_name_listed_twice_is_one_blob() -> None:
    store = store_of("a.blob", "a.blob.meta", "b.blob")
    store.names = lambda _="": iter(  # type: ignore[method-assign]
        ["a.blob", "b.blob", "a.blob", "a.blob.meta", "a.blob.meta", "b.blob", "a.blob"]
    )
    assert [listed.blob_id for listed in scan(store, ADOPTER)] == ["a", "b"]


def test_an_unsafe_name_is_listed_rather_than_skipped() -> None:
    store = store_of("..\\xff.blob", ".blob", "a/../b.blob")
    assert {listed.blob_id for listed in scan(store, ADOPTER)} == {"..\\xff", "", "a/../b"}


@pytest.mark.parametrize(("part", "parts"), [(-1, 2), (2, 2), (0, 0), (0, -1)])
def test_a_part_that_is_none_is_refused_at_once(part: int, parts: int) -> None:
    with pytest.raises(ValueError, match="no part"):
        scan(MemoryStore(), Layout(), part=part, parts=parts)


def test_a_store_that_stops_answering_is_no_empty_store() -> None:
    store = store_of("a")
    store.fail_next("names", StoreUnavailableError("away"))
    with pytest.raises(StoreUnavailableError):
        list(scan(store, Layout()))
