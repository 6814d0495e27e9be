from pathlib import Path

import pytest

from keywrap.conditions import (
    ReadBackError,
    UnconditionalStoreError,
    require_conditional_writes,
)
from keywrap.filestore import FileStore
from keywrap.stores import (
    AlreadyExistsError,
    ChangedError,
    Store,
    Stored,
    StoreUnavailableError,
)
from keywrap.testing.stores import MemoryStore


class OverwritingStore(MemoryStore):
    """Takes every condition and ignores it, or one of the two."""

    def __init__(self, *, creates: bool, replaces: bool) -> None:
        super().__init__()
        self._ignores = (creates, replaces)

    def create(self, name: str, data: bytes) -> None:
        if not self._ignores[0]:
            super().create(name, data)
        self._objects[name] = data

    def replace(self, name: str, data: bytes, expected: Stored) -> None:
        if not self._ignores[1]:
            super().replace(name, data, expected)
        self._objects[name] = data


def test_a_store_that_compares_passes_and_its_object_stays_as_it_is(tmp_path: Path) -> None:
    stores: list[Store] = [MemoryStore(), FileStore(tmp_path)]
    for store in stores:
        store.create("mark", b"as it is")
        before = store.read("mark")
        require_conditional_writes(store, "mark")
        assert store.read("mark") == before


@pytest.mark.parametrize(("creates", "replaces"), [(True, False), (False, True), (True, True)])
def test_a_store_that_ignores_a_condition_is_refused(*, creates: bool, replaces: bool) -> None:
    store = OverwritingStore(creates=creates, replaces=replaces)
    store.create("mark", b"as it is")
    with pytest.raises(UnconditionalStoreError, match="ignores If-"):
        require_conditional_writes(store, "mark")
    assert store.read("mark").data == b"as it is"


def test_a_store_that_is_away_is_not_called_unsafe() -> None:
    store = MemoryStore()
    store.create("mark", b"as it is")
    store.fail_next("create", StoreUnavailableError("away"))
    with pytest.raises(StoreUnavailableError) as away:
        require_conditional_writes(store, "mark")
    assert not isinstance(away.value, UnconditionalStoreError)


class _ExistsError(ReadBackError, AlreadyExistsError):
    pass


class _ChangedError(ReadBackError, ChangedError):
    pass


@pytest.mark.parametrize(
    ("operation", "error"), [("create", _ExistsError("found")), ("replace", _ChangedError("found"))]
)
def test_what_was_only_found_out_by_reading_is_no_refusal(
    operation: str, error: ReadBackError
) -> None:
    store = MemoryStore()
    store.create("mark", b"as it is")
    store.fail_next(operation, error)
    with pytest.raises(StoreUnavailableError, match="not known") as unproved:
        require_conditional_writes(store, "mark")
    assert not isinstance(unproved.value, UnconditionalStoreError)
