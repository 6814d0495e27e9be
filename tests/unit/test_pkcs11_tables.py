import sys
from pathlib import Path
from typing import Any

import pytest

from keywrap.keys import KeyVersion
from keywrap.providers.pkcs11_uri import SCHEME, key_path, read_path
from keywrap.tables import pkcs11 as table
from keywrap.tables.common import ConfigError
from keywrap.tables.keys import read_keys

PATH = "token=hsm-1;object=blob-kek"
LIBRARY = {"module": "/usr/lib/softhsm/libsofthsm2.so", "pin_env": "HSM_PIN"}


@pytest.fixture
def module(tmp_path: Path) -> Path:
    file = tmp_path / "module.so"
    file.write_text("opened by nobody here")
    return file


@pytest.mark.parametrize(
    ("token", "family"),
    [("hsm-1", "blob-kek"), ("Prüf HSM", "blob kek/ä"), ("a;object=b", "c%2F"), ("~._-", "v1:v2")],
)
def test_a_token_and_a_family_make_a_key_id_that_names_them_again(token: str, family: str) -> None:
    path = key_path(token, family)
    assert read_path(path) == (token, family)
    named = KeyVersion.parse(f"{SCHEME}{path}?version=3")
    assert named == KeyVersion(f"pkcs11:{path}", "3")
    assert named.provider == "pkcs11"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "hsm-1",
        "token=hsm-1",
        "object=blob-kek;token=hsm-1",
        "token=;object=blob-kek",
        "token=hsm-1;object=",
        "token=hsm 1;object=blob-kek",
        "token=hsm%2d1;object=blob-kek",
        "token=hsm%2D1;object=blob-kek",
        "token=%c3%a4;object=blob-kek",
        "token=%FF;object=blob-kek",
        "token=hsm-1;object=blob-kek;type=secret-key",
        "token=hsm-1;object=a%0Ab",
        "token=%20hsm;object=blob-kek",
        f"token={'t' * 33};object=blob-kek",
        f"token=hsm-1;object={'o' * 129}",
    ],
)
def test_a_path_that_is_not_the_one_name_of_a_key_is_refused(path: str) -> None:
    with pytest.raises(ConfigError):
        table.read(path, LIBRARY)


def test_a_table_is_read_with_what_it_leaves_out() -> None:
    read = table.read(PATH, LIBRARY)
    assert (read.mechanism, read.check_values, read.pin_file) == ("aes-gcm", {}, "")
    full = {**LIBRARY, "mechanism": "aes-kw", "check_values": {"1": "8df8c8", "12": "000000"}}
    assert table.read(PATH, full).check_values == {"1": "8df8c8", "12": "000000"}


@pytest.mark.parametrize(
    "changed",
    [
        {"module": "libsofthsm2.so"},
        {"module": "/a\0b"},
        {"module": 1},
        {"pin_env": ""},
        {"pin_file": "/run/pin"},
        {"pin": "1234"},
        {"mechanism": "aes-cbc"},
        {"check_values": {"1": "8DF8C8"}},
        {"check_values": {"1": "8df8"}},
        {"check_values": {"v1": "8df8c8"}},
        {"check_values": {"01": "8df8c8"}},
    ],
)
def test_a_table_that_makes_no_sense_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as refused:
        table.read(PATH, LIBRARY | changed)
    assert "1234" not in str(refused.value)


def test_a_key_in_a_token_is_listed_and_opened_without_touching_it(module: Path) -> None:
    keys = read_keys({"pkcs11": {PATH: {**LIBRARY, "module": str(module)}}})
    assert keys.uris() == (f"pkcs11:{PATH}",)
    provider = keys.open(f"pkcs11:{PATH}", {"HSM_PIN": "1234"})
    assert (provider.key, provider.requests) == (f"pkcs11:{PATH}", 0)


@pytest.mark.parametrize(
    ("mechanism", "kind"), [("aes-gcm", "Pkcs11Provider"), ("aes-kw", "Pkcs11KeyWrapProvider")]
)
def test_the_mechanism_decides_whether_wraps_move_inside_the_token(
    module: Path, mechanism: str, kind: str
) -> None:
    read = table.read(PATH, {**LIBRARY, "module": str(module), "mechanism": mechanism})
    provider = table.open_provider(PATH, {PATH: read}, {"HSM_PIN": "1234"})
    assert type(provider).__name__ == kind
    assert hasattr(provider, "rewrap_many") == (mechanism == "aes-kw")


def test_a_missing_extra_is_named(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = table.read(PATH, {**LIBRARY, "module": str(module)})
    for name in [name for name in sys.modules if name.startswith("keywrap.providers.pkcs11")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("pkcs11", "pkcs11_token"):
        monkeypatch.delattr(f"keywrap.providers.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    with pytest.raises(ConfigError) as refused:
        table.open_provider(PATH, {PATH: read}, {"HSM_PIN": "1234"})
    assert refused.value.next_command == "pip install 'keywrap[pkcs11]'"
    assert "keywrap[pkcs11]" in str(refused.value)


def test_a_missing_module_or_pin_is_refused_at_the_start(module: Path, tmp_path: Path) -> None:
    right = {**LIBRARY, "module": str(module)}
    filed = {"module": str(module), "pin_file": str(tmp_path / "pin")}
    for changed, environ, place in (
        ({**right, "module": str(tmp_path / "none.so")}, {"HSM_PIN": "1234"}, "module"),
        (right, {}, "pin_env"),
        (filed, {}, "pin_file"),
    ):
        read = table.read(PATH, changed)
        with pytest.raises(ConfigError) as refused:
            table.open_provider(PATH, {PATH: read}, environ)
        assert refused.value.place.endswith(place)


def test_a_pin_file_is_read_at_each_login_and_its_line_end_does_not_count(
    module: Path, tmp_path: Path
) -> None:
    file = tmp_path / "pin"
    file.write_bytes(b"12 34 \r\n")
    read = table.read(PATH, {"module": str(module), "pin_file": str(file)})
    provider: Any = table.open_provider(PATH, {PATH: read}, {})
    pin = provider._token._address.pin
    assert pin() == "12 34 "
    file.write_bytes(b"new")
    assert pin() == "new"
    for bad in (b"", b"\xff"):
        file.write_bytes(bad)
        with pytest.raises(ValueError, match="pin"):
            pin()


def test_two_keys_of_one_token_are_reached_in_one_way(module: Path) -> None:
    right = {**LIBRARY, "module": str(module)}
    other = "token=hsm-1;object=other-kek"
    tables = {
        PATH: table.read(PATH, right),
        other: table.read(other, {**right, "pin_env": "OTHER_PIN"}),
        "token=hsm-2;object=blob-kek": table.read(
            "token=hsm-2;object=blob-kek", {**right, "pin_env": "PIN_2"}
        ),
    }
    environ = {"HSM_PIN": "1234", "OTHER_PIN": "4321", "PIN_2": "1111"}
    with pytest.raises(ConfigError, match="same token"):
        table.open_provider(PATH, tables, environ)
    tables[other] = table.read(other, {**right, "mechanism": "aes-kw"})
    table.open_provider(PATH, tables, environ)
