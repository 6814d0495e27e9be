"""The keys of the strict reference of Key Vault: versions with attributes, real cryptography."""

import functools
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap,
    aes_key_wrap,
)

_IV_BYTES = 12
_TAG_BYTES = 16
_OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)

ALGORITHMS: Mapping[str, Mapping[str, frozenset[str]]] = {
    "RSA": {"wrapkey": frozenset({"RSA-OAEP-256"}), "encrypt": frozenset({"RSA-OAEP-256"})},
    "oct-HSM": {"wrapkey": frozenset({"A256KW"}), "encrypt": frozenset({"A256GCM"})},
}
"""What the reference knows of each kind of key; a vault has more."""

_OPERATIONS = ("wrapKey", "unwrapKey", "encrypt", "decrypt")


class VaultError(Exception):
    """A request that a vault refuses.

    Args:
        status: of HTTP.
        code: of the error.
        message: what the service says.
        inner: the code of the inner error; empty for none.
        retry_after: what the header of that name says; empty for none.
    """

    def __init__(
        self,
        status: int,
        code: str = "injected",
        message: str = "injected",
        *,
        inner: str = "",
        retry_after: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.inner = inner
        self.retry_after = retry_after


def bad_parameter() -> VaultError:
    """Return what a vault says to a wrap that does not open, and to much else."""
    return VaultError(HTTPStatus.BAD_REQUEST, "BadParameter", "The parameter is incorrect.")


@functools.lru_cache(maxsize=64)
def _rsa_key(number: int) -> rsa.RSAPrivateKey:
    """Return the nth version's key of every vault of this process: to make one takes long."""
    del number
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@dataclass(slots=True)
class VaultVersion:
    """A version of a key; a test may set its attributes."""

    number: int
    kty: str
    created: int
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    enabled: bool = True
    expires: int | None = None
    not_before: int | None = None
    key_ops: tuple[str, ...] = _OPERATIONS
    secret: bytes = field(default_factory=lambda: os.urandom(32))

    def jwk(self, kid: str, *, number: int = 0) -> dict[str, Any]:
        """Return the public part: nothing at all of an AES key.

        Args:
            kid: the key identifier.
            number: whose public key to show instead of its own.
        """
        shown: dict[str, Any] = {"kid": kid, "kty": self.kty, "key_ops": list(self.key_ops)}
        if self.kty == "RSA":
            public = _rsa_key(number or self.number).public_key().public_numbers()
            shown |= {"n": _big_endian(public.n), "e": _big_endian(public.e)}
        return shown

    def attributes(self) -> dict[str, Any]:
        """Return its attributes."""
        return {
            "enabled": self.enabled,
            "created": self.created,
            "updated": self.created,
            **({"exp": self.expires} if self.expires else {}),
            **({"nbf": self.not_before} if self.not_before else {}),
        }

    def require_usable(self, operation: str) -> None:
        """See that it may do something now. Time bounds hold for what makes wraps only."""
        named = f"Operation {operation} is not allowed on"
        if not self.enabled:
            raise VaultError(403, "Forbidden", f"{named} a disabled key.", inner="KeyDisabled")
        if operation not in self.key_ops:
            raise VaultError(403, "Forbidden", f"{named} this key.", inner="KeyOperationForbidden")
        if operation in {"unwrapKey", "decrypt"}:
            return
        now = time.time()
        if self.expires and self.expires <= now:
            raise VaultError(403, "Forbidden", f"{named} an expired key.", inner="KeyExpired")
        if self.not_before and self.not_before > now:
            raise VaultError(403, "Forbidden", f"{named} a not yet valid key.", inner="KeyNotYet")

    def seal(self, operation: str, algorithm: str, value: bytes, aad: bytes) -> dict[str, bytes]:
        """Wrap or encrypt."""
        self._require_algorithm(operation, algorithm)
        try:
            if algorithm == "RSA-OAEP-256":
                return {"value": _rsa_key(self.number).public_key().encrypt(value, _OAEP)}
            if algorithm == "A256KW":
                return {"value": aes_key_wrap(self.secret, value)}
        except ValueError:
            raise bad_parameter() from None
        iv = os.urandom(_IV_BYTES)
        sealed = AESGCM(self.secret).encrypt(iv, value, aad)
        return {"value": sealed[:-_TAG_BYTES], "iv": iv, "tag": sealed[-_TAG_BYTES:], "aad": aad}

    def open(self, operation: str, algorithm: str, fields: Mapping[str, bytes]) -> dict[str, bytes]:
        """Unwrap or decrypt."""
        self._require_algorithm("wrapkey" if operation == "unwrapkey" else "encrypt", algorithm)
        value = fields["value"]
        try:
            if algorithm == "RSA-OAEP-256":
                return {"value": _rsa_key(self.number).decrypt(value, _OAEP)}
            if algorithm == "A256KW":
                return {"value": aes_key_unwrap(self.secret, value)}
            sealed = value + fields["tag"]
            return {"value": AESGCM(self.secret).decrypt(fields["iv"], sealed, fields["aad"])}
        except (ValueError, KeyError, InvalidUnwrap, InvalidTag):
            raise bad_parameter() from None

    def _require_algorithm(self, operation: str, algorithm: str) -> None:
        if algorithm not in ALGORITHMS[self.kty][operation]:
            raise VaultError(
                HTTPStatus.BAD_REQUEST,
                "BadParameter",
                f"Key and algorithm are incompatible. Key: {self.kty}, algorithm: {algorithm}",
            )


def _big_endian(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
