"""KEKs in AWS KMS, reached through boto3.

A KEK is one symmetric KMS key, named by its key ARN; its versions are its key materials, since a
key keeps its ARN when it is rotated and only `KeyMaterialId` tells what a wrap was made under.
`Encrypt` does not say it: a new wrap is opened at once, which proves it and names its material.

KMS tells *refused* from *denied* by its error codes, so the canary wrap that other services need
is not needed here. Limits and fields: https://docs.aws.amazon.com/kms/latest/APIReference/.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from keywrap.datakey import DataKey
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import (
    Context,
    KmsError,
    ProofFailedError,
    RefusedError,
)
from keywrap.layout import RESERVED
from keywrap.providers.aws_answers import Answer, Answers, is_material
from keywrap.providers.aws_arn import SCHEME, region_of
from keywrap.providers.aws_client import DEFAULT_THREADS
from keywrap.providers.aws_connection import AwsConnection
from keywrap.providers.aws_errors import DryRunPassedError, operation_of, request_id
from keywrap.providers.aws_history import in_order
from keywrap.providers.aws_rotation import Rotation
from keywrap.providers.calls import Batch
from keywrap.providers.sending import Sending
from keywrap.providers.version_history import VersionHistory

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient  # stubs: not there at run time

MAX_CIPHERTEXT_BYTES = 6144
"""Most that Decrypt and ReEncrypt take."""

_NEW_KEY_BYTES = 32
_MOST_PAGES = 100

_NO_BLOB = {"blob_id": f"{RESERVED}preflight"}
"""A policy may ask for the context of every request (`rewrap policy aws`), of a dry run too."""

_DRY_RUNS: tuple[tuple[str, str, Mapping[str, object]], ...] = (
    ("encrypt", "KeyId", {"Plaintext": bytes(1), "EncryptionContext": _NO_BLOB}),
    (
        "decrypt",
        "KeyId",
        {"DryRunModifiers": ["IGNORE_CIPHERTEXT"], "EncryptionContext": _NO_BLOB},
    ),
    (
        "re_encrypt",
        "SourceKeyId",
        {
            "DryRunModifiers": ["IGNORE_CIPHERTEXT"],
            "SourceEncryptionContext": _NO_BLOB,
            "DestinationEncryptionContext": _NO_BLOB,
        },
    ),
)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class AwsKeyProvider(Sending):
    """Wraps, unwraps and rewraps with one KMS key.

    The context is the encryption context as given: it stands in clear in CloudTrail, with the
    blob's id, and is never secret. May be used from many threads, and made before a fork.

    Args:
        arn: the key ARN.
        make_client: makes a KMS client of the key's Region, once in each process; see
            `aws_client.kms_client`. It must not retry by itself.
        siblings: URIs of other listed KMS keys that the same client reaches: same Region,
            endpoint and credentials. Their wraps are moved to this key without being opened.
        threads: how many requests a batch has in flight.

    Raises:
        ValueError: `arn` or a sibling is no key ARN, or a sibling is of another Region.
    """

    _connection: AwsConnection
    binds_context: ClassVar[bool] = True
    proves_wraps: ClassVar[bool] = True

    def __init__(
        self,
        arn: str,
        make_client: "Callable[[], KMSClient]",
        *,
        siblings: frozenset[str] = frozenset(),
        threads: int = DEFAULT_THREADS,
    ) -> None:
        region = region_of(arn)
        if any(region_of(uri.removeprefix(SCHEME)) != region for uri in siblings):
            raise ValueError("KMS moves no wrap from one Region to another")
        self.key = f"{SCHEME}{arn}"
        self._arn = arn
        self._siblings = siblings - {self.key}
        self._answers = Answers(self.key, arn)
        self._connection = AwsConnection(self.key, make_client, threads, self._count_request)
        self._history = VersionHistory(self._read_materials, self._read_current)
        self._named = threading.local()

    def current_version(self) -> KeyVersion:
        """Ask for the key material that wraps use now.

        Never cached: a campaign must see a rotation.

        Raises:
            DeniedError: there is no such key, it cannot wrap, or may not be looked at.
            UnavailableError, ThrottledError: see `AwsConnection.send`.
        """
        return KeyVersion(self.key, self._history.saw(self._read_current()))

    def is_newer(self, version: str, than: str) -> bool:
        """Whether both are key materials of this key, and the first came after the second.

        Raises:
            KmsError: the key's rotations must be asked for, and cannot be.
        """
        return self._history.is_newer(version, than)

    def create_version(self) -> KeyVersion:
        """Rotate the key on demand, and wait until the new key material is in use.

        A rotation that is in progress already is waited for; no second one is begun.

        Raises:
            DeniedError: `rotation_limit` where KMS rotates the key no more; it cannot be rotated
                on demand, or this principal may not.
            UnavailableError: no answer, or the new material is not seen yet. The key may have
                been rotated: read `current_version` before trying again.
        """
        material = Rotation(self._connection, self.key, self._arn, self._read_current).run()
        return KeyVersion(self.key, self._history.saw(material))

    def disable_key(self) -> None:
        """Disable the key, with all its key materials: KMS disables none alone. Reversible.

        Raises:
            DeniedError: it waits for its deletion, or this principal may not.
            UnavailableError, ThrottledError: see `AwsConnection.send`.
        """
        self._send("disable_key", {"KeyId": self._arn})

    def enable_key(self) -> None:
        """Enable the key again; errors as in `disable_key`."""
        self._send("enable_key", {"KeyId": self._arn})

    def generate_data_key(self, context: Context) -> tuple[DataKey, WrappedKey]:
        """Let KMS make a data key and its wrap, in one request: the wrap is not opened again.

        Raises:
            KmsError: as in `wrap`.
        """
        answer = self._send(
            "generate_data_key",
            {"KeyId": self._arn, "KeySpec": "AES_256", "EncryptionContext": dict(context)},
        )
        self._answers.check_key(answer, "KeyId")
        wrapped = self._wrapped(answer, "KeyMaterialId")
        made = self._answers.plaintext(answer)
        if isinstance(made, int) or len(made.reveal()) != _NEW_KEY_BYTES:
            raise self._answers.malformed("has a data key of another length than it was asked for")
        return made, wrapped

    def wrap(self, data_key: DataKey, context: Context) -> WrappedKey:
        """Wrap a data key under the current key material, and open the wrap to prove it.

        Raises:
            ProofFailedError: the new wrap does not open to the data key.
            DeniedError: the key or the principal refuses.
            UnavailableError, ThrottledError: see `AwsConnection.send`.
        """
        return self._wrap((data_key, context), Batch())

    def unwrap(self, wrapped: WrappedKey, context: Context) -> DataKey:
        """Open a wrap.

        Raises:
            RefusedError: it does not open, or was made under another version than it names.
            KmsError: otherwise as in `wrap`.
        """
        return self._unwrap((wrapped, context), Batch())

    def wrap_many(self, items: Sequence[tuple[DataKey, Context]]) -> list[WrappedKey | KmsError]:
        """Wrap and prove each data key, several at a time.

        Returns:
            For each item its wrap, or the error that `wrap` would raise. After the first that is
            no `RefusedError` nothing more is sent, and what remains gets that error too.

        Raises:
            ProofFailedError: a new wrap does not open to its data key.
        """
        return self._each(self._wrap, items)

    def unwrap_many(self, items: Sequence[tuple[WrappedKey, Context]]) -> list[DataKey | KmsError]:
        """Open each wrap, several at a time; errors stand in their places as in `wrap_many`."""
        return self._each(self._unwrap, items)

    def rewraps_from(self, key: str) -> bool:
        """Whether KMS can move wraps of a KEK to this key: its own, and those of its siblings."""
        return key == self.key or key in self._siblings

    def rewrap_many(
        self, items: Sequence[tuple[WrappedKey, Context]]
    ) -> list[WrappedKey | KmsError]:
        """Move each wrap to this key's current material, its context unchanged.

        The source key is always named and both contexts are one: a wrap can be moved neither
        from a key that is not listed nor to another blob. The new wrap is not opened: that its
        data key is still the same is the verifying task's to see.

        Returns:
            For each item the new wrap, or an error in its place, as in `wrap_many`.
        """
        return self._each(self._rewrap, items)

    def preflight(self) -> dict[str, KmsError | None]:
        """Ask KMS, by dry runs, what this principal may do with this key.

        Returns:
            For `Encrypt`, `Decrypt` and `ReEncrypt` (of the key to itself), None where it is
            allowed, and otherwise what stands against it.
        """
        results: dict[str, KmsError | None] = {}
        for method, key_field, more in _DRY_RUNS:
            request = {key_field: self._arn, "DryRun": True, **more}
            if method == "re_encrypt":
                request["DestinationKeyId"] = self._arn
            name = operation_of(method)
            try:
                self._send(method, request)
                results[name] = self._answers.malformed("performs what was a dry run")
            except DryRunPassedError:
                results[name] = None
            except KmsError as error:
                results[name] = error
        return results

    def _wrap(self, item: tuple[DataKey, Context], batch: Batch) -> WrappedKey:
        data_key, context = item
        answer = self._send(
            "encrypt",
            {
                "KeyId": self._arn,
                "Plaintext": data_key,
                "EncryptionContext": dict(context),
            },
            batch,
        )
        self._answers.check_key(answer, "KeyId")
        ciphertext = self._answers.data(answer, "CiphertextBlob")
        try:
            opened, material = self._decrypt(ciphertext, context, batch)
        except RefusedError as error:
            raise ProofFailedError(f"a new wrap does not open: {error}") from None
        if opened != data_key:
            raise ProofFailedError(f"{self.key}: a new wrap opens to another data key")
        return WrappedKey(self._known(material), ciphertext)

    def _unwrap(self, item: tuple[WrappedKey, Context], batch: Batch) -> DataKey:
        wrapped, context = item
        if wrapped.key_version.key != self.key:
            raise self.refused("the wrap names another key", "wrap_of_another_key")
        self._check_wrap(wrapped)
        data_key, material = self._decrypt(wrapped.ciphertext, context, batch)
        self._check_version(wrapped, material)
        return data_key

    def _rewrap(self, item: tuple[WrappedKey, Context], batch: Batch) -> WrappedKey:
        wrapped, context = item
        if not self.rewraps_from(wrapped.key_version.key):
            raise self.refused("the wrap is of a key that is not moved", "wrap_of_another_key")
        self._check_wrap(wrapped)
        source = wrapped.key_version.key.removeprefix(SCHEME)
        answer = self._send(
            "re_encrypt",
            {
                "CiphertextBlob": wrapped.ciphertext,
                "SourceKeyId": source,
                "SourceEncryptionContext": dict(context),
                "DestinationKeyId": self._arn,
                "DestinationEncryptionContext": dict(context),
            },
            batch,
        )
        self._answers.check_key(answer, "SourceKeyId", source)
        self._answers.check_key(answer, "KeyId")
        self._check_version(wrapped, self._answers.material(answer, "SourceKeyMaterialId"))
        return self._wrapped(answer, "DestinationKeyMaterialId")

    def _decrypt(self, ciphertext: bytes, context: Context, batch: Batch) -> tuple[DataKey, str]:
        """Open a wrap; return the data key, and the key material that opened it."""
        answer = self._send(
            "decrypt",
            {
                "KeyId": self._arn,
                "CiphertextBlob": ciphertext,
                "EncryptionContext": dict(context),
            },
            batch,
        )
        self._answers.check_key(answer, "KeyId")
        inner = self._answers.plaintext(answer)
        if isinstance(inner, int):
            raise self.refused(
                f"the wrap holds {inner} bytes, which is no AES key", "inner_key_length"
            )
        return inner, self._answers.material(answer, "KeyMaterialId")

    def _each(
        self, do: Callable[[_Item, Batch], _Result], items: Sequence[_Item]
    ) -> list[_Result | KmsError]:
        requests = [""] * len(items)

        def named(item: tuple[int, _Item], batch: Batch) -> _Result:
            place, asked = item
            self._named.first = ""
            try:
                return do(asked, batch)
            finally:
                requests[place] = self._named.first

        results = self._connection.each(named, list(enumerate(items)))
        self._named.requests = requests
        return results

    def last_requests(self) -> Sequence[str]:
        """Return the ids under which CloudTrail has this thread's last batch."""
        requests: list[str] = getattr(self._named, "requests", [])
        return requests

    def _send(
        self, method: str, parameters: Mapping[str, Any], batch: Batch | None = None
    ) -> Answer:
        answer = self._connection.send(method, parameters, batch=batch)
        if not getattr(self._named, "first", ""):
            self._named.first = request_id(answer.get("ResponseMetadata") or {})
        return answer

    def _read_current(self) -> str:
        return self._answers.current_material(self._send("describe_key", {"KeyId": self._arn}))

    def _read_materials(self) -> dict[str, int]:
        request = {"KeyId": self._arn, "IncludeKeyMaterial": "ALL_KEY_MATERIAL"}
        rotations: list[Answer] = []
        for _ in range(_MOST_PAGES):
            answer = self._send("list_key_rotations", request)
            rotations += answer.get("Rotations", [])
            if not answer.get("Truncated") or not answer.get("NextMarker"):
                break
            request = {**request, "Marker": answer["NextMarker"]}
        return {material: rank for rank, material in enumerate(in_order(rotations))}

    def _wrapped(self, answer: Answer, material_field: str) -> WrappedKey:
        ciphertext = self._answers.data(answer, "CiphertextBlob")
        return WrappedKey(self._known(self._answers.material(answer, material_field)), ciphertext)

    def _known(self, material: str) -> KeyVersion:
        """Return the version that an answer names, which must be one that the key has.

        A wrap under a wrong name would be refused when it is read: better no wrap.
        """
        if not self._history.has(material):
            raise self._answers.malformed("names key material that the key does not have")
        return KeyVersion(self.key, material)

    def _check_wrap(self, wrapped: WrappedKey) -> None:
        """See that a wrap can be one; KMS is not asked about what cannot."""
        if not is_material(wrapped.key_version.version):
            raise self.refused("the wrap names no version", "wrap_version_unknown")
        if not 0 < len(wrapped.ciphertext) <= MAX_CIPHERTEXT_BYTES:
            raise self.refused("no wrap of KMS has this length", "wrap_length")

    def _check_version(self, wrapped: WrappedKey, material: str) -> None:
        if material != wrapped.key_version.version:
            raise self.refused(
                "the wrap was made under another version than it names", "wrap_of_another_version"
            )
