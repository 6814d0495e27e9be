"""KEKs in the Transit engine of OpenBao or HashiCorp Vault, reached through hvac.

The KEK is a *derived* Transit key: each wrap is made under a key derived from its context, so a
wrap opens only with the context it was made with, and `/rewrap` keeps that binding. (`/rewrap`
drops `associated_data`, the other way to bind: Vault issues 29532 and 31791.)

Transit tells a wrap that does not open from a key that refuses by its message, so the canary wrap
that other services need to tell *refused* from *denied* is not needed here. What the messages say
was tried on OpenBao 2.7.2; the API: https://openbao.org/api-docs/secret/transit/.
"""

import base64
import binascii
import re
import threading
from collections.abc import Callable, Sequence
from typing import ClassVar, TypeVar

from keywrap.contexts import canonical_context
from keywrap.datakey import KEY_BYTES, DataKey
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import Context, RefusedError, UnavailableError, only
from keywrap.providers.sending import Sending
from keywrap.providers.vault_connection import (
    Data,
    Item,
    TooComplexError,
    VaultConnection,
    VaultServer,
    key_error,
)

BATCH_ITEMS = 200
"""Items in one request. OpenBao refuses more than 1,000 JSON strings by default, names included
(`max_request_json_strings`, since 2.4), and an item has four."""

_MAX_REQUEST_ID = 64
"""An id is a UUID; whatever else a server sends must not fill the audit trail."""

_SEGMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
# Transit takes v0 for v1: read strictly, or one wrap would have two names.
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_CIPHERTEXT = re.compile(r"vault:v([1-9][0-9]{0,8}):([A-Za-z0-9+/]+={0,2})")

_Result = TypeVar("_Result")
_Payload = dict[str, str]


def check_key_path(path: str) -> tuple[str, str]:
    """Split `<mount>/<key name>`.

    Raises:
        ValueError: it is not of that form, or would lead to another place of the server.
    """
    mount, _, name = path.rpartition("/")
    if not all(_SEGMENT.fullmatch(segment) for segment in [*mount.split("/"), name]):
        raise ValueError("a Transit key is named <mount>/<key name>, such as transit/blob-kek")
    return mount, name


