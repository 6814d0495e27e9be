"""A strict reference of Key Vault and Managed HSM: real cryptography, faults on demand.

It refuses what the REST reference says that a vault refuses:
https://learn.microsoft.com/rest/api/keyvault/keys. Where that is silent on which of two errors
comes first, permission comes before the key, and the key's state before the wrap. `VaultAdapter`
puts it behind the vendor's client in this process, `azure_vault_server` behind HTTP.
"""

import base64
import binascii
import json
import os
import re
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

from keywrap.testing.azure_vault_keys import VaultError, VaultVersion, bad_parameter
from keywrap.testing.service_faults import LostReplyError, ServiceFaults

__all__ = ["Answer", "Corruption", "Event", "LostReplyError", "StrictVault", "VaultError"]

_TRAIL = 100_000
_TENANT = "11111111-2222-3333-4444-555555555555"
_PATH = re.compile(
    r"/keys/(?P<name>[A-Za-z0-9-]+)(?:/(?P<version>[0-9a-f]{32}))?/?(?P<operation>[a-z]+)?/?"
)
_KEY_OPS = {
    "wrapkey": "wrapKey",
    "unwrapkey": "unwrapKey",
    "encrypt": "encrypt",
    "decrypt": "decrypt",
}
_ANOTHER = 63  # the number of a public key that no version of any vault has

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers and body."""


class Corruption(StrEnum):
    """An answer that a broken service, or one that is not ours, may give."""

    ANOTHER_PLAINTEXT = "another plaintext"  # of unwrapkey and decrypt, as long as the right one
    ANOTHER_DATA_KEY = "another data key"  # of encrypt: a sound wrap, but of another data key
    ANOTHER_PUBLIC_KEY = "another public key"  # of get: nobody has the private one
    WRONG_KID = "wrong kid"  # of another version
    NO_KID = "no kid"
    NO_VALUE = "no value"
    NOT_BASE64 = "not base64"
    NOT_JSON = "not JSON"
    STALE_CURRENT = "stale current"  # of get: a rotation that is not seen everywhere yet


@dataclass(frozen=True, slots=True)
class Event:
    """What the vault's log would say of a request; never bytes of a key or a wrap.

    Attributes:
        operation: such as `unwrapkey`; `challenge` where it had no token.
        version: the version that the path names; empty where it names none.
        status: of the answer.
    """

    operation: str
    version: str
    status: int


class StrictVault:
    """A vault or Managed HSM in memory; may be used from many threads.

    Args:
        host: its name; of a Managed HSM by its domain.

    Attributes:
        faults: what is to go wrong; failures are `VaultError`.
        trail: the last 100,000 requests.
        page_size: most entries of a list in one answer.
        refuses_tokens: whether no token is good enough.
    """

    def __init__(self, host: str = "my-vault.vault.azure.net") -> None:
        self.host = host
        self.faults: ServiceFaults[VaultError] = ServiceFaults(
            VaultError(HTTPStatus.TOO_MANY_REQUESTS, "Throttled", "Too many requests"),
            frozenset({"get", "wrapkey", "unwrapkey", "encrypt", "decrypt"}),
        )
        self.trail: deque[Event] = deque(maxlen=_TRAIL)
        self.page_size = 25
        self.refuses_tokens = False
        self._keys: dict[str, list[VaultVersion]] = {}
        self._denied: set[str] = set()
        self._clock = 0
        self._lock = threading.RLock()

    @property
    def is_managed_hsm(self) -> bool:
        """Whether it has AES keys."""
        return ".managedhsm." in self.host

    def create_key(self, name: str, kty: str = "RSA") -> str:
        """Create a key, or let one that is there be; return its current version."""
        if kty == "oct-HSM" and not self.is_managed_hsm:
            raise ValueError("a vault has no AES keys")
        with self._lock:
            if name not in self._keys:
                self._keys[name] = []
                self._add_version(name, kty)
            return self._keys[name][-1].id

    def rotate(self, name: str) -> str:
        """Give a key a new version and return it."""
        with self._lock:
            return self._add_version(name, self._keys[name][-1].kty).id

    def version(self, name: str, version: str = "") -> VaultVersion:
        """Return a version, the current one if none is named; a test may set its attributes."""
        with self._lock:
            return self._find(name, version)

    def delete_key(self, name: str) -> None:
        """Delete a key."""
        with self._lock:
            del self._keys[name]

    def deny(self, operation: str) -> None:
        """Deny an operation, such as `get` or `unwrapkey`."""
        with self._lock:
            self._denied.add(operation)

    def allow(self, operation: str) -> None:
        """Take a `deny` back."""
        with self._lock:
            self._denied.discard(operation)

    def answer(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Answer a request; the caller waits for the latency first.

        Args:
            method: of HTTP.
            url: the whole URL, or path and query.
            headers: their names in lower case.
            body: the whole body.

        Raises:
            LostReplyError: it was done, and the answer is lost.
        """
        parts = urlsplit(url)
        operation, name, version = _target(method, parts.path)
        if self.refuses_tokens or not headers.get("authorization", "").startswith("Bearer "):
            self.trail.append(Event("challenge", version, HTTPStatus.UNAUTHORIZED))
            return self._challenge()
        try:
            with self._lock:
                document = self._answer(operation, name, version, parts.query, body)
        except VaultError as error:
            self.trail.append(Event(operation, version, error.status))
            return _refusal(error)
        self.trail.append(Event(operation, version, HTTPStatus.OK))
        if self.faults.loses_reply(operation):
            raise LostReplyError
        return document

    def operation_of(self, method: str, url: str) -> str:
        """Return which operation a request asks for."""
        return _target(method, urlsplit(url).path)[0]

    def _answer(self, operation: str, name: str, version: str, query: str, body: bytes) -> Answer:
        if failure := self.faults.failure(operation):
            raise failure
        if not parse_qs(query).get("api-version"):
            raise VaultError(HTTPStatus.BAD_REQUEST, "BadParameter", "api-version is missing")
        if operation in self._denied:
            raise VaultError(
                HTTPStatus.FORBIDDEN,
                "Forbidden",
                "Caller is not authorized to perform action on resource.",
                inner="ForbiddenByRbac",
            )
        corruption = self.faults.corruption(operation)
        if operation in _KEY_OPS:
            document = self._use(operation, name, version, body, corruption)
        elif operation == "get":
            document = self._get(name, version, corruption)
        elif operation == "list":
            document = self._list(name, int(parse_qs(query).get("skip", ["0"])[0]))
        elif operation == "rotate":
            made = self._add_version(name, self._find(name, "").kty)
            document = self._bundle(name, made)
        elif operation == "update":
            document = self._update(name, version, body)
        else:
            raise VaultError(HTTPStatus.NOT_FOUND, "NotFound", "There is no such operation.")
        text = "<html>" if corruption is Corruption.NOT_JSON else json.dumps(document)
        return HTTPStatus.OK, {"content-type": "application/json"}, text.encode()

    def _use(
        self, operation: str, name: str, version: str, body: bytes, corruption: object
    ) -> dict[str, Any]:
        used = self._find(name, version)
        used.require_usable(_KEY_OPS[operation])
        algorithm, fields = _fields(body)
        if operation in {"wrapkey", "encrypt"}:
            value = fields["value"]
            if corruption is Corruption.ANOTHER_DATA_KEY:
                value = os.urandom(len(value))
            done = used.seal(operation, algorithm, value, fields.get("aad", b""))
        else:
            done = used.open(operation, algorithm, fields)
            if corruption is Corruption.ANOTHER_PLAINTEXT:
                done["value"] = os.urandom(len(done["value"]))
        document: dict[str, Any] = {field: _encode(data) for field, data in done.items()}
        document["kid"] = self._kid(name, used.id)
        return _corrupted(document, corruption)

    def _get(self, name: str, version: str, corruption: object) -> dict[str, Any]:
        found = self._find(name, version)
        if corruption is Corruption.STALE_CURRENT and not version:
            found = self._keys[name][-2:][0]
        number = _ANOTHER if corruption is Corruption.ANOTHER_PUBLIC_KEY else 0
        document = self._bundle(name, found, number=number)
        if corruption is Corruption.WRONG_KID:
            document["key"]["kid"] = self._kid(name + "-other", found.id)
        return document

    def _list(self, name: str, skip: int) -> dict[str, Any]:
        # In no order of time, as the service promises none.
        versions = sorted(self._versions(name), key=lambda each: each.id)
        after = skip + self.page_size
        following = f"https://{self.host}/keys/{name}/versions?api-version=7.4&skip={after}"
        return {
            "value": [
                {"kid": self._kid(name, each.id), "attributes": each.attributes()}
                for each in versions[skip:after]
            ],
            "nextLink": following if after < len(versions) else None,
        }

    def _update(self, name: str, version: str, body: bytes) -> dict[str, Any]:
        found = self._find(name, version)
        attributes = json.loads(body).get("attributes", {})
        if "enabled" in attributes:
            found.enabled = bool(attributes["enabled"])
        return self._bundle(name, found)

    def _add_version(self, name: str, kty: str) -> VaultVersion:
        # The service's clock counts in seconds; tests do not wait for it.
        self._clock = max(int(time.time()), self._clock + 1)
        made = VaultVersion(len(self._versions(name)) + 1, kty, self._clock)
        self._keys[name].append(made)
        return made

    def _bundle(self, name: str, version: VaultVersion, *, number: int = 0) -> dict[str, Any]:
        jwk = version.jwk(self._kid(name, version.id), number=number)
        shown = {
            field: _encode(value) if isinstance(value, bytes) else value
            for field, value in jwk.items()
        }
        return {"key": shown, "attributes": version.attributes()}

    def _kid(self, name: str, version: str) -> str:
        return f"https://{self.host}/keys/{name}/{version}"

    def _versions(self, name: str) -> list[VaultVersion]:
        if name not in self._keys:
            raise VaultError(
                HTTPStatus.NOT_FOUND, "KeyNotFound", f"A key with (name/id) {name} was not found."
            )
        return self._keys[name]

    def _find(self, name: str, version: str) -> VaultVersion:
        for each in reversed(self._versions(name)):
            if version in {"", each.id}:
                return each
        raise VaultError(
            HTTPStatus.NOT_FOUND, "KeyNotFound", f"A key with (name/id) {version} was not found."
        )

    def _challenge(self) -> Answer:
        resource = "managedhsm.azure.net" if self.is_managed_hsm else "vault.azure.net"
        challenge = (
            f'Bearer authorization="https://login.microsoftonline.com/{_TENANT}", '
            f'resource="https://{resource}"'
        )
        return HTTPStatus.UNAUTHORIZED, {"WWW-Authenticate": challenge}, b"{}"


