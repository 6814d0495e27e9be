import base64
import os
import struct
import uuid
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from keywrap.dpapi import credentials
from keywrap.dpapi.credentials import Credential, CredentialError
from keywrap.dpapi.crypto import SUITES, Suite
from keywrap.dpapi.masterkey import DomainBlock, MasterKeyFile, MasterKeyFileError
from keywrap.dpapi.secret import MasterKey
from keywrap.testing.dpapi import TDES_SHA1, make_master_key_file

SID = "S-1-5-21-1111111111-2222222222-3333333333-1001"
GUID = "f0d2cd86-19d3-4c75-8d0a-e938c5ff55a8"
KEY = bytes(range(64))
PREKEY = bytes(20)
SYSTEM = b"\1\0\0\0" + bytes(range(20)) + bytes(range(20, 40))
DOMAIN = rsa.generate_private_key(65537, 2048)
BY_NAME = {"argvalues": SUITES, "ids": [suite.name for suite in SUITES]}


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, password: bytes = b"") -> bytes:
    protection = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)


def pvk(key: rsa.RSAPrivateKey) -> bytes:
    """Write a key as mimikatz does: a PVK header, then a PRIVATEKEYBLOB."""
    n = key.private_numbers()
    half = key.key_size // 16
    blob = bytes.fromhex("0702000000a40000") + b"RSA2"
    blob += struct.pack("<II", key.key_size, n.public_numbers.e)
    blob += n.public_numbers.n.to_bytes(2 * half, "little")
    for value in (n.p, n.q, n.dmp1, n.dmq1, n.iqmp):
        blob += value.to_bytes(half, "little")
    blob += n.d.to_bytes(2 * half, "little")
    return struct.pack("<6I", 0xB0B5F11E, 0, 1, 0, 0, len(blob)) + blob


CREDENTIALS: dict[str, tuple[bytes, Credential]] = {
    "a password": (
        credentials.prekeys_of_password("pässword", SID)[0],
        credentials.password("pässword", SID),
    ),
    "an NT hash": (
        credentials.prekeys_of_nt_hash(b"n" * 16, SID)[0],
        credentials.nt_hash(b"n" * 16, SID),
    ),
    "an NT hash before Windows 10 1607": (
        credentials.prekeys_of_nt_hash(b"n" * 16, SID)[1],
        credentials.nt_hash(b"n" * 16, SID),
    ),
    "the machine's half of DPAPI_SYSTEM": (SYSTEM[4:24], credentials.dpapi_system(SYSTEM)),
    "SYSTEM's half of DPAPI_SYSTEM": (SYSTEM[24:], credentials.dpapi_system(SYSTEM)),
}
OTHERS: tuple[Credential, ...] = (
    credentials.password("password", SID),
    credentials.password("pässword", SID[:-1] + "2"),
    credentials.nt_hash(b"m" * 16, SID),
    credentials.dpapi_system(SYSTEM[:4] + bytes(40)),
)


@pytest.mark.parametrize("name", CREDENTIALS)
@pytest.mark.parametrize("suite", **BY_NAME)
def test_a_file_opens_with_its_credential_and_with_no_other(name: str, suite: Suite) -> None:
    prekey, credential = CREDENTIALS[name]
    file = MasterKeyFile.parse(make_master_key_file(GUID, KEY, prekey, suite=suite, rounds=50))
    assert file.guid == GUID
    assert credential(file) == MasterKey(KEY)
    for other in OTHERS:
        with pytest.raises(MasterKeyFileError, match="does not open"):
            other(file)


@given(
    key=st.binary(min_size=64, max_size=64),
    prekey=st.binary(min_size=20, max_size=20),
    suite=st.sampled_from(SUITES),
    rounds=st.integers(1, 20),
    guid=st.uuids(),
)
@settings(max_examples=100)
def test_every_master_key_comes_back_from_its_file(
    key: bytes, prekey: bytes, suite: Suite, rounds: int, guid: uuid.UUID
) -> None:
    data = make_master_key_file(str(guid), key, prekey, suite=suite, rounds=rounds)
    file = MasterKeyFile.parse(data)
    assert file.guid == str(guid)
    assert file.key.open([prekey]).reveal() == key


@pytest.mark.parametrize("suite", **BY_NAME)
@pytest.mark.parametrize("written", [pem, pvk])
def test_the_domains_backup_key_opens_the_domains_copy(
    suite: Suite, written: Callable[[rsa.RSAPrivateKey], bytes]
) -> None:
    data = make_master_key_file(
        GUID, KEY, PREKEY, suite=suite, rounds=5, domain_key=DOMAIN.public_key()
    )
    assert credentials.domain_backup_key(written(DOMAIN))(MasterKeyFile.parse(data)) == MasterKey(
        KEY
    )


@pytest.mark.parametrize("suite", **BY_NAME)
def test_another_domains_key_gives_no_master_key_ever(suite: Suite) -> None:
    # OpenSSL answers a wrong key with bytes, not with an error.
    other = credentials.domain_backup_key(pem(rsa.generate_private_key(65537, 2048)))
    for _ in range(50):
        data = make_master_key_file(
            GUID, KEY, PREKEY, suite=suite, rounds=1, domain_key=DOMAIN.public_key()
        )
        with pytest.raises(MasterKeyFileError, match="not the one given"):
            other(MasterKeyFile.parse(data))


