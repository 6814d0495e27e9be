from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keywrap.datakey import DataKey
from keywrap.providers.env import EnvKeyProvider, parse_key
from keywrap.providers.env_schemes import UNAUTHENTICATED
from keywrap.providers.passphrase import KdfError, Pbkdf2Sha256, ScryptKdf
from keywrap.tables import env as table
from keywrap.tables.common import ConfigError

KEK = bytes(range(32))


def test_pbkdf2_is_that_of_its_published_vectors() -> None:
    # RFC 7914, section 11.
    first = Pbkdf2Sha256(b"salt", 1, 32).derive(b"passwd")
    assert (
        first.reveal().hex() == "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc"
    )
    many = Pbkdf2Sha256(b"NaCl", 80000, 32).derive(b"Password")
    assert many.reveal().hex() == "4ddcd8f60b98be21830cee5ef22701f9641a4418d04c0414aeff08876b34ab56"


def test_scrypt_is_that_of_its_published_vectors() -> None:
    # RFC 7914, section 12; the first 32 of their 64 bytes, since the last step is PBKDF2.
    empty = ScryptKdf(b"", 16, 1, 1, 32).derive(b"")
    assert (
        empty.reveal().hex() == "77d6576238657b203b19ca42c18a0497f16b4844e3074ae8dfdffa3fede21442"
    )
    salted = ScryptKdf(b"NaCl", 1024, 8, 16, 32).derive(b"password")
    assert salted.reveal().hex() == (
        "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162"
    )


@pytest.mark.parametrize(
    ("make", "parameter"),
    [
        (lambda: Pbkdf2Sha256(b"", 0, 32), "iterations"),
        (lambda: Pbkdf2Sha256(b"", 100_000_001, 32), "iterations"),
        (lambda: Pbkdf2Sha256(b"", 1, 33), "key_bytes"),
        (lambda: ScryptKdf(b"", 16, 1, 1, 0), "key_bytes"),
        (lambda: ScryptKdf(b"", 1, 8, 1, 32), "n"),
        (lambda: ScryptKdf(b"", 3, 8, 1, 32), "n"),
        (lambda: ScryptKdf(b"", 0, 8, 1, 32), "n"),
        (lambda: ScryptKdf(b"", -4, 8, 1, 32), "n"),
        (lambda: ScryptKdf(b"", 2**21, 8, 1, 32), "n"),
        (lambda: ScryptKdf(b"", 2**16, 1, 1, 32), "n"),
        (lambda: ScryptKdf(b"", 16, 0, 1, 32), "r"),
        (lambda: ScryptKdf(b"", 16, 8, 0, 32), "p"),
        (lambda: ScryptKdf(b"", 16, 8, 65, 32), "p"),
    ],
)
def test_a_parameter_of_a_derivation_that_makes_no_sense_is_refused(
    make: Callable[[], object], parameter: str
) -> None:
    with pytest.raises(KdfError) as refused:
        make()
    assert refused.value.parameter == parameter


def test_every_parameter_in_bounds_derives() -> None:
    for n in (2, 2**15):
        assert ScryptKdf(b"", n, 1, 1, 16).derive(b"x")


PBKDF2 = {
    "encoding": "passphrase",
    "scheme": "fernet",
    "kdf": "pbkdf2-sha256",
    "salt_hex": "00ff",
    "iterations": 1000,
    "key_bytes": 32,
}
SCRYPT = {
    "encoding": "passphrase",
    "scheme": "aes-gcm",
    "kdf": "scrypt",
    "salt_hex": "",
    "n": 16,
    "r": 8,
    "p": 1,
    "key_bytes": 16,
}