def _target(method: str, path: str) -> tuple[str, str, str]:
    """Return the operation, key name and version that a request is about."""
    match = _PATH.fullmatch(re.sub("/+", "/", path))  # the client leaves out a version so
    if match is None:
        return "", "", ""
    named = (match["operation"] or "").lower()
    operation = {"GET": "get", "PATCH": "update"}.get(method, "")
    if named == "versions":
        operation = "list"
    elif named:
        operation = named
    return operation, match["name"], match["version"] or ""


def _fields(body: bytes) -> tuple[str, dict[str, bytes]]:
    """Return algorithm and byte fields of a request."""
    try:
        document = json.loads(body)
        algorithm = document.pop("alg")
        fields = {
            name: base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            for name, text in document.items()
            if text is not None
        }
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
        raise bad_parameter() from None
    if "value" not in fields:
        raise bad_parameter()
    return algorithm, fields


def _refusal(error: VaultError) -> Answer:
    document: dict[str, Any] = {"code": error.code, "message": str(error)}
    if error.inner:
        document["innererror"] = {"code": error.inner}
    headers = {"content-type": "application/json"}
    if error.retry_after:
        headers["Retry-After"] = error.retry_after
    return error.status, headers, json.dumps({"error": document}).encode()


def _corrupted(document: dict[str, Any], corruption: object) -> dict[str, Any]:
    """Return an answer as its corruption leaves it."""
    if corruption is Corruption.WRONG_KID:
        document["kid"] = document["kid"][:-32] + uuid.uuid4().hex
    if corruption is Corruption.NO_KID:
        del document["kid"]
    if corruption is Corruption.NO_VALUE:
        del document["value"]
    if corruption is Corruption.NOT_BASE64:
        document["value"] = "*" + document["value"]
    return document


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
