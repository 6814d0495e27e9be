"""A strict reference of AWS KMS: its semantics, real AES-256-GCM, faults on demand.

The emulators accept what AWS refuses (a wrong source key, a disabled key, an altered wrap), so
nothing that passes on them is shown to be right. This one refuses what the API reference says
that AWS refuses: https://docs.aws.amazon.com/kms/latest/APIReference/. Where that is silent on
which of two errors comes first, permission comes before key state, and key state before the wrap.

It speaks the service's JSON protocol and nothing else: `aws_kms_hook.attach` puts it behind a
real boto3 client, and `aws_server` behind HTTP.
"""

import base64
import binascii
import json
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from keywrap.testing.aws_kms_faults import AFFECTS, CRYPTOGRAPHIC, MESSAGES, Corruption
from keywrap.testing.aws_kms_keys import Kek, Keks, KeyState, KmsServiceError, Material
from keywrap.testing.aws_kms_management import Document, KeyManagement
from keywrap.testing.service_faults import LostReplyError, ServiceFaults

__all__ = ["Corruption", "Event", "LostReplyError", "StrictKms"]

MAX_PLAINTEXT_BYTES = 4096
MAX_CIPHERTEXT_BYTES = 6144
"""The limits of the API reference for a symmetric key."""

_TRAIL = 100_000
_PRINCIPAL = "arn:aws:sts::111122223333:assumed-role/rewrap-worker/test"
_SERVER_ERRORS = frozenset(
    {"KMSInternalException", "DependencyTimeoutException", "KeyUnavailableException"}
)
_SIZES = {"AES_256": 32, "AES_128": 16}


@dataclass(frozen=True, slots=True)
class Event:
    """What CloudTrail would say of a request; never bytes of a key or a wrap.

    Attributes:
        name: the operation.
        request_id: what the answer's header names as well.
        at: when, in seconds since 1970.
        keys: ARNs of the keys, the source before the destination.
        contexts: the encryption contexts, in the same order.
        materials: key material ids, in the same order.
        error: the error's name; empty where it was done.
    """

    name: str
    request_id: str
    at: float
    keys: tuple[str, ...]
    contexts: tuple[Mapping[str, str], ...]
    materials: tuple[str, ...]
    error: str


@dataclass(slots=True)
class _Request:
    """A request on its way, and what the trail will say of it."""

    operation: str
    parameters: Document
    corruption: object
    keys: list[str] = field(default_factory=list)
    contexts: list[Mapping[str, str]] = field(default_factory=list)
    materials: list[str] = field(default_factory=list)


