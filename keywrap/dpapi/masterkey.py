r"""A master key file (`…\Microsoft\\Protect\<SID>\<GUID>`): what it says, and how it opens.

All integers are little-endian. The header has 128 bytes: version (2), 8 bytes, the GUID as 36
characters of UTF-16, 8 bytes, policy, and four lengths of 8 bytes; then come as many bytes each of
the master key, a backup of it for the machine, the CREDHIST link, and the domain's copy.

| block of the master key | bytes |
|---|---|
| version, salt | 4: 2, and 16 |
| rounds, hash, cipher | 4 + 4 + 4 |
| ciphertext | the rest: salt of the HMAC (16), HMAC, the key (64) at its end |

| the domain's copy (MS-BKRP, sections 2.2.2 and 3.1.4.1.1, "ClientWrap") | bytes |
|---|---|
| version | 4: 2 with 3DES and SHA-1, 3 with AES-256 and SHA-512 |
| length of the secret, of the access check | 4 + 4 |
| GUID of the domain's key | 16 |
| secret | RSA, its bytes turned: lengths (version 3: and algorithms), the key, a payload key |
| access check | under the payload key: who may have it; at its end the hash of all before |

Both ways a wrong credential is noticed: by the HMAC, and by the hash in the access check.
"""

import hashlib
import hmac
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from keywrap.dpapi.crypto import AES256_SHA512, TDES_SHA1, Suite, stretch
from keywrap.dpapi.fields import CutShortError, Fields
from keywrap.dpapi.secret import MASTER_KEY_BYTES, MasterKey

HEADER_BYTES = 128
MAX_FILE_BYTES = 64 * 1024
"""Those of Windows have under 1,000."""

MAX_ROUNDS = 1_000_000
"""Windows has 4,000 to 17,400; a file is not to keep us busy for hours."""

SALT_BYTES = 16
CALG_HMAC = 0x8009
"""What 3DES blocks state as their hash: HMAC, with SHA-1."""

_VERSION = 2
_DOMAIN_SUITES = {2: TDES_SHA1, 3: AES256_SHA512}


class MasterKeyFileError(ValueError):
    """The file is no master key file, or does not open with this credential.

    Args:
        message: what is wrong; shows no bytes of a key.
    """