class VaultTransitProvider(Sending):
    """Wraps, unwraps and rewraps with one derived Transit key.

    A wrap's bytes are what Transit puts behind `vault:vN:`, decoded; N stands in the key version.
    May be used from many threads.

    Args:
        path: `<mount>/<key name>`.
        server: the server that has the key.
        batch_items: items in one request, to begin with.

    Raises:
        ValueError: see `check_key_path`.
    """

    _connection: VaultConnection
    binds_context: ClassVar[bool] = True
    proves_wraps: ClassVar[bool] = False

    def __init__(self, path: str, server: VaultServer, *, batch_items: int = BATCH_ITEMS) -> None:
        self._mount, self._name = check_key_path(path)
        self.key = f"hcvault://{path}"
        self.batch_items = batch_items
        self._key_is_right = False
        self._connection = VaultConnection(server, self.key, self._count_request)
        self._named = threading.local()

    def current_version(self) -> KeyVersion:
        """Read the version that `wrap` uses now. Never cached: a campaign must see a rotation.

        Raises:
            DeniedError: there is no such key, it is not derived, or the token may not read it.
        """
        data = self._send("GET", f"keys/{self._name}")
        if not data.derived:
            raise self.denied(
                "the key is not derived, so it binds no wrap to its blob, and that cannot be "
                f"changed later; make another: bao write -f {self._mount}/keys/NAME derived=true",
                "key_not_derived",
            )
        if data.soft_deleted:
            raise self.denied("the key is soft-deleted", "key_soft_deleted")
        if data.latest_version < 1:
            raise self._malformed("names no version")
        self._key_is_right = True
        return KeyVersion(self.key, str(data.latest_version))

    def create_version(self) -> KeyVersion:
        """Rotate the key and return its new version.

        Raises:
            UnavailableError: no answer, or the new version is not seen yet. The key may have been
                rotated: read `current_version` before trying again. It is never tried twice here.
        """
        before = self.current_version()
        self._send("POST", f"keys/{self._name}/rotate", again=False)
        after = self.current_version()
        if int(after.version) <= int(before.version):
            raise self.unavailable(
                "rotated, but the new version is not seen yet", "rotation_not_seen"
            )
        return after

    def closes_with(self, version: KeyVersion) -> list[KeyVersion]:
        """Return the versions before this one that open still: Transit has a floor, no switch.

        https://openbao.org/api-docs/secret/transit/#update-key-configuration

        Raises:
            KmsError: the key cannot be read.
        """
        data = self._send("GET", f"keys/{self._name}")
        floor = max(data.min_decryption_version, 1)
        return [KeyVersion(self.key, str(n)) for n in range(floor, self._number(version))]

    def stop_wrapping(self, version: KeyVersion) -> None:
        """Let the server wrap under later versions only, even where a request names this one.

        Raises:
            DeniedError: it is the newest version, or the token may not configure the key.
        """
        self._require_later(version)
        self._configure(min_encryption_version=self._number(version) + 1)

    def disable_version(self, version: KeyVersion) -> None:
        """Raise the floor above a version: it and all before it open nothing any more.

        Raises:
            DeniedError: it is the newest version, or the token may not configure the key.
        """
        self._require_later(version)
        self._configure(min_decryption_version=self._number(version) + 1)

    def enable_version(self, version: KeyVersion) -> None:
        """Lower the floor to a version, so that it and all after it open; never raises it.

        Raises:
            DeniedError: the token may not configure the key.
        """
        data = self._send("GET", f"keys/{self._name}")
        if data.min_decryption_version > self._number(version):
            self._configure(min_decryption_version=self._number(version))

    def _require_later(self, version: KeyVersion) -> None:
        if int(self.current_version().version) <= self._number(version):
            raise self.denied(f"{version} is the newest version", "version_is_current")

    def _number(self, version: KeyVersion) -> int:
        if version.key != self.key or not _VERSION.fullmatch(version.version):
            raise self.denied(f"{version} is no version of it", "version_unknown")
        return int(version.version)

    def _configure(self, **settings: int) -> None:
        self._send("POST", f"keys/{self._name}/config", dict(settings))

    def wrap(self, data_key: DataKey, context: Context) -> WrappedKey:
        """Wrap one data key; see `wrap_many`."""
        return only(self.wrap_many([(data_key, context)]))

    def unwrap(self, wrapped: WrappedKey, context: Context) -> DataKey:
        """Open one wrap; see `unwrap_many`."""
        return only(self.unwrap_many([(wrapped, context)]))

    def wrap_many(
        self, items: Sequence[tuple[DataKey, Context]]
    ) -> list[WrappedKey | RefusedError]:
        """Wrap each data key under the current KEK version.

        Raises:
            DeniedError: the key or the token refuses.
            UnavailableError, ThrottledError: see `VaultConnection.send`.
        """
        self._check_key(items)
        payloads: list[_Payload | RefusedError] = [
            {"plaintext": base64.b64encode(data_key.reveal()).decode(), **_bound(context)}
            for data_key, context in items
        ]
        return self._each("encrypt", payloads, self._wrapped)

    def unwrap_many(
        self, items: Sequence[tuple[WrappedKey, Context]]
    ) -> list[DataKey | RefusedError]:
        """Open each wrap. Needs no right to read the key; errors as in `wrap_many`."""
        return self._each("decrypt", self._wraps(items), self._opened)

    def rewraps_from(self, key: str) -> bool:
        """Whether wraps of a KEK can be moved: Transit moves those of the key itself."""
        return key == self.key

    def rewrap_many(
        self, items: Sequence[tuple[WrappedKey, Context]]
    ) -> list[WrappedKey | RefusedError]:
        """Move each wrap to the current KEK version, its context unchanged; errors as above.

        A wrap that is already there gets a new nonce: compare versions first.
        """
        self._check_key(items)
        return self._each("rewrap", self._wraps(items), self._wrapped)

    def _check_key(self, items: Sequence[object]) -> None:
        """Before the first wrap, see that the key is there and derived.

        An encrypt under a missing key *creates* it where the token may, and a key that is not
        derived takes a context without a word and binds nothing.
        """
        if items and not self._key_is_right:
            self.current_version()

    def _wraps(self, items: Sequence[tuple[WrappedKey, Context]]) -> list[_Payload | RefusedError]:
        """Rebuild what Transit calls a ciphertext; a wrap that cannot be one is not sent."""
        payloads: list[_Payload | RefusedError] = []
        for wrapped, context in items:
            version = wrapped.key_version.version
            if wrapped.key_version.key != self.key:
                payloads.append(self.refused("the wrap names another key", "wrap_of_another_key"))
            elif not _VERSION.fullmatch(version):
                payloads.append(self.refused("the wrap names no version", "wrap_version_unknown"))
            else:
                text = base64.b64encode(wrapped.ciphertext).decode()
                payloads.append({"ciphertext": f"vault:v{version}:{text}", **_bound(context)})
        return payloads

    def _each(
        self,
        operation: str,
        payloads: Sequence[_Payload | RefusedError],
        read: Callable[[Item], _Result | RefusedError],
    ) -> list[_Result | RefusedError]:
        """Send what can be sent and put every result in its payload's place."""
        sent = [payload for payload in payloads if not isinstance(payload, RefusedError)]
        answers = iter(self._batches(operation, sent))
        results: list[_Result | RefusedError] = []
        requests: list[str] = []
        for payload in payloads:
            if isinstance(payload, RefusedError):
                results.append(payload)
                requests.append("")
                continue
            answer, request = next(answers)
            results.append(self._item_error(operation, answer) or read(answer))
            requests.append(request)
        self._named.requests = requests
        return results

    def last_requests(self) -> Sequence[str]:
        """Return the ids under which the server's audit log has this thread's last batch."""
        requests: list[str] = getattr(self._named, "requests", [])
        return requests

    def _batches(self, operation: str, payloads: list[_Payload]) -> list[tuple[Item, str]]:
        """Send all payloads, in smaller batches where the server asks for them."""
        answers: list[tuple[Item, str]] = []
        before = self.batch_items
        while len(answers) < len(payloads):
            batch = payloads[len(answers) : len(answers) + self.batch_items]
            try:
                answers += self._batch(operation, batch)
            except TooComplexError:
                if len(batch) > 1:
                    # Kept for the next call too. Another thread may have gone lower already.
                    self.batch_items = min(self.batch_items, len(batch) // 2)
                else:
                    # It was this item's size and not their number.
                    answers.append((Item(error="too large for the server"), ""))
                    self.batch_items = before
        return answers

    def _batch(self, operation: str, batch: list[_Payload]) -> list[tuple[Item, str]]:
        body = {"batch_input": batch, "partial_failure_response_code": 200}
        answer = self._connection.send(
            "POST", f"{self._mount}/{operation}/{self._name}", body, operation=operation
        )
        items = (answer.data or Data()).batch_results
        if items is None or len(items) != len(batch):
            raise self._malformed("has not one result for each item")
        return [(item, answer.request_id[:_MAX_REQUEST_ID]) for item in items]

    def _send(
        self, method: str, path: str, body: dict[str, object] | None = None, *, again: bool = True
    ) -> Data:
        answer = self._connection.send(method, f"{self._mount}/{path}", body, again=again)
        return answer.data or Data()

    def _item_error(self, operation: str, item: Item) -> RefusedError | None:
        """Tell whether an item failed by itself.

        Raises:
            DeniedError: it failed by the key, which would fail the others too.
        """
        if not item.error:
            return None
        if known := key_error(item.error):
            raise self.denied(known[1], known[0])
        if "version is too new" in item.error:
            return self.refused("the key has no such version", "wrap_version_unknown")
        if "message authentication failed" in item.error:
            return self.refused("the wrap does not open", "wrap_does_not_open")
        if item.error.startswith("invalid ciphertext"):
            return self.refused("the wrap is none of Transit", "wrap_malformed")
        # The text of an encrypt is not repeated: its request holds the data key.
        said = "" if operation == "encrypt" else f": {item.error[:200]!a}"
        return self.refused(f"the server refuses the wrap{said}", "wrap_refused")

    def _wrapped(self, item: Item) -> WrappedKey:
        """Read a wrap; the version it claims must be the one that its answer names."""
        match = _CIPHERTEXT.fullmatch(item.ciphertext)
        if match is None or match[1] != str(item.key_version):
            raise self._malformed("has a wrap whose version is not the one it names")
        ciphertext = _base64(match[2])
        if ciphertext is None:
            raise self._malformed("has a wrap that is not base64")
        return WrappedKey(KeyVersion(self.key, match[1]), ciphertext)

    def _opened(self, item: Item) -> DataKey | RefusedError:
        """Read an opened data key."""
        inner = _base64(item.plaintext)
        if inner is None:
            raise self._malformed("has a plaintext that is not base64")
        if len(inner) not in KEY_BYTES:
            return self.refused(
                f"the wrap holds {len(inner)} bytes, which is no AES key", "inner_key_length"
            )
        return DataKey(inner)

    def _malformed(self, what: str) -> UnavailableError:
        return self.unavailable(f"the server's answer {what}", "answer_malformed")


def _bound(context: Context) -> _Payload:
    # In a batch, every item has a context or none has: the whole request is refused otherwise.
    return {"context": base64.b64encode(canonical_context(context)).decode()}


def _base64(text: str) -> bytes | None:
    """Decode strict base64, or return None; the text may be a data key, so no error shows it."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
