"""What Windows' DPAPI writes, for tests and the demo: blobs and master key files.

Given the salts of a blob or file that Windows made, these functions give Windows' own bytes.
"""

import binascii
import hashlib
import os
import struct
import uuid
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.padding import PKCS7

from keywrap.datakey import DataKey
from keywrap.dpapi.blob import MAGIC
from keywrap.dpapi.crypto import AES256_SHA512, TDES_SHA1, Suite, stretch
from keywrap.dpapi.masterkey import CALG_HMAC, SALT_BYTES, DomainBlock, KeyBlock
from keywrap.dpapi.ring import MasterKeyRing
from keywrap.dpapi.secret import MASTER_KEY_BYTES, MasterKey
from keywrap.keys import WrappedKey
from keywrap.kms import Context
from keywrap.providers.dpapi import DpapiKeyProvider, Inner

__all__ = [
    "AES256_SHA512",
    "LOCAL_MACHINE",
    "TDES_SHA1",
    "Account",
    "WrappingDpapiProvider",
    "make_master_key_file",
    "protect",
]

LOCAL_MACHINE = 0x4
"""CRYPTPROTECT_LOCAL_MACHINE: any account of the machine may open the blob."""

NO_DESCRIPTION = b"\0\0"
"""`CryptProtectData` without a description writes its NUL."""


def protect(  # noqa: PLR0913 - a blob has so many parts
    plaintext: bytes,
    master_key: bytes,
    guid: str,
    entropy: bytes = b"",
    *,
    suite: Suite = AES256_SHA512,
    flags: int = 0,
    description: bytes = NO_DESCRIPTION,
    salts: tuple[bytes, bytes] | None = None,
) -> bytes:
    """Make a blob as `CryptProtectData` does.

    Args:
        plaintext: what to wrap.
        master_key: 64 bytes, or their SHA-1.
        guid: of the master key.
        entropy: additional entropy.
        suite: its algorithms.
        flags: such as `LOCAL_MACHINE`.
        description: UTF-16 with its NUL; LSASS writes no bytes at all.
        salts: salt and nonce; drawn where not given.
    """
    salt, nonce = salts or (os.urandom(suite.salt_bytes), os.urandom(suite.salt_bytes))
    key = MasterKey(master_key).sha1()
    padder = PKCS7(suite.block_bytes * 8).padder()
    padded = padder.update(plaintext) + padder.finalize()
    session = suite.keyed_hash(key, salt, entropy)
    encryptor = suite.cbc(suite.cipher_key(session)).encryptor()
    covered = b"".join(
        (
            struct.pack("<I", 1),
            uuid.UUID(guid).bytes_le,
            struct.pack("<I", flags),
            _counted(description),
            struct.pack("<II", suite.cipher_id, suite.key_bits[0]),
            _counted(salt),
            _counted(b""),
            struct.pack("<II", suite.hash_id, suite.digest_bytes * 8),
            _counted(nonce),
            _counted(encryptor.update(padded) + encryptor.finalize()),
        )
    )
    return MAGIC + covered + _counted(suite.keyed_hash(key, nonce, entropy + covered))


def make_master_key_file(
    guid: str,
    master_key: bytes,
    prekey: bytes,
    *,
    suite: Suite = AES256_SHA512,
    rounds: int = 8000,
    domain_key: RSAPublicKey | None = None,
) -> bytes:
    """Make a master key file.

    Args:
        guid: of the master key.
        master_key: 64 bytes.
        prekey: 20 bytes: half of DPAPI_SYSTEM, or `credentials.prekeys_of_…`.
        suite: its algorithms.
        rounds: of the derivation.
        domain_key: of the domain, for an account of one.
    """
    key = key_block(master_key, prekey, suite=suite, rounds=rounds)
    backup = key_block(os.urandom(MASTER_KEY_BYTES), os.urandom(20), suite=suite, rounds=1)
    credhist = b"" if domain_key else struct.pack("<I16x", 3)
    domain = domain_block(master_key, domain_key, suite=suite) if domain_key else b""
    parts = key, backup, credhist, domain
    header = struct.pack("<I8x", 2) + guid.encode("utf-16-le") + struct.pack("<8xI", 5)
    return b"".join((header, struct.pack("<4Q", *map(len, parts)), *parts))