@pytest.mark.parametrize(
    ("written", "key"),
    [
        (PBKDF2, Pbkdf2Sha256(b"\x00\xff", 1000, 32).derive(b"correct horse")),
        (SCRYPT, ScryptKdf(b"", 16, 8, 1, 16).derive(b"correct horse")),
        (
            {"encoding": "sha256-of-text", "scheme": "aes-kw"},
            parse_key(b"correct horse", "sha256-of-text"),
        ),
    ],
)
@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_key_table_opens_what_was_wrapped_under_the_key_that_it_describes(
    tmp_path: Path, written: dict[str, Any], key: DataKey, ending: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(f"correct horse{ending}".encode())
    read = table.read("OLD", written | {"file": str(secret)})
    provider = table.open_provider("OLD", {"OLD": read}, {})
    theirs = EnvKeyProvider("OLD", key, written["scheme"])
    assert provider.unwrap(theirs.wrap(DataKey(KEK), {}), {}) == DataKey(KEK)


def test_a_key_table_takes_additional_data() -> None:
    read = table.read("K", {"encoding": "hex", "scheme": "aes-gcm", "aad": "{blob_id}"})
    provider = table.open_provider("K", {"K": read}, {"K": KEK.hex()})
    assert provider.binds_context


@pytest.mark.parametrize(
    ("written", "place", "says"),
    [
        *(
            ({k: v for k, v in whole.items() if k != name}, name, "expected with kdf")
            for whole, names in (
                (PBKDF2, ("salt_hex", "iterations", "key_bytes")),
                (SCRYPT, ("salt_hex", "n", "r", "p", "key_bytes")),
            )
            for name in names
        ),
        (PBKDF2 | {"n": 16}, "n", "belongs to no"),
        (SCRYPT | {"iterations": 16}, "iterations", "belongs to no"),
        (PBKDF2 | {"encoding": "hex"}, "kdf", "passphrase"),
        ({"encoding": "passphrase", "scheme": "aes-gcm"}, "kdf", "passphrase"),
        ({"encoding": "hex", "scheme": "aes-gcm", "salt_hex": "00"}, "salt_hex", "belongs to no"),
        (PBKDF2 | {"kdf": "argon2id"}, "kdf", "one of pbkdf2-sha256, scrypt"),
        (PBKDF2 | {"scheme": ["aes-cbc"]}, "scheme", "expected one of aes-gcm, "),
        (PBKDF2 | {"salt_hex": "0"}, "salt_hex", "hexadecimal"),
        (PBKDF2 | {"salt_hex": "zz"}, "salt_hex", "hexadecimal"),
        (PBKDF2 | {"salt_hex": "é"}, "salt_hex", "hexadecimal"),
        (PBKDF2 | {"iterations": 0}, "iterations", "expected 1 to"),
        (PBKDF2 | {"iterations": "1000"}, "iterations", "int"),
        (PBKDF2 | {"key_bytes": 16}, "key_bytes", "Fernet key has 32"),
        (SCRYPT | {"n": 2**30}, "n", "more than 1 GiB"),
        (SCRYPT | {"aad": "{x}"}, "aad", "at most one"),
        (PBKDF2 | {"aad": "{blob_id}"}, "aad", "takes no additional data"),
    ],
)
def test_a_key_table_that_leaves_a_doubt_is_refused(
    written: dict[str, Any], place: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        table.read("OLD", written)
    assert refused.value.place == f"[keys.env.OLD] {place}"


@pytest.mark.parametrize("scheme", [*sorted(UNAUTHENTICATED), "AES-256-CBC", "aes128-ctr"])
def test_a_scheme_without_authentication_is_refused_with_the_reason(scheme: str) -> None:
    with pytest.raises(ConfigError, match="has no authentication") as refused:
        table.read("OLD", {"encoding": "hex", "scheme": scheme})
    assert refused.value.place == "[keys.env.OLD] scheme"
    assert "aes-gcm" in refused.value.next_command


def test_a_fernet_key_of_another_length_is_a_mistake_of_the_configuration() -> None:
    read = table.read("OLD", {"encoding": "hex", "scheme": "fernet"})
    with pytest.raises(ConfigError, match="a Fernet key has 32 bytes, not 16"):
        table.open_provider("OLD", {"OLD": read}, {"OLD": KEK[:16].hex()})
