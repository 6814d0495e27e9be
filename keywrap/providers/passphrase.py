"""KEKs derived from a passphrase. Every parameter is said and none assumed.

Applications differ in salt, count and length, and a derivation with another parameter gives
another key without a word. A low count is taken: it is what the old application used, and a
migration is the way out of it.
"""

from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from keywrap.datakey import KEY_BYTES, DataKey

MAX_ITERATIONS = 100_000_000
"""About 12 seconds at every start of a process; what has more is a mistake."""

MAX_SCRYPT_BYTES = 1024**3
"""Most memory that scrypt may take, 128·n·r bytes (RFC 7914, section 2)."""

MAX_SCRYPT_P = 64


class KdfError(ValueError):
    """A parameter of the derivation is missing, contradictory or out of bounds.

    Args:
        message: what is wrong; parameters are no secrets.
        parameter: its name.
    """

    def __init__(self, message: str, parameter: str) -> None:
        super().__init__(message)
        self.parameter = parameter


@dataclass(frozen=True, slots=True)
class Pbkdf2Sha256:
    """PBKDF2 with HMAC-SHA-256 (RFC 8018).

    Attributes:
        salt: as the application used it; may be empty.
        iterations: how often.
        key_bytes: length of the key: 16, 24 or 32.

    Raises:
        KdfError: a value is out of bounds.
    """

    salt: bytes
    iterations: int
    key_bytes: int

    def __post_init__(self) -> None:
        _check_key_bytes(self.key_bytes)
        if not 1 <= self.iterations <= MAX_ITERATIONS:
            raise KdfError(f"expected 1 to {MAX_ITERATIONS:,}", "iterations")

    def derive(self, passphrase: bytes) -> DataKey:
        """Derive the key; takes about 0.12 s for a million iterations."""
        kdf = PBKDF2HMAC(hashes.SHA256(), self.key_bytes, self.salt, self.iterations)
        return DataKey(kdf.derive(passphrase))


@dataclass(frozen=True, slots=True)
class ScryptKdf:
    """Scrypt (RFC 7914).

    Attributes:
        salt: as the application used it; may be empty.
        n: cost, a power of two.
        r: block size.
        p: how often, one after the other.
        key_bytes: length of the key: 16, 24 or 32.

    Raises:
        KdfError: a value is out of bounds.
    """

    salt: bytes
    n: int
    r: int
    p: int
    key_bytes: int

    def __post_init__(self) -> None:
        _check_key_bytes(self.key_bytes)
        if self.r < 1:
            raise KdfError("expected 1 or more", "r")
        if not 1 <= self.p <= MAX_SCRYPT_P:
            raise KdfError(f"expected 1 to {MAX_SCRYPT_P}", "p")
        if self.n < 2 or self.n & (self.n - 1):  # noqa: PLR2004 - RFC 7914, section 2
            raise KdfError("expected a power of two larger than 1", "n")
        if 128 * self.n * self.r > MAX_SCRYPT_BYTES:
            raise KdfError("128·n·r bytes of memory are more than 1 GiB", "n")
        if self.n.bit_length() - 1 >= 16 * self.r:
            raise KdfError(f"expected less than 2**{16 * self.r}, as RFC 7914 says for r", "n")

    def derive(self, passphrase: bytes) -> DataKey:
        """Derive the key; takes about 0.35 s for n = 2**17, r = 8."""
        kdf = Scrypt(salt=self.salt, length=self.key_bytes, n=self.n, r=self.r, p=self.p)
        return DataKey(kdf.derive(passphrase))


Kdf = Pbkdf2Sha256 | ScryptKdf


def _check_key_bytes(key_bytes: int) -> None:
    if key_bytes not in KEY_BYTES:
        raise KdfError("expected 16, 24 or 32, the length of an AES key", "key_bytes")
