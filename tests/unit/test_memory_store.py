import pytest

from keywrap.stores import ChangedError, StoreUnavailableError
from keywrap.testing.stores import MemoryStore, StoreConformance


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()

    def test_a_failure_comes_once_and_does_nothing(self, store: MemoryStore) -> None:
        store.create("a", b"1")
        read = store.read("a")
        store.fail_next("replace", StoreUnavailableError("the disk is on fire"))
        with pytest.raises(StoreUnavailableError, match="on fire"):
            store.replace("a", b"2", read)
        assert store.read("a").data == b"1"
        store.replace("a", b"2", read)
        assert store.read("a").data == b"2"

    def test_a_lost_reply_leaves_the_change_made(self, store: MemoryStore) -> None:
        store.create("a", b"1")
        store.lose_next_reply()
        with pytest.raises(StoreUnavailableError):
            store.replace("a", b"2", store.read("a"))
        assert store.read("a").data == b"2"
        store.replace("a", b"3", store.read("a"))

    def test_a_lost_reply_waits_for_a_change_that_is_made(self, store: MemoryStore) -> None:
        store.create("a", b"1")
        old = store.read("a")
        store.replace("a", b"2", old)
        store.lose_next_reply()
        with pytest.raises(ChangedError):
            store.replace("a", b"3", old)
        with pytest.raises(StoreUnavailableError):
            store.replace("a", b"3", store.read("a"))

    def test_a_concurrent_writer_acts_between_read_and_replace(self, store: MemoryStore) -> None:
        store.create("a", b"1")
        read = store.read("a")
        store.before("replace", lambda: store.replace("a", b"theirs", read))
        with pytest.raises(ChangedError):
            store.replace("a", b"ours", read)
        assert store.read("a").data == b"theirs"

    def test_only_writes_that_were_made_are_counted(self, store: MemoryStore) -> None:
        store.create("a", b"1")
        read = store.read("a")
        store.replace("a", b"2", read)
        with pytest.raises(ChangedError):
            store.replace("a", b"3", read)
        store.delete("a")
        assert store.writes == 2

    def test_the_stores_own_corner_is_listed_only_when_asked_for(self, store: MemoryStore) -> None:
        store.create(".rewrap/control.json", b"{}")
        store.create("a", b"")
        assert list(store.names()) == ["a"]
        assert list(store.names(".rewrap/")) == [".rewrap/control.json"]
