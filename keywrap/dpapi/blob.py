"""A blob of `CryptProtectData` (.NET `ProtectedData.Protect`): what it says, and how it opens.

All integers are little-endian:

| field | bytes |
|---|---|
| version | 4: 1 |
| GUID of the provider | 16: df9d8cd0-1501-11d1-8c7a-00c04fc297eb |
| *from here on covered by the MAC:* version of the master key | 4: 1 |
| GUID of the master key | 16 |
| flags | 4: such as 0x4, any account of the machine may open it |
| description | 4 + n: UTF-16 with its NUL; LSASS writes none at all |
| cipher, key bits | 4 + 4 |
| salt | 4 + n |
| prompt | 4 + n: empty, or a password that a person types |
| hash, hash bits | 4 + 4 |
| nonce of the MAC | 4 + n |
| ciphertext | 4 + n: CBC, IV of zeros, PKCS#7 |
| *end of what is covered:* MAC | 4 + n |

Not published by Microsoft; proved on blobs that Windows made. The GUID of the master key is read
without any secret, so that an inventory tells who can open what. Nothing is decrypted before the
MAC has been checked, and nothing is taken for plaintext that is no blob.
"""

import hmac
from dataclasses import dataclass, field
from typing import Self

from cryptography.hazmat.primitives.padding import PKCS7

from keywrap.dpapi.crypto import SUITES, Suite
from keywrap.dpapi.fields import CutShortError, Fields
from keywrap.dpapi.secret import MasterKey
from keywrap.reasons import ReasonedError

PROVIDER = bytes.fromhex("d08c9ddf0115d1118c7a00c04fc297eb")
MAGIC = b"\x01\0\0\0" + PROVIDER
"""What every blob begins with; in base64 `AQAAANCMnd8BFdERjHoAwE/Cl+s`."""

_VERSION = 1
_MONO_HEADER_BYTES = 192  # RSA-1536: Mono's ManagedProtection.cs
_NG_OID = bytes.fromhex("060a2b0601040182374a01")  # 1.3.6.1.4.1.311.74.1 in DER
_NG_WITHIN = 512


class BadBlobError(ReasonedError, ValueError):
    """These bytes are no blob of `CryptProtectData`. The message shows none of them."""