class StrictKms:
    """AWS KMS in memory; may be used from many threads.

    Args:
        region: the Region of its keys.

    Attributes:
        faults: what is to go wrong; failures are names of errors, such as `KMSInternalException`.
        rotation_polls: how many looks at a key an on-demand rotation takes, from the next on.
        trail: the last 100,000 requests.
    """

    def __init__(self, region: str = "eu-west-1") -> None:
        self.faults = ServiceFaults("ThrottlingException", CRYPTOGRAPHIC, AFFECTS)
        self.trail: deque[Event] = deque(maxlen=_TRAIL)
        self._keks = Keks(region)
        self._management = KeyManagement(self._keks)
        self._denied: set[tuple[str, str]] = set()
        self._lock = threading.RLock()
        self._cryptography: dict[str, Callable[[_Request], Document]] = {
            "Encrypt": self._encrypt,
            "Decrypt": self._decrypt,
            "ReEncrypt": self._re_encrypt,
            "GenerateDataKey": self._generate_data_key,
            "GenerateDataKeyWithoutPlaintext": self._generate_data_key_without_plaintext,
        }

    @property
    def rotation_polls(self) -> int:
        """See the class."""
        return self._management.rotation_polls

    @rotation_polls.setter
    def rotation_polls(self, polls: int) -> None:
        self._management.rotation_polls = polls

    def create_key(self, *, multi_region: bool = False, spec: str = "SYMMETRIC_DEFAULT") -> str:
        """Create a key and return its ARN."""
        with self._lock:
            return self._keks.create(multi_region=multi_region, spec=spec).arn

    def key(self, key_id: str) -> Kek:
        """Return a key by its ARN, id or alias; a test may set its state."""
        with self._lock:
            return self._keks.resolve(key_id)

    def rotate(self, key_id: str, *, on_demand: bool = False) -> str:
        """Give a key new material at once and return the material's id."""
        with self._lock:
            kek = self._keks.resolve(key_id)
            kek.add_material(on_demand=on_demand)
            return kek.materials[-1].id

    def set_state(self, key_id: str, state: KeyState) -> None:
        """Put a key into a state."""
        with self._lock:
            self._keks.resolve(key_id).state = state

    def deny(self, action: str, key_arn: str = "") -> None:
        """Deny an action, such as `Decrypt` or `ReEncryptFrom`, on one key or on all."""
        with self._lock:
            self._denied.add((action, key_arn))

    def allow(self, action: str, key_arn: str = "") -> None:
        """Take a `deny` back."""
        with self._lock:
            self._denied.discard((action, key_arn))

    def answer(self, target: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Answer a request.

        Args:
            target: the header `X-Amz-Target`, such as `TrentService.Encrypt`.
            body: the request's JSON.

        Returns:
            Status, headers and body of the answer.

        Raises:
            LostReplyError: the operation is done, but the caller is to get no answer.
        """
        request = _Request(target.rpartition(".")[2], {}, None)
        request_id = str(uuid.uuid4())
        status, error, document = 200, "", {}
        self.faults.wait(request.operation)
        try:
            self._fail(request.operation)
            request.parameters = _object(body)
            with self._lock:
                request.corruption = self.faults.corruption(request.operation)
                document = self._do(request)
        except KmsServiceError as failure:
            error = failure.code
            status = 500 if error in _SERVER_ERRORS else 400
            document = {"__type": error, "message": str(failure)}
        self.trail.append(
            Event(
                request.operation,
                request_id,
                time.time(),
                tuple(request.keys),
                tuple(request.contexts),
                tuple(request.materials),
                error,
            )
        )
        if not error and self.faults.loses_reply(request.operation):
            raise LostReplyError
        headers = {"x-amzn-requestid": request_id, "content-type": "application/x-amz-json-1.1"}
        return status, headers, json.dumps(document).encode()

    def _fail(self, operation: str) -> None:
        if code := self.faults.failure(operation):
            raise KmsServiceError(code, MESSAGES.get(code, ""))

    def _do(self, request: _Request) -> Document:
        if work := self._cryptography.get(request.operation):
            document = work(request)
            # After all checks: a dry run fails as the real one would, or else in this way.
            if request.parameters.get("DryRun"):
                raise KmsServiceError(
                    "DryRunOperationException",
                    "The request would have succeeded, but the DryRun option is set.",
                )
        else:
            manage = self._management.operation(request.operation)
            if "KeyId" in request.parameters:
                self._authorized(request, request.parameters["KeyId"], request.operation)
            document = manage(request.parameters)
        return self._corrupted(document, request)

    def _authorized(self, request: _Request, key_id: str, action: str) -> Kek:
        kek = self._keks.resolve(key_id)
        request.keys.append(kek.arn)
        if self._denied & {(action, ""), (action, kek.arn)}:
            raise KmsServiceError(
                "AccessDeniedException",
                f"User: {_PRINCIPAL} is not authorized to perform: kms:{action} on resource: "
                f"{kek.arn} because no identity-based policy allows the kms:{action} action",
            )
        return kek

    def _usable(self, request: _Request, key_id: str, action: str) -> Kek:
        kek = self._authorized(request, key_id, action)
        kek.check_usable()
        return kek

    def _encrypt(self, request: _Request) -> Document:
        plaintext = _blob(request.parameters, "Plaintext", MAX_PLAINTEXT_BYTES)
        kek = self._usable(request, request.parameters.get("KeyId", ""), "Encrypt")
        wrap, _ = self._seal(request, kek, plaintext, _context(request, "EncryptionContext"))
        return {**_wrapped(wrap), "KeyId": kek.arn, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}

    def _decrypt(self, request: _Request) -> Document:
        kek, material, plaintext = self._open(request, "KeyId", "EncryptionContext", "Decrypt")
        return {
            "Plaintext": base64.b64encode(plaintext).decode(),
            "KeyId": kek.arn,
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
            "KeyMaterialId": material.id,
        }

    def _re_encrypt(self, request: _Request) -> Document:
        source, old, plaintext = self._open(
            request, "SourceKeyId", "SourceEncryptionContext", "ReEncryptFrom"
        )
        destination = request.parameters.get("DestinationKeyId", "")
        kek = self._usable(request, destination, "ReEncryptTo")
        context = _context(request, "DestinationEncryptionContext")
        wrap, new = self._seal(request, kek, plaintext, context)
        return {
            **_wrapped(wrap),
            "SourceKeyId": source.arn,
            "KeyId": kek.arn,
            "SourceEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
            "DestinationEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
            "SourceKeyMaterialId": old.id,
            "DestinationKeyMaterialId": new.id,
        }

    def _generate_data_key(self, request: _Request) -> Document:
        plaintext = os.urandom(_data_key_bytes(request.parameters))
        document = self._generate(request, plaintext)
        return {**document, "Plaintext": base64.b64encode(plaintext).decode()}

    def _generate_data_key_without_plaintext(self, request: _Request) -> Document:
        return self._generate(request, os.urandom(_data_key_bytes(request.parameters)))

    def _generate(self, request: _Request, plaintext: bytes) -> Document:
        kek = self._usable(request, request.parameters.get("KeyId", ""), request.operation)
        wrap, material = self._seal(request, kek, plaintext, _context(request, "EncryptionContext"))
        return {**_wrapped(wrap), "KeyId": kek.arn, "KeyMaterialId": material.id}

    def _seal(
        self, request: _Request, kek: Kek, plaintext: bytes, context: Mapping[str, str]
    ) -> tuple[bytes, Material]:
        stale = request.corruption is Corruption.STALE_MATERIAL
        material = kek.materials[-2:][0] if stale else kek.materials[-1]
        if request.corruption is Corruption.ANOTHER_DATA_KEY:
            plaintext = os.urandom(len(plaintext))
        request.materials.append(material.id)
        return kek.seal(plaintext, context, material), material

    def _open(
        self, request: _Request, key_field: str, context_field: str, action: str
    ) -> tuple[Kek, Material, bytes]:
        parameters = request.parameters
        context = _context(request, context_field)
        if "IGNORE_CIPHERTEXT" in parameters.get("DryRunModifiers", ()):
            # A dry run without a wrap: it asks for the permission only.
            kek = self._usable(request, parameters.get(key_field, ""), action)
            return kek, kek.materials[-1], b"\0"
        wrap = _blob(parameters, "CiphertextBlob", MAX_CIPHERTEXT_BYTES)
        named = parameters.get(key_field)
        if named:
            self._usable(request, named, action)
        kek, material = self._keks.find(wrap)
        if not named:
            self._usable(request, kek.arn, action)
        elif self._keks.resolve(named) is not kek:
            raise KmsServiceError(
                "IncorrectKeyException",
                "The key ID in the request does not identify a CMK that can perform this operation",
            )
        plaintext = kek.open(wrap, context, material)
        request.materials.append(material.id)
        return kek, material, plaintext

    def _corrupted(self, document: Document, request: _Request) -> Document:
        """Return an answer as its corruption leaves it."""
        match request.corruption:
            case Corruption.ANOTHER_PLAINTEXT:
                size = len(base64.b64decode(document["Plaintext"]))
                document["Plaintext"] = base64.b64encode(os.urandom(size)).decode()
            case Corruption.ALTERED_CIPHERTEXT:
                wrap = bytearray(base64.b64decode(document["CiphertextBlob"]))
                wrap[-1] ^= 1
                document.update(_wrapped(bytes(wrap)))
            case Corruption.WRONG_MATERIAL:
                _replace(document, ("KeyMaterialId", "DestinationKeyMaterialId"), os.urandom(32))
                _replace(document.get("KeyMetadata", {}), ("CurrentKeyMaterialId",), os.urandom(32))
            case Corruption.WRONG_KEY:
                other = Keks(self._keks.region).create().arn
                document.get("KeyMetadata", document).update({"KeyId": other, "Arn": other})
            case Corruption.STALE_MATERIAL if "KeyMetadata" in document:
                kek = self._keks.resolve(document["KeyMetadata"]["Arn"])
                document["KeyMetadata"]["CurrentKeyMaterialId"] = kek.materials[-2:][0].id
        return document


def _object(body: bytes) -> Document:
    try:
        parameters = json.loads(body)
    except ValueError:
        parameters = None
    if not isinstance(parameters, dict):
        raise KmsServiceError("SerializationException")
    return parameters


def _blob(parameters: Document, name: str, most: int) -> bytes:
    try:
        data = base64.b64decode(parameters.get(name, ""), validate=True)
    except (binascii.Error, TypeError):
        raise KmsServiceError("SerializationException") from None
    if not 0 < len(data) <= most:
        raise KmsServiceError(
            "ValidationException",
            f"1 validation error detected: Value at '{name}' failed to satisfy constraint: "
            f"Member must have length between 1 and {most}",
        )
    return data


def _context(request: _Request, name: str) -> Mapping[str, str]:
    context: Any = request.parameters.get(name) or {}
    if not isinstance(context, dict) or not all(isinstance(v, str) for v in context.values()):
        raise KmsServiceError("SerializationException")
    request.contexts.append(context)
    return context


def _data_key_bytes(parameters: Document) -> int:
    size = parameters.get("NumberOfBytes")
    spec = parameters.get("KeySpec")
    if (size is None) == (spec is None) or (spec is not None and spec not in _SIZES):
        raise KmsServiceError(
            "ValidationException", "Please specify either number of bytes or key spec."
        )
    return int(_SIZES[str(spec)] if size is None else size)


def _wrapped(wrap: bytes) -> Document:
    return {"CiphertextBlob": base64.b64encode(wrap).decode()}


def _replace(document: Document, names: tuple[str, ...], value: bytes) -> None:
    for name in names:
        if name in document:
            document[name] = value.hex()
