"""KEKs kept in the environment: what a migration moves away from.

The key wraps each data key by one of the schemes of `keywrap.providers.env_schemes`, or, under
`direct`, is itself the data key of every blob. Only a wrap made with the blob id as additional
data is bound to its blob; whatever a wrap says, a campaign proves each one against the blob's
content before it binds it under another KEK.
"""

import base64
import binascii
import hashlib
from typing import ClassVar, Literal, Self

from keywrap.datakey import KEY_BYTES, DataKey
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import Context
from keywrap.providers.env_schemes import (
    BINDING_SCHEMES,
    WRAP_LENGTHS,
    NotOpenedError,
    Scheme,
    Wrapping,
    wrapping_of,
)
from keywrap.providers.passphrase import Kdf
from keywrap.providers.telling import Telling

__all__ = ["BLOB_ID", "Encoding", "EnvKeyError", "EnvKeyProvider", "Scheme", "parse_key"]

Encoding = Literal["hex", "base64", "base64url", "raw", "sha256-of-text", "passphrase"]
"""How the key is written. Never guessed: 32 hex digits are valid as each of the six."""

BLOB_ID = "{blob_id}"
"""The one placeholder of an `aad` template."""

AZURE_STORAGE_KEY_BYTES = 64
"""A storage account key; such keys are often found under the name BLOB_KEY."""


class EnvKeyError(ValueError):
    """The text is not a key as the configuration describes it; never shows it."""


def parse_key(text: bytes, encoding: Encoding, kdf: Kdf | None = None) -> DataKey:
    """Read a key as the configuration says that it is written.

    Args:
        text: what the environment variable or the file holds.
        encoding: how the key is written.
        kdf: for a passphrase, how the key is derived from it.

    Raises:
        EnvKeyError: it is not written so, or has no length of an AES key.
    """
    if (encoding == "passphrase") != (kdf is not None):
        raise EnvKeyError("a passphrase needs a key derivation, and nothing else has one")
    if not text:
        raise EnvKeyError("it is empty")
    if kdf is not None:
        return kdf.derive(text)
    try:
        key = _decode(text, encoding)
    except (binascii.Error, ValueError):
        # From None: binascii and the codecs put the value into their own errors.
        raise EnvKeyError(f"it is not {encoding}{_likely_mistake(text)}") from None
    if len(key) == AZURE_STORAGE_KEY_BYTES:
        raise EnvKeyError(
            "it has 64 bytes, which is an Azure storage account key and no encryption key"
        )
    if len(key) not in KEY_BYTES:
        raise EnvKeyError(f"an AES key has 16, 24 or 32 bytes, this one {len(key)}")
    return DataKey(key)


def _decode(text: bytes, encoding: Encoding) -> bytes:
    """Decode strictly: what would not be written back the same is refused."""
    match encoding:
        case "sha256-of-text":
            return hashlib.sha256(text).digest()
        case "hex":
            return binascii.unhexlify(text)
        case "base64":
            key = base64.b64decode(text, validate=True)
            canonical = base64.b64encode(key) == text
        case "base64url":
            bare = text.rstrip(b"=")
            key = base64.b64decode(bare + b"=" * (-len(bare) % 4), altchars=b"-_", validate=True)
            padded = base64.urlsafe_b64encode(key)
            canonical = text in {padded, padded.rstrip(b"=")}
        case _:
            return text
    if not canonical:
        raise ValueError
    return key


def _likely_mistake(text: bytes) -> str:
    """Name the mistake that the shape of the text suggests."""
    if text != text.strip():
        return ": it begins or ends with white space"
    if len(text) == len(base64.b64encode(bytes(AZURE_STORAGE_KEY_BYTES))) and text.endswith(b"=="):
        return ": 88 characters that end in == are an Azure storage account key"
    return ""


def check_aad(aad: str, scheme: Scheme) -> None:
    """See that a template of additional data is one, and that the scheme takes it.

    At most one placeholder: so no two blob ids give the same additional data.

    Raises:
        EnvKeyError: it is none, or the scheme binds nothing.
    """
    if not aad:
        return
    if scheme not in BINDING_SCHEMES:
        raise EnvKeyError(
            f"{scheme} takes no additional data; {', '.join(sorted(BINDING_SCHEMES))} do"
        )
    literal = aad.replace(BLOB_ID, "", 1)
    if "{" in literal or "}" in literal:
        raise EnvKeyError(f"expected text with at most one {BLOB_ID} and no other brace")