@dataclass(frozen=True, slots=True)
class KeyBlock:
    """The master key under what a credential gives.

    Attributes:
        salt: of the derivation.
        rounds: of the derivation.
        suite: its algorithms.
        ciphertext: salt of the HMAC, HMAC and key.
    """

    salt: bytes
    rounds: int
    suite: Suite
    ciphertext: bytes = field(repr=False)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the block.

        Raises:
            MasterKeyFileError: it is none.
        """
        fields = Fields(data)
        if fields.integer() != _VERSION:
            raise MasterKeyFileError("the block of its key has not version 2")
        salt, rounds = fields.take(SALT_BYTES), fields.integer()
        suite = _suite(fields.integer(), fields.integer())
        if not 1 <= rounds <= MAX_ROUNDS:
            raise MasterKeyFileError(f"it has {rounds} rounds; expected 1 to {MAX_ROUNDS}")
        ciphertext = fields.take(fields.left)
        least = SALT_BYTES + suite.digest_bytes + MASTER_KEY_BYTES
        if not least <= len(ciphertext) < least + suite.block_bytes or (
            len(ciphertext) % suite.block_bytes
        ):
            raise MasterKeyFileError("the block of its key has another length than such a key")
        return cls(salt, rounds, suite, ciphertext)

    def open(self, prekeys: Iterable[bytes]) -> MasterKey:
        """Return the master key.

        Args:
            prekeys: what the credential gives, 20 bytes each; the HMAC tells which is right.

        Raises:
            MasterKeyFileError: none is.
        """
        for prekey in prekeys:
            plain = self.decrypt(prekey)
            checked, key = plain[: SALT_BYTES + self.suite.digest_bytes], plain[-MASTER_KEY_BYTES:]
            if hmac.compare_digest(
                self.mac(prekey, checked[:SALT_BYTES], key), checked[SALT_BYTES:]
            ):
                return MasterKey(key)
        raise MasterKeyFileError("it does not open with this credential, or it is damaged")

    def decrypt(self, prekey: bytes) -> bytes:
        """Return what is under a prekey; unchecked."""
        suite = self.suite
        size = suite.key_bytes + suite.block_bytes
        derived = stretch(prekey, self.salt, self.rounds, size, suite.hash_name)
        key, iv = derived[: suite.key_bytes], derived[suite.key_bytes :]
        decryptor = suite.cbc(key, iv).decryptor()
        return decryptor.update(self.ciphertext) + decryptor.finalize()

    def mac(self, prekey: bytes, salt: bytes, key: bytes) -> bytes:
        """Return the HMAC of a master key."""
        name = self.suite.hash_name
        return hmac.digest(hmac.digest(prekey, salt, name), key, name)


@dataclass(frozen=True, slots=True)
class DomainBlock:
    """The domain's copy: the master key under the RSA key that the domain keeps for backups.

    Attributes:
        suite: its algorithms.
        domain_key: GUID of the domain's key.
        secret: under that key, in Windows' order of bytes.
        access_check: under the payload key.
    """

    suite: Suite
    domain_key: str
    secret: bytes = field(repr=False)
    access_check: bytes = field(repr=False)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the block.

        Raises:
            MasterKeyFileError: it is none.
        """
        fields = Fields(data)
        suite = _DOMAIN_SUITES.get(version := fields.integer())
        if suite is None:
            raise MasterKeyFileError(f"the domain's copy has version {version}; known are 2 and 3")
        secret_bytes, check_bytes = fields.integer(), fields.integer()
        block = cls(suite, fields.guid(), fields.take(secret_bytes), fields.take(check_bytes))
        if fields.left or not check_bytes or check_bytes % suite.block_bytes:
            raise MasterKeyFileError("the domain's copy has another length than it says")
        return block

    def open(self, key: RSAPrivateKey) -> MasterKey:
        """Return the master key.

        Raises:
            MasterKeyFileError: it is under another key, or damaged.
        """
        wrong = MasterKeyFileError(
            f"the domain's copy is under the backup key {self.domain_key}, which is not the one "
            "given, or it is damaged"
        )
        try:
            # A key that is not the right one gives bytes all the same (RFC 8017 padding is
            # hidden by OpenSSL on purpose): lengths and the access check tell.
            secret = Fields(key.decrypt(self.secret[::-1], PKCS1v15()))
            lengths = tuple(secret.integer() for _ in self.lengths())
            master_key, payload_key = secret.take(MASTER_KEY_BYTES), secret.take(secret.left)
        except ValueError:
            raise wrong from None
        if lengths != self.lengths() or len(payload_key) != lengths[1]:
            raise wrong
        check = self._access_check(payload_key)
        said, digest = check[: -self.suite.digest_bytes], check[-self.suite.digest_bytes :]
        if not hmac.compare_digest(hashlib.new(self.suite.hash_name, said).digest(), digest):
            raise wrong
        return MasterKey(master_key)

    def lengths(self) -> tuple[int, ...]:
        """Return what precedes the key in the secret."""
        suite = self.suite
        if suite is AES256_SHA512:
            payload = suite.key_bytes + suite.block_bytes
            return MASTER_KEY_BYTES, payload, suite.cipher_id, suite.hash_id
        return MASTER_KEY_BYTES, suite.key_bytes + suite.block_bytes

    def _access_check(self, payload_key: bytes) -> bytes:
        size = self.suite.key_bytes
        decryptor = self.suite.cbc(payload_key[:size], payload_key[size:]).decryptor()
        return decryptor.update(self.access_check) + decryptor.finalize()


@dataclass(frozen=True, slots=True)
class MasterKeyFile:
    """A master key file, taken apart.

    Attributes:
        guid: of the master key, in lower case, as blobs name it.
        key: the key under what the account's credential gives.
        domain: the domain's copy; None where the account is no domain's.
    """

    guid: str
    key: KeyBlock
    domain: DomainBlock | None

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a file strictly.

        Raises:
            MasterKeyFileError: it is no master key file.
        """
        try:
            return cls._parse(Fields(data))
        except CutShortError:
            raise MasterKeyFileError("it is no whole master key file: it is cut short") from None

    @classmethod
    def _parse(cls, fields: Fields) -> Self:
        if fields.integer() != _VERSION:
            raise MasterKeyFileError("it is no master key file: it does not begin with version 2")
        fields.take(8)
        guid = _guid(fields.take(72))
        fields.take(8 + 4)
        lengths = [fields.integer(8) for _ in range(4)]
        key, _backup, _credhist, domain = (fields.take(length) for length in lengths)
        if fields.left:
            raise MasterKeyFileError(f"it is no master key file: {fields.left} bytes follow")
        return cls(guid, KeyBlock.parse(key), DomainBlock.parse(domain) if domain else None)


def _guid(text: bytes) -> str:
    try:
        return str(uuid.UUID(text.decode("utf-16-le")))
    except ValueError:
        raise MasterKeyFileError("it is no master key file: it names no GUID") from None


def _suite(hash_id: int, cipher_id: int) -> Suite:
    if cipher_id == AES256_SHA512.cipher_id and hash_id == AES256_SHA512.hash_id:
        return AES256_SHA512
    if cipher_id == TDES_SHA1.cipher_id and hash_id in {CALG_HMAC, TDES_SHA1.hash_id}:
        return TDES_SHA1
    raise MasterKeyFileError(
        f"its algorithms are cipher {cipher_id:#x} and hash {hash_id:#x}; known are "
        f"{AES256_SHA512.name} and {TDES_SHA1.name}"
    )
