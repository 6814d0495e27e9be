"""The keys of the strict reference of Cloud KMS: versions with states, real AES-256-GCM."""

import os
import time
from dataclasses import dataclass, field
from typing import TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.cloud.kms_v1 import CryptoKey, CryptoKeyVersion
from grpc import StatusCode

VersionState: TypeAlias = CryptoKeyVersion.CryptoKeyVersionState

_ID_BYTES = 8
_NUMBER_BYTES = 4
_NONCE_BYTES = 12


class CloudKmsError(Exception):
    """A request that Cloud KMS refuses.

    Args:
        code: of gRPC.
        text: what the service says.
    """

    def __init__(self, code: StatusCode, text: str = "injected") -> None:
        super().__init__(text)
        self.code = code


@dataclass(slots=True)
class GcpVersion:
    """A CryptoKeyVersion; a test may set its state and age."""

    number: int
    state: int = VersionState.ENABLED
    created_at: float = field(default_factory=time.time)
    pending_polls: int = 0
    cipher: AESGCM = field(default_factory=lambda: AESGCM(AESGCM.generate_key(256)))


@dataclass(slots=True)
class GcpKey:
    """A CryptoKey.

    Attributes:
        name: its resource name.
        versions: by number.
        primary: the number of the primary version; 0 for none.
        purpose: what it is for.
    """

    name: str
    versions: dict[int, GcpVersion] = field(default_factory=dict)
    primary: int = 0
    purpose: int = CryptoKey.CryptoKeyPurpose.ENCRYPT_DECRYPT
    id: bytes = field(default_factory=lambda: os.urandom(_ID_BYTES))

    def add_version(self, pending_polls: int = 0) -> GcpVersion:
        """Create the next version; it is not primary yet."""
        version = GcpVersion(len(self.versions) + 1, pending_polls=pending_polls)
        if pending_polls:
            version.state = VersionState.PENDING_GENERATION
        self.versions[version.number] = version
        return version

    def version(self, number: str) -> GcpVersion:
        """Return a version by the text in its name."""
        found = self.versions.get(int(number)) if number.isdecimal() else None
        if found is None:
            raise CloudKmsError(
                StatusCode.NOT_FOUND, f"CryptoKeyVersion {self.name}/{number} not found."
            )
        return found

    def require_enabled(self, version: GcpVersion) -> None:
        """See that a version may be used."""
        if version.state != VersionState.ENABLED:
            raise CloudKmsError(
                StatusCode.FAILED_PRECONDITION,
                f"{self.name}/cryptoKeyVersions/{version.number} is not enabled, "
                f"current state is: {VersionState(version.state).name}.",
            )

    def seal(self, version: GcpVersion, plaintext: bytes, aad: bytes) -> bytes:
        """Wrap."""
        nonce = os.urandom(_NONCE_BYTES)
        head = self.id + version.number.to_bytes(_NUMBER_BYTES, "big")
        return head + nonce + version.cipher.encrypt(nonce, plaintext, head + aad)

    def open(self, wrap: bytes, aad: bytes) -> tuple[bytes, GcpVersion]:
        """Open a wrap; return what it holds and the version that it is under."""
        head, rest = wrap[: _ID_BYTES + _NUMBER_BYTES], wrap[_ID_BYTES + _NUMBER_BYTES :]
        version = self.versions.get(int.from_bytes(head[_ID_BYTES:], "big"))
        if head[:_ID_BYTES] != self.id or version is None:
            raise CloudKmsError(
                StatusCode.INVALID_ARGUMENT,
                "Decryption failed: verify that 'name' refers to the correct CryptoKey.",
            )
        self.require_enabled(version)
        try:
            plaintext = version.cipher.decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], head + aad)
        except (InvalidTag, ValueError):
            raise CloudKmsError(
                StatusCode.INVALID_ARGUMENT, "Decryption failed: the ciphertext is invalid."
            ) from None
        return plaintext, version
