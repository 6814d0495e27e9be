"""The sidecar: the JSON record beside a blob that holds its data key, wrapped.

```json
{"key_id": "hcvault://transit/blob-kek?version=3", "wrapped_dek": "<base64>", "dek_version": 4,
 "context": {"blob_id": "tenants/7/invoice.pdf"}, "content": "stream-v1",
 "previous": {"key_id": "env:BLOB_KEY", "wrapped_dek": "<base64>"}}
```

A sidecar is untrusted input and the only copy of a key at once. So the parser refuses whatever
two readers could understand differently (a field given twice, base64 with spare bits, a number
no double can hold), and the writer hands out nothing that the parser would not read back. Fields
that are not ours keep their order and the very bytes of their values.
"""

import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Self

import msgspec

from keywrap.keys import DPAPI, LEGACY_PROVIDERS, BadKeyIdError, KeyVersion, WrappedKey
from keywrap.strictjson import (
    MAX_DEPTH,
    MAX_SIDECAR_BYTES,
    BadSidecarError,
    read_object,
    read_raw,
)

__all__ = [
    "MAX_DEK_VERSION",
    "MAX_DEPTH",
    "MAX_SIDECAR_BYTES",
    "MAX_WRAP_BYTES",
    "BadSidecarError",
    "Sidecar",
]

MAX_WRAP_BYTES = 6_144
"""Longest wrap: what AWS KMS takes back in `Decrypt` (API reference, `CiphertextBlob`). An
RSA-4096 wrap has 512 bytes, a Transit one about 90, a DPAPI one about 300."""

MAX_DEK_VERSION = 2**53 - 1
"""Largest integer that every JSON reader holds exactly (RFC 8259, section 6)."""

_NAMES_OF_THE_WRAP = ("key_id", "wrapped_dek", "dek_version", "previous")

_FERNET = "gAAAA"
"""What every Fernet token begins with until 2106: its version, and four bytes of its time."""

_STANDARD = str.maketrans("-_", "+/")

_DPAPI_HEX = "01000000d08c9ddf0115d1118c7a00c04fc297eb"
"""What every DPAPI blob begins with in hexadecimal, as PowerShell's `ConvertFrom-SecureString`
writes it. As base64 it would be 30 bytes that no wrap begins with."""

_FIELDS = frozenset(
    {
        "key_id",
        "provider",
        "wrapped_dek",
        "dek_version",
        "context",
        "content",
        "object",
        "previous",
    }
)
_FIELDS_OF_PREVIOUS = frozenset({"key_id", "wrapped_dek"})

# A campaign's blobs name a handful of keys. Bounded, since the text is untrusted.
_key_version = lru_cache(maxsize=256)(KeyVersion.parse)

_TOKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_GENERATION = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What a sidecar says. `Sidecar()` stands for a blob that has none.

    Attributes:
        key_version: the KEK version that wraps the data key; None where the record names no key.
        provider: a `provider` field, or a `key_id` that is only `env` or `dpapi`. With a wrap,
            `dpapi` is enough: the wrap says which master key it is of.
        ciphertext: the wrap; empty where there is none, since the legacy key is the data key.
        dek_version: grows by one with every change of the wrap; 0 before the first.
        context: the additional authenticated data of the wrap; None where it was never bound.
        content: how the blob is encrypted, such as `stream-v1`; None where it is not said.
        object: the generation that names the blob's content; None where it has the blob's name.
        previous: the wrap before this one, which a reader or an undo may still use.
        extra: the fields that are not ours, in their order, each value as its very bytes.
    """

    key_version: KeyVersion | None = None
    provider: str | None = None
    ciphertext: bytes = field(default=b"", repr=False)
    dek_version: int = 0
    context: Mapping[str, str] | None = None
    content: str | None = None
    object: str | None = None
    previous: WrappedKey | None = None
    extra: Mapping[str, msgspec.Raw] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a sidecar, strictly.

        Raises:
            BadSidecarError: with one reason code for each kind of defect.
        """
        record = read_object(data)
        key_version, provider = _read_key(record)
        return cls(
            key_version=key_version,
            provider=provider,
            ciphertext=_read_wrap(record),
            dek_version=_read_dek_version(record),
            context=_read_context(record),
            content=_read_pattern(record, "content", _TOKEN),
            object=_read_pattern(record, "object", _GENERATION),
            previous=_read_previous(record),
            extra={} if record.keys() <= _FIELDS else _read_extra(data, record),
        )

    def to_bytes(self) -> bytes:
        """Return the canonical form: our fields in fixed order, then the others in theirs.

        Raises:
            BadSidecarError: the record could not be read back as exactly this. It would be the
                only copy of the key, so the parser itself is asked before anything is written.
        """
        record: dict[str, Any] = _wrap_record(self.key_version, self.ciphertext)
        if self.provider is not None:
            record["provider"] = self.provider
        if self.dek_version:
            record["dek_version"] = self.dek_version
        if self.context is not None:
            record["context"] = dict(self.context)
        if self.content is not None:
            record["content"] = self.content
        if self.object is not None:
            record["object"] = self.object
        if self.previous is not None:
            record["previous"] = _wrap_record(self.previous.key_version, self.previous.ciphertext)
        record.update(self.extra)
        data = msgspec.json.encode(record)
        if Sidecar.parse(data) != self:
            raise BadSidecarError("sidecar_ambiguous", "the record would be read back differently")
        return data

    def wrapped(self, legacy_default: KeyVersion | None) -> WrappedKey:
        """Tell which key wraps the data key.

        Args:
            legacy_default: the key of records that name none; None if there must be no such.

        Raises:
            BadSidecarError: `no_key_named`, `key_ambiguous` or `wrapped_dek_missing`.
        """
        return _wrapped(self.key_version or self._legacy_key(legacy_default), self.ciphertext)

    def _legacy_key(self, legacy_default: KeyVersion | None) -> KeyVersion:
        if self.provider == DPAPI.provider and self.ciphertext:
            return DPAPI
        if legacy_default is None:
            raise _no_key_named()
        if self.provider not in {None, legacy_default.provider}:
            raise BadSidecarError(
                "key_ambiguous",
                f"the sidecar names the provider {self.provider} but no key of it, and"
                f" `legacy_default` is {legacy_default}",
            )
        return legacy_default

    def rewrapped(
        self, wrapped: WrappedKey, context: Mapping[str, str], previous: WrappedKey | None
    ) -> Self:
        """Return the record with another wrap: key, wrap and context change in one value.

        A `provider` follows the new key. All else stays as it is.

        Args:
            wrapped: the new wrap.
            context: the additional authenticated data that it was made with.
            previous: the wrap to keep beside it; None to keep none.

        Raises:
            BadSidecarError: `dek_version` cannot grow any more.
        """
        if self.dek_version >= MAX_DEK_VERSION:
            raise BadSidecarError("dek_version_invalid", "`dek_version` cannot grow any more")
        # Not by `dataclasses.replace`, which takes longer than the encryption of a data key.
        return type(self)(
            key_version=wrapped.key_version,
            provider=None if self.provider is None else wrapped.key_version.provider,
            ciphertext=wrapped.ciphertext,
            dek_version=self.dek_version + 1,
            context=dict(context),
            content=self.content,
            object=self.object,
            previous=previous,
            extra=self.extra,
        )


def _no_key_named() -> BadSidecarError:
    return BadSidecarError(
        "no_key_named", "the sidecar names no key; set `legacy_default` if such blobs are under one"
    )


def _wrapped(key_version: KeyVersion, ciphertext: bytes) -> WrappedKey:
    if not ciphertext and not key_version.is_legacy:
        raise BadSidecarError(
            "wrapped_dek_missing", f"the sidecar names {key_version} but holds no `wrapped_dek`"
        )
    return WrappedKey(key_version, ciphertext)


def _wrap_record(key_version: KeyVersion | None, ciphertext: bytes) -> dict[str, Any]:
    record: dict[str, Any] = {}
    if key_version is not None:
        record["key_id"] = str(key_version)
    if ciphertext:
        record["wrapped_dek"] = _base64(ciphertext)
    return record


def _base64(ciphertext: bytes) -> str:
    return binascii.b2a_base64(ciphertext, newline=False).decode()


def _read_extra(data: bytes, record: dict[str, Any]) -> dict[str, msgspec.Raw]:
    for name in record.keys() - _FIELDS:
        if name.casefold() in _NAMES_OF_THE_WRAP:
            # A reader that matches names without case would take another wrap than we do.
            raise BadSidecarError(
                "sidecar_ambiguous", f"a field differs from `{name.casefold()}` by case only"
            )
    values = read_raw(data, record)
    # A copy each, or one value would keep the bytes of the whole sidecar.
    return {name: value.copy() for name, value in values.items() if name not in _FIELDS}


def _read_text(record: dict[str, Any], name: str) -> str | None:
    if name not in record:
        return None
    value = record[name]
    if not isinstance(value, str):
        raise BadSidecarError("field_wrong_type", f"`{name}` is not a string")
    return value