def key_block(
    master_key: bytes,
    prekey: bytes,
    *,
    suite: Suite,
    rounds: int,
    salts: tuple[bytes, bytes] | None = None,
    filling: bytes = b"",
) -> bytes:
    """Make the block of a file that holds the master key under a prekey.

    Args:
        master_key: 64 bytes.
        prekey: 20 bytes.
        suite: its algorithms.
        rounds: of the derivation.
        salts: that of the derivation and that of the HMAC; drawn where not given.
        filling: what 3DES has before the key, to fill its last block.
    """
    salt, mac_salt = salts or (os.urandom(SALT_BYTES), os.urandom(SALT_BYTES))
    block = KeyBlock(salt, rounds, suite, b"")
    plain = mac_salt + block.mac(prekey, mac_salt, master_key)
    missing = -(len(plain) + len(master_key)) % suite.block_bytes
    plain += (filling or bytes(missing)) + master_key
    derived = stretch(prekey, salt, rounds, suite.key_bytes + suite.block_bytes, suite.hash_name)
    encryptor = suite.cbc(derived[: suite.key_bytes], derived[suite.key_bytes :]).encryptor()
    hash_id = CALG_HMAC if suite is TDES_SHA1 else suite.hash_id
    head = struct.pack("<I", 2) + salt + struct.pack("<3I", rounds, hash_id, suite.cipher_id)
    return head + encryptor.update(plain) + encryptor.finalize()


def domain_block(master_key: bytes, domain_key: RSAPublicKey, *, suite: Suite) -> bytes:
    """Make the domain's copy of a master key."""
    payload_key = os.urandom(suite.key_bytes + suite.block_bytes)
    lengths = DomainBlock(suite, "", b"", b"").lengths()
    secret = struct.pack(f"<{len(lengths)}I", *lengths) + master_key + payload_key
    sealed = domain_key.encrypt(secret, PKCS1v15())[::-1]
    size = suite.key_bytes
    who = bytes.fromhex("010500000000000515000000") + os.urandom(16)  # a SID of five parts
    said = struct.pack("<II", 1, 32) + os.urandom(32) + who
    said += bytes(-(len(said) + suite.digest_bytes) % suite.block_bytes)
    check = said + hashlib.new(suite.hash_name, said).digest()
    encryptor = suite.cbc(payload_key[:size], payload_key[size:]).encryptor()
    checked = encryptor.update(check) + encryptor.finalize()
    version = 3 if suite is AES256_SHA512 else 2
    head = struct.pack("<3I", version, len(sealed), len(checked)) + os.urandom(16)
    return head + sealed + checked


@dataclass
class Account:
    """A made-up Windows account with one master key.

    Attributes:
        guid: of its master key.
        master_key: 64 bytes.
        entropy: the additional entropy of its blobs.
        suite: the algorithms of its blobs.
        flags: of its blobs.
    """

    guid: str = field(default_factory=lambda: str(uuid.uuid4()))
    master_key: bytes = field(default_factory=lambda: os.urandom(MASTER_KEY_BYTES), repr=False)
    entropy: bytes = field(default=b"", repr=False)
    suite: Suite = AES256_SHA512
    flags: int = 0

    def protect(self, plaintext: bytes) -> bytes:
        """Make a blob of this account."""
        return protect(
            plaintext,
            self.master_key,
            self.guid,
            self.entropy,
            suite=self.suite,
            flags=self.flags,
        )

    def ring(self) -> MasterKeyRing:
        """Return the ring that holds its master key."""
        return MasterKeyRing({self.guid: MasterKey(self.master_key)})


class WrappingDpapiProvider(DpapiKeyProvider):
    """A provider that also wraps, as the application did that a migration moves away from.

    Args:
        account: whose blobs it makes and opens.
        inner: how the data key is written in them.
    """

    def __init__(self, account: Account | None = None, inner: Inner = "raw") -> None:
        self.account = account or Account()
        super().__init__(self.account.guid, self.account.ring(), self.account.entropy, inner)

    def wrap(self, data_key: DataKey, _context: Context) -> WrappedKey:
        """Wrap a data key as Windows would."""
        text = data_key.reveal()
        encode = {
            "raw": lambda: text,
            "hex": lambda: text.hex().encode(),
            "base64": lambda: binascii.b2a_base64(text, newline=False),
            "utf16-hex": lambda: text.hex().encode("utf-16-le"),
            "utf16-base64": lambda: (
                binascii.b2a_base64(text, newline=False).decode().encode("utf-16-le")
            ),
        }
        return WrappedKey(self.current_version(), self.account.protect(encode[self._inner]()))


def _counted(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data