class EnvKeyProvider(Telling):
    """Opens the wraps of a KEK kept in the environment.

    `wrap` is there for the legacy application path, the demo and tests; a campaign only unwraps.
    Holds no connection and may be used from many threads.

    Args:
        name: the key's name in the configuration; its URI is `env:<name>`.
        key: the key.
        scheme: how it wraps data keys; `direct` where it is the data key.
        aad: template of the additional data that wraps were made with: text, in which
            `{blob_id}` stands for the blob's id; empty for none.

    Attributes:
        binds_context: whether a wrap opens for its own blob only: `aad` names the blob id.

    Raises:
        EnvKeyError: the key is none of the scheme's, or `aad` is no template for it.
    """

    proves_wraps: ClassVar[bool] = False

    def __init__(self, name: str, key: DataKey, scheme: Scheme, *, aad: str = "") -> None:
        check_aad(aad, scheme)
        self.key = f"env:{name}"
        self.scheme = scheme
        self.requests = 0
        self.binds_context = BLOB_ID in aad
        self._aad = aad
        self._data_key = key
        try:
            self._wrapping = wrapping_of(scheme, key)
        except ValueError as error:
            raise EnvKeyError(str(error)) from None

    @classmethod
    def from_text(
        cls,
        name: str,
        text: bytes,
        encoding: Encoding,
        scheme: Scheme,
        *,
        kdf: Kdf | None = None,
        aad: str = "",
    ) -> Self:
        """Make the provider from what the environment variable or the file holds.

        A key is derived from a passphrase here, once.

        Raises:
            EnvKeyError: see `parse_key` and the class.
        """
        return cls(name, parse_key(text, encoding, kdf), scheme, aad=aad)

    def current_version(self) -> KeyVersion:
        """Return the key itself: it has no versions."""
        return KeyVersion(self.key)

    def wrap(self, data_key: DataKey, context: Context) -> WrappedKey:
        """Wrap a data key as the legacy application did.

        Raises:
            RefusedError: under `direct`, a data key that is not the key itself; where `aad` names
                the blob id, a context that is not just that.
        """
        if self._wrapping is None:
            if data_key != self._data_key:
                raise self.refused("the key itself is the data key", "direct_key_wraps_nothing")
            return WrappedKey(self.current_version(), b"")
        sealed = self._wrapping.seal(data_key.reveal(), self._additional(context))
        return WrappedKey(self.current_version(), sealed)

    def unwrap(self, wrapped: WrappedKey, context: Context) -> DataKey:
        """Open a wrap; `context` matters only where `aad` names the blob id.

        Raises:
            RefusedError: it belongs to another key, has another length, does not open, or holds
                what is no AES key.
        """
        if wrapped.key_version != self.current_version():
            raise self.refused("the wrap names another key", "wrap_of_another_key")
        if self._wrapping is not None:
            return self._open(self._wrapping, wrapped.ciphertext, context)
        if wrapped.ciphertext:
            raise self.refused(
                "the key itself is the data key, yet there is a wrap", "direct_key_with_wrap"
            )
        return self._data_key

    def _open(self, wrapping: Wrapping, ciphertext: bytes, context: Context) -> DataKey:
        lengths = WRAP_LENGTHS[self.scheme]
        if len(ciphertext) not in lengths:
            *most, last = lengths
            expected = f"{', '.join(map(str, most))} or {last}"
            raise self.refused(f"a wrap has {expected} bytes, not {len(ciphertext)}", "wrap_length")
        try:
            inner = wrapping.open(ciphertext, self._additional(context))
        except NotOpenedError:
            raise self.refused("the wrap does not open", "wrap_does_not_open") from None
        if len(inner) not in KEY_BYTES:
            raise self.refused(
                f"the wrap holds {len(inner)} bytes, which is no AES key", "inner_key_length"
            )
        return DataKey(inner)

    def _additional(self, context: Context) -> bytes | None:
        """Return the additional data of a wrap."""
        if not self.binds_context:
            return self._aad.encode() if self._aad else None
        if context.keys() != {"blob_id"}:
            # Anything else would pass without being bound.
            raise self.refused("the context is not just a blob id", "context_not_blob_id")
        return self._aad.replace(BLOB_ID, context["blob_id"]).encode()