def _read_pattern(record: dict[str, Any], name: str, pattern: re.Pattern[str]) -> str | None:
    text = _read_text(record, name)
    if text is not None and not pattern.fullmatch(text):
        raise BadSidecarError(f"{name}_invalid", f"`{name}` is not of the form {pattern.pattern}")
    return text


def _read_key(record: dict[str, Any]) -> tuple[KeyVersion | None, str | None]:
    provider = _read_pattern(record, "provider", _TOKEN)
    key_id = _read_text(record, "key_id")
    if key_id is None:
        return None, provider
    try:
        key_version = None if key_id in LEGACY_PROVIDERS else _key_version(key_id)
    except BadKeyIdError as error:
        raise BadSidecarError("key_id_malformed", f"`key_id`: {error}") from None
    named = key_id if key_version is None else key_version.provider
    if provider not in {None, named}:
        raise BadSidecarError(
            "provider_contradicts_key_id", f"`provider` is {provider} but `key_id` is of {named}"
        )
    return key_version, named if key_version is None else provider


def _read_wrap(record: dict[str, Any]) -> bytes:
    text = _read_text(record, "wrapped_dek")
    if text is None:
        return b""
    if not text:
        # Left out it says "the legacy key is the data key"; empty it may be a write gone wrong.
        raise BadSidecarError("wrapped_dek_empty", "`wrapped_dek` is there but empty")
    if text[: len(_DPAPI_HEX)].lower() == _DPAPI_HEX:
        return _limited(_from_hex(text))
    # A Fernet token is URL-safe base64 itself (Fernet specification, "Token Format").
    is_token = text.startswith(_FERNET) and not {"+", "/"} & set(text)
    standard = text.translate(_STANDARD) if is_token else text
    try:
        ciphertext = binascii.a2b_base64(standard)
    except ValueError:
        ciphertext = b""
    if _base64(ciphertext) != standard:  # the decoder lets foreign signs and spare bits pass
        raise BadSidecarError("wrapped_dek_not_base64", "`wrapped_dek` is not canonical base64")
    return _limited(ciphertext)


def _from_hex(text: str) -> bytes:
    try:
        ciphertext = binascii.unhexlify(text)
    except ValueError:
        ciphertext = b""
    if text not in {ciphertext.hex(), ciphertext.hex().upper()}:
        raise BadSidecarError(
            "wrapped_dek_not_hex",
            "`wrapped_dek` begins as hexadecimal digits and goes on otherwise",
        )
    return ciphertext


def _limited(ciphertext: bytes) -> bytes:
    if len(ciphertext) > MAX_WRAP_BYTES:
        raise BadSidecarError(
            "wrapped_dek_too_long", f"`wrapped_dek` has more than {MAX_WRAP_BYTES} bytes"
        )
    return ciphertext


def _read_dek_version(record: dict[str, Any]) -> int:
    value = record.get("dek_version", 0)
    # `type` and not isinstance: True is an int to Python, and 4.0 is not 4 to every reader.
    if type(value) is not int or not 0 <= value <= MAX_DEK_VERSION:
        raise BadSidecarError(
            "dek_version_invalid", f"`dek_version` is no integer from 0 to {MAX_DEK_VERSION}"
        )
    return value


def _read_context(record: dict[str, Any]) -> dict[str, str] | None:
    if "context" not in record:
        return None
    context = record["context"]
    if not isinstance(context, dict) or not _are_unicode(context):
        raise BadSidecarError("context_invalid", "`context` is no object of Unicode strings")
    return context


def _are_unicode(context: dict[str, Any]) -> bool:
    try:
        "".join((*context, *context.values())).encode()
    except (TypeError, UnicodeEncodeError):  # a value is no string; one has half a surrogate pair
        return False
    return True


def _read_previous(record: dict[str, Any]) -> WrappedKey | None:
    if "previous" not in record:
        return None
    previous = record["previous"]
    # An unknown field is refused here: `previous` moves as a whole, so it could not survive.
    if not isinstance(previous, dict) or not previous.keys() <= _FIELDS_OF_PREVIOUS:
        raise BadSidecarError(
            "previous_invalid", "`previous` is no object of `key_id` and `wrapped_dek`"
        )
    try:
        key_version, _ = _read_key(previous)
        if key_version is None:
            raise _no_key_named()
        return _wrapped(key_version, _read_wrap(previous))
    except BadSidecarError as error:
        raise BadSidecarError("previous_invalid", f"`previous`: {error}") from None
