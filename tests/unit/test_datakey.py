import copy
import pickle

import pytest

from keywrap.datakey import DataKey

SECRET = bytes(range(32))


@pytest.mark.parametrize("size", [16, 24, 32])
def test_a_data_key_has_the_length_of_an_aes_key(size: int) -> None:
    assert DataKey(bytes(size)).reveal() == bytes(size)


@pytest.mark.parametrize("size", [0, 15, 17, 31, 33, 64])
def test_other_lengths_are_refused_without_showing_the_value(size: int) -> None:
    value = b"\xabsecret"[:1] * size
    with pytest.raises(ValueError, match="16, 24 or 32 bytes") as refused:
        DataKey(value)
    assert "xab" not in str(refused.value)


def test_a_data_key_shows_itself_nowhere() -> None:
    data_key = DataKey(SECRET)
    for shown in (repr(data_key), str(data_key), f"{data_key}", f"{[data_key]!r}"):
        assert "hidden" in shown
        assert SECRET.hex() not in shown
        assert repr(SECRET)[2:20] not in shown


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_data_key_is_never_pickled(protocol: int) -> None:
    with pytest.raises(TypeError, match="never serialised"):
        pickle.dumps({"nested": [DataKey(SECRET)]}, protocol)


def test_a_data_key_is_never_copied() -> None:
    with pytest.raises(TypeError):
        copy.deepcopy(DataKey(SECRET))


def test_data_keys_are_equal_by_value_and_have_no_hash() -> None:
    assert DataKey(SECRET) == DataKey(SECRET)
    assert DataKey(SECRET) != DataKey(bytes(32))
    assert DataKey(SECRET) != SECRET
    with pytest.raises(TypeError, match="unhashable"):
        {DataKey(SECRET): 1}


def test_a_data_key_keeps_its_own_copy_of_the_bytes() -> None:
    buffer = bytearray(SECRET)
    data_key = DataKey(buffer)  # type: ignore[arg-type]  # what a C library hands out
    buffer[0] ^= 1
    assert data_key.reveal() == SECRET


def test_every_generated_key_is_a_new_aes_256_key() -> None:
    keys = {DataKey.generate().reveal() for _ in range(50)}
    assert len(keys) == 50
    assert {len(key) for key in keys} == {32}
