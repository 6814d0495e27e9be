"""Ed25519 signatures (RFC 8032) over what `rewrap` publishes, and the files of their keys.

Each use signs under a domain of its own, so that a signature made for one kind of record is never
taken for another's.
"""

import base64
import binascii
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from keywrap import newfile
from keywrap.reasons import ReasonedError

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64

_MAX_FILE_BYTES = 4096
_MODE = 0o600


class SigningKeyError(ReasonedError):
    """A signing key cannot be used."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that verifies signatures.

    Attributes:
        raw: its 32 bytes.
    """

    raw: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a public key: its 32 bytes in canonical base64.

        Raises:
            ValueError: it is something else.
        """
        try:
            raw = binascii.a2b_base64(text.encode(), strict_mode=True)
        except ValueError:
            raw = b""
        if len(raw) != PUBLIC_KEY_BYTES or base64.b64encode(raw).decode() != text:
            raise ValueError("expected the 32 bytes of an Ed25519 public key in base64")
        return cls(raw)

    def verifies(self, signature: bytes, domain: bytes, message: bytes) -> bool:
        """Whether the holder of the private key signed this message under this domain."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, _bound(domain, message))
        except InvalidSignature:
            return False
        return True

    def __str__(self) -> str:
        return base64.b64encode(self.raw).decode()


class SigningKey:
    """A key that signs. It hides its value; `public` is what the world may know of it."""

    __slots__ = ("_key", "public")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key().public_bytes_raw())

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make a key and its file, which only this user can read. Never overwrites one.

        Args:
            path: the file: PEM, PKCS #8 (RFC 8410), as `openssl genpkey -algorithm ed25519` makes.

        Raises:
            FileExistsError: something has that name; it is unchanged.
            OSError: the file cannot be written; then there is none.
        """
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        newfile.create(path, pem, _MODE)
        return cls(key)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a key's file.

        Raises:
            SigningKeyError: it is missing, others could read it, or it holds no Ed25519 key.
        """
        try:
            key = load_pem_private_key(_private_bytes(path), password=None)
        except (ValueError, TypeError):  # malformed; encrypted
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise SigningKeyError(
                "signing_key_malformed", f"{path} holds no unencrypted Ed25519 key (PEM, PKCS #8)"
            ) from None
        return cls(key)

    def sign(self, domain: bytes, message: bytes) -> bytes:
        """Return the signature, 64 bytes, of a message under a domain."""
        return self._key.sign(_bound(domain, message))

    def __repr__(self) -> str:
        return f"SigningKey(hidden, public {self.public})"

    def __reduce_ex__(self, protocol: object) -> str:
        raise TypeError("a signing key is never serialised")


def _bound(domain: bytes, message: bytes) -> bytes:
    # A domain holds no zero byte, so no two pairs of domain and message give the same bytes.
    return domain + b"\0" + message


def _private_bytes(path: Path) -> bytes:
    """Read a file that only its owner can read."""
    try:
        # Links are followed: Kubernetes mounts each secret as one. The file itself is looked at.
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            data = file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise SigningKeyError(
            "signing_key_missing", f"{path} cannot be read: {error.strerror}"
        ) from error
    if os.name == "posix":  # Windows has no such modes
        _check_private(path, found)
    return data


def _check_private(path: Path, found: os.stat_result) -> None:
    if found.st_uid not in {0, os.geteuid()}:
        raise SigningKeyError(
            "signing_key_insecure",
            f"{path} belongs to user {found.st_uid}, and this process is user {os.geteuid()}",
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise SigningKeyError(
            "signing_key_insecure",
            f"{path} has mode {stat.S_IMODE(found.st_mode):04o}, so others have access to the key",
            f"chmod 600 {path}",
        )