@pytest.mark.parametrize("suite", **BY_NAME)
def test_a_damaged_copy_of_the_domain_gives_no_master_key(suite: Suite) -> None:
    data = make_master_key_file(
        GUID, KEY, PREKEY, suite=suite, rounds=1, domain_key=DOMAIN.public_key()
    )
    domain = MasterKeyFile.parse(data).domain
    assert domain is not None
    for name in ("secret", "access_check"):
        whole = getattr(domain, name)
        for place in range(0, len(whole), 9):
            altered = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
            parts = {"secret": domain.secret, "access_check": domain.access_check, name: altered}
            with pytest.raises(MasterKeyFileError):
                DomainBlock(suite, domain.domain_key, **parts).open(DOMAIN)


def test_a_domain_accounts_password_is_told_to_be_the_wrong_thing() -> None:
    data = make_master_key_file(GUID, KEY, PREKEY, rounds=1, domain_key=DOMAIN.public_key())
    with pytest.raises(MasterKeyFileError, match="give its NT hash"):
        credentials.password("secret", SID)(MasterKeyFile.parse(data))


def test_a_local_accounts_file_has_no_domains_copy() -> None:
    file = MasterKeyFile.parse(make_master_key_file(GUID, KEY, PREKEY, rounds=1))
    with pytest.raises(MasterKeyFileError, match="local one"):
        credentials.domain_backup_key(pem(DOMAIN))(file)


@pytest.mark.parametrize("suite", **BY_NAME)
def test_a_damaged_file_gives_no_master_key_and_no_foreign_error(suite: Suite) -> None:
    data = make_master_key_file(GUID, KEY, PREKEY, suite=suite, rounds=2)
    block = range(128, 128 + int.from_bytes(data[96:104], "little"))
    for place in range(len(data)):
        altered = bytearray(data)
        altered[place] ^= 0x81
        opened = opens(bytes(altered))
        if place in block:
            assert opened is None, place
        # Elsewhere the key is not covered: the GUID, policy, backup and CREDHIST link.
        assert opened in {None, KEY}, place
        assert opens(data[:place]) is None
    assert opens(data + b"\0") is None
    for _ in range(2_000):
        assert opens(data[:4] + os.urandom(200)) is None


def opens(data: bytes) -> bytes | None:
    try:
        return MasterKeyFile.parse(data).key.open([PREKEY]).reveal()
    except MasterKeyFileError:
        return None


def field(place: int, value: int) -> bytes:
    data = make_master_key_file(GUID, KEY, PREKEY, rounds=1)
    return data[:place] + struct.pack("<I", value) + data[place + 4 :]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "cut short"),
        (b"{}", "cut short"),
        (os.urandom(24), "no master key file"),  # as the file `Preferred`
        (field(12, 0), "names no GUID"),
        (field(128, 1), "version 2"),
        (field(148, 0), "0 rounds"),
        (field(148, 0xFFFFFFFF), "4294967295 rounds"),
        (field(152, 0x800C), "0x800c"),
        (field(156, 0x6601), "0x6601"),
        (make_master_key_file(GUID, KEY, PREKEY, rounds=1) + b"\0", "1 bytes follow"),
    ],
)
def test_what_is_no_master_key_file_is_refused_with_what_is_wrong(data: bytes, says: str) -> None:
    with pytest.raises(MasterKeyFileError, match=says):
        MasterKeyFile.parse(data)


def test_a_domains_copy_of_another_version_is_named() -> None:
    with pytest.raises(MasterKeyFileError, match="version 1; known are 2 and 3"):
        DomainBlock.parse(struct.pack("<I", 1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: credentials.password("x", "1001"),
        lambda: credentials.password("x", SID + "\0"),
        lambda: credentials.nt_hash(bytes(15), SID),
        lambda: credentials.nt_hash(bytes(16), "S-1"),
        lambda: credentials.dpapi_system(bytes(44)),
        lambda: credentials.dpapi_system(SYSTEM[:-1]),
        lambda: credentials.domain_backup_key(b""),
        lambda: credentials.domain_backup_key(b"-----BEGIN nonsense"),
        lambda: credentials.domain_backup_key(pem(DOMAIN, b"password")),
        lambda: credentials.domain_backup_key(pem(ec.generate_private_key(ec.SECP256R1()))),
        lambda: credentials.domain_backup_key(base64.b64encode(pvk(DOMAIN))),
        lambda: credentials.domain_backup_key(pvk(DOMAIN)[:-1]),
        lambda: credentials.domain_backup_key(pvk(DOMAIN) + b"\0"),
        lambda: credentials.domain_backup_key(pvk(DOMAIN)[:50] + bytes(1146)),
    ],
)
def test_a_credential_that_is_none_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(CredentialError):
        make()


def test_3des_files_state_hmac_or_sha1() -> None:
    data = bytearray(make_master_key_file(GUID, KEY, PREKEY, suite=TDES_SHA1, rounds=3))
    assert data[152:154] == b"\x09\x80"
    data[152:154] = b"\x04\x80"
    assert MasterKeyFile.parse(bytes(data)).key.open([PREKEY]) == MasterKey(KEY)
