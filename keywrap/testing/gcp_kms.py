"""A strict reference of Cloud KMS: its semantics, real AES-256-GCM, faults on demand.

It refuses what the API reference says that Cloud KMS refuses:
https://cloud.google.com/kms/docs/reference/rpc. Where that is silent on which of two errors comes
first, permission comes before the key, and a version's state before the wrap. `gcp_kms_server`
puts it behind gRPC, so that the vendor's client asks it.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

import google_crc32c
from google.cloud import kms_v1
from grpc import StatusCode

from keywrap.testing.gcp_kms_keys import CloudKmsError, GcpKey, GcpVersion, VersionState
from keywrap.testing.service_faults import ServiceFaults

__all__ = ["CloudKmsError", "Corruption", "Event", "StrictCloudKms"]

MAX_BYTES = 64 * 1024
"""Most that plaintext and additional data may have, each, under a software key."""

_TRAIL = 100_000
_Answer = TypeVar("_Answer")
_CHECKED = ("plaintext", "ciphertext", "additional_authenticated_data")


class Corruption(StrEnum):
    """An answer that a broken service, or one that is not ours, may give."""

    ANOTHER_PLAINTEXT = "another plaintext"  # of Decrypt, its checksum sound
    ANOTHER_DATA_KEY = "another data key"  # of Encrypt: a sound wrap, but of another data key
    ALTERED = "altered"  # a bit of its bytes is wrong, the checksum of what they were
    NO_CHECKSUM = "no checksum"
    NOT_VERIFIED = "not verified"  # of Encrypt: what was received was not compared
    WRONG_NAME = "wrong name"  # of another version, or another key
    STALE_PRIMARY = "stale primary"  # a change of the primary that is not seen everywhere yet


@dataclass(frozen=True, slots=True)
class Event:
    """What an audit log would say of a request; never bytes of a key or a wrap.

    Attributes:
        operation: such as `Encrypt`.
        name: the resource that the request names.
        error: the gRPC code's name; empty where it was done.
    """

    operation: str
    name: str
    error: str


class StrictCloudKms:
    """Cloud KMS in memory; may be used from many threads.

    Attributes:
        faults: what is to go wrong; failures are `CloudKmsError`.
        generation_polls: how many looks at a new version it takes until it is enabled.
        page_size: most entries of a list in one answer.
        trail: the last 100,000 requests.
    """

    def __init__(self) -> None:
        self.faults: ServiceFaults[CloudKmsError] = ServiceFaults(
            CloudKmsError(StatusCode.RESOURCE_EXHAUSTED, "Quota exceeded for quota metric"),
            frozenset({"Encrypt", "Decrypt"}),
        )
        self.generation_polls = 0
        self.page_size = 1000
        self.trail: deque[Event] = deque(maxlen=_TRAIL)
        self._keys: dict[str, GcpKey] = {}
        self._denied: set[str] = set()
        self._lock = threading.RLock()
        self._operations: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
            "Encrypt": ("name", self._encrypt),
            "Decrypt": ("name", self._decrypt),
            "GetCryptoKey": ("name", self._get_key),
            "GetCryptoKeyVersion": ("name", self._get_version),
            "ListCryptoKeyVersions": ("parent", self._list_versions),
            "CreateCryptoKeyVersion": ("parent", self._create_version),
            "UpdateCryptoKeyPrimaryVersion": ("name", self._set_primary),
            "UpdateCryptoKeyVersion": ("crypto_key_version.name", self._update_version),
        }

    def create_key(self, name: str) -> GcpKey:
        """Create a key with one version, which is primary; one that is there stays as it is."""
        with self._lock:
            if name not in self._keys:
                self._keys[name] = GcpKey(name)
                self._keys[name].primary = self._keys[name].add_version().number
            return self._keys[name]

    def key(self, name: str) -> GcpKey:
        """Return a key; a test may set its state."""
        with self._lock:
            return self._find(name)

    def rotate(self, name: str) -> str:
        """Give a key a new primary version at once and return its number."""
        with self._lock:
            key = self._find(name)
            key.primary = key.add_version().number
            return str(key.primary)

    def deny(self, operation: str) -> None:
        """Deny an operation, such as `Decrypt`."""
        with self._lock:
            self._denied.add(operation)

    def allow(self, operation: str) -> None:
        """Take a `deny` back."""
        with self._lock:
            self._denied.discard(operation)

    def answer(self, operation: str, request: Any) -> Any:  # noqa: ANN401 - messages of Cloud KMS
        """Answer a request.

        Raises:
            CloudKmsError: it is refused, or its reply is lost.
        """
        self.faults.wait(operation)
        field, do = self._operations[operation]
        name = request
        for part in field.split("."):
            name = getattr(name, part)
        try:
            with self._lock:
                answer = self._answer(operation, request, do)
        except CloudKmsError as error:
            self.trail.append(Event(operation, name, error.code.name))
            raise
        self.trail.append(Event(operation, name, ""))
        if self.faults.loses_reply(operation):
            raise CloudKmsError(StatusCode.UNAVAILABLE, "Socket closed")
        return answer

    def _answer(self, operation: str, request: Any, do: Callable[[Any], Any]) -> Any:  # noqa: ANN401
        if failure := self.faults.failure(operation):
            raise failure
        if operation in self._denied:
            raise CloudKmsError(
                StatusCode.PERMISSION_DENIED,
                f"Permission 'cloudkms.test.{operation}' denied on resource (or it may not exist).",
            )
        for name in _CHECKED:
            _check_sum(request, name)
        return do(request)

    def _encrypt(self, request: kms_v1.EncryptRequest) -> kms_v1.EncryptResponse:
        corruption = self.faults.corruption("Encrypt")
        name, _, number = request.name.partition("/cryptoKeyVersions/")
        key = self._find(name)
        version = key.version(number or str(key.primary))
        key.require_enabled(version)
        plaintext = request.plaintext
        if corruption is Corruption.ANOTHER_DATA_KEY:
            plaintext = os.urandom(len(plaintext))
        wrap = key.seal(version, plaintext, request.additional_authenticated_data)
        sound = corruption is not Corruption.NOT_VERIFIED
        wrong = version.number + 1 if corruption is Corruption.WRONG_NAME else version.number
        answer = kms_v1.EncryptResponse(
            name=f"{name}/cryptoKeyVersions/{wrong}",
            ciphertext=wrap,
            ciphertext_crc32c=google_crc32c.value(wrap),
            verified_plaintext_crc32c=sound and "plaintext_crc32c" in request,
            verified_additional_authenticated_data_crc32c=(
                sound and "additional_authenticated_data_crc32c" in request
            ),
        )
        return _corrupted(answer, "ciphertext", corruption)

    def _decrypt(self, request: kms_v1.DecryptRequest) -> kms_v1.DecryptResponse:
        corruption = self.faults.corruption("Decrypt")
        if "/cryptoKeyVersions/" in request.name:
            raise CloudKmsError(StatusCode.INVALID_ARGUMENT, "The name is not a CryptoKey's.")
        key = self._find(request.name)
        plaintext, version = key.open(request.ciphertext, request.additional_authenticated_data)
        if corruption is Corruption.ANOTHER_PLAINTEXT:
            plaintext = os.urandom(len(plaintext))
        answer = kms_v1.DecryptResponse(
            plaintext=plaintext,
            plaintext_crc32c=google_crc32c.value(plaintext),
            used_primary=version.number == key.primary,
        )
        return _corrupted(answer, "plaintext", corruption)

    def _get_key(self, request: kms_v1.GetCryptoKeyRequest) -> kms_v1.CryptoKey:
        corruption = self.faults.corruption("GetCryptoKey")
        answer = self._key_message(self._find(request.name))
        if corruption is Corruption.WRONG_NAME:
            answer.name += "-other"
        if corruption is Corruption.STALE_PRIMARY:
            key = self._find(request.name)
            stale = key.versions[max(1, key.primary - 1)]
            answer.primary = _version_message(key, stale)
        return answer

    def _get_version(self, request: kms_v1.GetCryptoKeyVersionRequest) -> kms_v1.CryptoKeyVersion:
        key, version = self._find_version(request.name)
        if version.pending_polls:
            version.pending_polls -= 1
            if not version.pending_polls:
                version.state = VersionState.ENABLED
        return _version_message(key, version)

    def _list_versions(
        self, request: kms_v1.ListCryptoKeyVersionsRequest
    ) -> kms_v1.ListCryptoKeyVersionsResponse:
        key = self._find(request.parent)
        start = int(request.page_token or 0)
        size = min(self.page_size, request.page_size or self.page_size)
        numbers = sorted(key.versions)
        return kms_v1.ListCryptoKeyVersionsResponse(
            crypto_key_versions=[
                _version_message(key, key.versions[number])
                for number in numbers[start : start + size]
            ],
            next_page_token=str(start + size) if start + size < len(numbers) else "",
            total_size=len(numbers),
        )

    def _create_version(
        self, request: kms_v1.CreateCryptoKeyVersionRequest
    ) -> kms_v1.CryptoKeyVersion:
        key = self._find(request.parent)
        return _version_message(key, key.add_version(self.generation_polls))

    def _set_primary(
        self, request: kms_v1.UpdateCryptoKeyPrimaryVersionRequest
    ) -> kms_v1.CryptoKey:
        key = self._find(request.name)
        version = key.version(request.crypto_key_version_id)
        key.require_enabled(version)
        key.primary = version.number
        return self._key_message(key)

    def _update_version(
        self, request: kms_v1.UpdateCryptoKeyVersionRequest
    ) -> kms_v1.CryptoKeyVersion:
        key, version = self._find_version(request.crypto_key_version.name)
        switchable = {VersionState.ENABLED, VersionState.DISABLED}
        wanted = request.crypto_key_version.state
        if list(request.update_mask.paths) != ["state"] or wanted not in switchable:
            raise CloudKmsError(StatusCode.INVALID_ARGUMENT, "update_mask is required.")
        if version.state not in switchable:
            key.require_enabled(version)
        version.state = int(wanted)
        return _version_message(key, version)

    def _find(self, name: str) -> GcpKey:
        if name not in self._keys:
            raise CloudKmsError(StatusCode.NOT_FOUND, f"CryptoKey {name} not found.")
        return self._keys[name]

    def _find_version(self, name: str) -> tuple[GcpKey, GcpVersion]:
        key, _, number = name.partition("/cryptoKeyVersions/")
        return self._find(key), self._find(key).version(number)

    def _key_message(self, key: GcpKey) -> kms_v1.CryptoKey:
        primary = _version_message(key, key.versions[key.primary]) if key.primary else None
        return kms_v1.CryptoKey(name=key.name, purpose=key.purpose, primary=primary)


def _version_message(key: GcpKey, version: GcpVersion) -> kms_v1.CryptoKeyVersion:
    return kms_v1.CryptoKeyVersion(
        name=f"{key.name}/cryptoKeyVersions/{version.number}",
        state=version.state,
        create_time=datetime.fromtimestamp(version.created_at, UTC),
    )


def _check_sum(request: Any, name: str) -> None:  # noqa: ANN401 - any message of Cloud KMS
    fields = type(request).meta.fields
    if name not in fields:
        return
    data = getattr(request, name)
    if len(data) > MAX_BYTES:
        raise CloudKmsError(StatusCode.INVALID_ARGUMENT, f"The field {name} is too long.")
    summed = getattr(request, f"{name}_crc32c")
    if summed is not None and summed != google_crc32c.value(data):
        raise CloudKmsError(
            StatusCode.INVALID_ARGUMENT,
            f"The checksum in field {name}_crc32c did not match the data in field {name}.",
        )


def _corrupted(answer: _Answer, name: str, corruption: object) -> _Answer:
    """Return an answer as its corruption leaves it."""
    if corruption is Corruption.ALTERED:
        data = bytearray(getattr(answer, name))
        data[-1] ^= 1
        setattr(answer, name, bytes(data))
    if corruption is Corruption.NO_CHECKSUM:
        setattr(answer, f"{name}_crc32c", None)
    return answer
