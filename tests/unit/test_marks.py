from keywrap.testing.stores import MemoryStore
from tasks.marks import MARK, _put_mark


def test_another_ledgers_mark_is_left_as_it_is_even_where_a_store_ignores_conditions() -> None:
    class Careless(MemoryStore):
        def create(self, name: str, data: bytes) -> None:
            self._objects[name] = data

    store = Careless()
    store.create(MARK, b"0" * 32)
    assert _put_mark(store) == "0" * 32
    assert store.read(MARK).data == b"0" * 32