class NotOpenedError(ReasonedError):
    """A blob does not open; nothing of it was decrypted, or what came out is dropped."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob, taken apart.

    Attributes:
        data: the whole blob.
        master_key: GUID of its master key, in lower case.
        flags: as `CryptProtectData` was given them.
        description: UTF-16 with its NUL, or nothing.
        suite: its algorithms.
        salt: goes into the session key.
        nonce: goes into the MAC.
        ciphertext: what is wrapped.
        covered: the bytes that the MAC covers.
        signature: the MAC.
    """

    data: bytes = field(repr=False)
    master_key: str
    flags: int
    description: bytes
    suite: Suite
    salt: bytes = field(repr=False)
    nonce: bytes = field(repr=False)
    ciphertext: bytes = field(repr=False)
    covered: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a blob strictly: every length must be the one that its algorithms have.

        Raises:
            BadBlobError: it is none, or one that no service could open.
        """
        if not data.startswith(MAGIC):
            raise _look_alike(data)
        try:
            return cls._parse(data, Fields(data, len(MAGIC)))
        except CutShortError:
            raise _malformed("it is cut short") from None

    @classmethod
    def _parse(cls, data: bytes, fields: Fields) -> Self:
        start = fields.place
        if fields.integer() != _VERSION:
            raise _malformed("the version of its master key is not 1")
        master_key, flags, description = fields.guid(), fields.integer(), fields.counted()
        if len(description) % 2 or description[-2:] not in {b"", b"\0\0"}:
            raise _malformed("its description is no text that ends with a NUL")
        cipher, salt, prompt = (fields.integer(), fields.integer()), fields.counted(), None
        prompt = fields.counted()
        if prompt:
            raise BadBlobError("dpapi_prompt", "a person must type a password to open it")
        suite = _suite(cipher, (fields.integer(), fields.integer()))
        nonce, ciphertext = fields.counted(), fields.counted()
        covered = data[start : fields.place]
        signature = fields.counted()
        if fields.left:
            raise _malformed(f"{fields.left} bytes follow it")
        lengths = len(salt), len(nonce), len(signature)
        if lengths != (suite.salt_bytes, suite.salt_bytes, suite.digest_bytes):
            raise _malformed(f"salt, nonce or MAC are not as long as those of {suite.name}")
        if not ciphertext or len(ciphertext) % suite.block_bytes:
            raise _malformed("its ciphertext is no whole number of blocks")
        return cls(
            data=data,
            master_key=master_key,
            flags=flags,
            description=description,
            suite=suite,
            salt=salt,
            nonce=nonce,
            ciphertext=ciphertext,
            covered=covered,
            signature=signature,
        )

    def is_of(self, key: MasterKey, entropy: bytes = b"") -> bool:
        """Whether the MAC is that of a master key and entropy; decrypts nothing."""
        expected = self.suite.keyed_hash(key.sha1(), self.nonce, entropy + self.covered)
        return hmac.compare_digest(expected, self.signature)

    def open(self, key: MasterKey, entropy: bytes = b"") -> bytes:
        """Return what is wrapped.

        Args:
            key: the master key of this GUID.
            entropy: the additional entropy; none and empty are the same.

        Raises:
            NotOpenedError: the MAC is another: wrong key, wrong entropy, or damaged.
        """
        if not self.is_of(key, entropy):
            raise NotOpenedError(
                "dpapi_does_not_open",
                f"the MAC is not that of the master key {self.master_key} with this entropy: the "
                "entropy is another, or the blob is damaged",
            )
        session = self.suite.keyed_hash(key.sha1(), self.salt, entropy)
        decryptor = self.suite.cbc(self.suite.cipher_key(session)).decryptor()
        unpadder = PKCS7(self.suite.block_bytes * 8).unpadder()
        padded = decryptor.update(self.ciphertext) + decryptor.finalize()
        try:
            return unpadder.update(padded) + unpadder.finalize()
        except ValueError:
            raise NotOpenedError(
                "dpapi_padding_wrong", "the MAC is right, but what it covers has no sound padding"
            ) from None


def _suite(cipher: tuple[int, int], hashed: tuple[int, int]) -> Suite:
    for suite in SUITES:
        if (
            cipher[0] == suite.cipher_id
            and cipher[1] in suite.key_bits
            and hashed == (suite.hash_id, suite.digest_bytes * 8)
        ):
            return suite
    (cipher_id, key_bits), (hash_id, hash_bits) = cipher, hashed
    raise BadBlobError(
        "dpapi_algorithms",
        f"its algorithms are cipher {cipher_id:#x} of {key_bits} bits and hash {hash_id:#x} of "
        f"{hash_bits} bits; known are {' and '.join(suite.name for suite in SUITES)}",
    )


def _malformed(what: str) -> BadBlobError:
    return BadBlobError("dpapi_malformed", f"the wrap is no sound DPAPI blob: {what}")


def _look_alike(data: bytes) -> BadBlobError:
    """Name what is no blob of Windows' DPAPI, by what it looks like."""
    if b"Wine Crypt32 ok" in data[:64]:
        return BadBlobError("dpapi_wine", "Wine made this; it is no DPAPI blob of Windows")
    if _NG_OID in data[:_NG_WITHIN]:
        return BadBlobError(
            "dpapi_ng",
            "this is DPAPI-NG (NCryptProtectSecret), another format: protected for accounts of a "
            "domain and not by a master key",
        )
    if data[:4] in {b"DPAP", b"APPB"} and MAGIC in data[: len(MAGIC) + 8]:
        return BadBlobError(
            "dpapi_with_prefix",
            "a DPAPI blob stands behind a prefix, as Chromium writes it: the sidecar must hold the "
            "blob alone",
        )
    if data[:10].lower() in {b"aqaaancmnd", b"01000000d0"}:
        return BadBlobError(
            "dpapi_encoded_twice", "this is the text of a DPAPI blob: encoded twice"
        )
    if (
        len(data) > _MONO_HEADER_BYTES
        and len(data) % 16 == 0
        and len(data) <= _MONO_HEADER_BYTES + 64
    ):
        # Nothing marks it, so this is a guess; what it is not is certain.
        return BadBlobError(
            "dpapi_mono",
            "the wrap is no DPAPI blob of Windows; it is as long as what Mono's ProtectedData "
            "writes on Unix",
        )
    return _malformed("it does not begin as one")
