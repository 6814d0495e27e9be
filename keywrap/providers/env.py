"""KEKs kept in the environment: what a migration moves away from.

Two schemes are read. Under `aes-gcm` the key wraps each data key: 12-byte nonce, ciphertext,
16-byte tag (NIST SP 800-38D), no additional data. Under `direct` the key is itself the data key
of every blob and there is no wrap. Neither binds a wrap to its blob, so a campaign proves both
against the blob's content before it binds them under another KEK.
"""

import base64
import binascii
import os
from typing import ClassVar, Literal, Self

from cryptography.exceptions import InvalidTag

from keywrap.datakey import KEY_BYTES, DataKey
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import Context, RefusedError

Encoding = Literal["hex", "base64", "base64url", "raw"]
"""How the key is written. Never guessed: 32 hex digits are valid as each of the four."""

Scheme = Literal["aes-gcm", "direct"]

NONCE_BYTES = 12
TAG_BYTES = 16
_WRAP_BYTES = tuple(NONCE_BYTES + size + TAG_BYTES for size in KEY_BYTES)

AZURE_STORAGE_KEY_BYTES = 64
"""A storage account key; such keys are often found under the name BLOB_KEY."""


class EnvKeyError(ValueError):
    """The text is not a key in the encoding that the configuration names; never shows it."""


def parse_key(text: bytes, encoding: Encoding) -> DataKey:
    """Read a key as the configuration says that it is written.

    Args:
        text: what the environment variable or the file holds.
        encoding: how the key is written.

    Raises:
        EnvKeyError: it is not written so, or has no length of an AES key.
    """
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
        case "raw":
            return text
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


class EnvKeyProvider:
    """Opens the wraps of a KEK kept in the environment.

    `wrap` is there for the legacy application path, the demo and tests; a campaign only unwraps.
    Holds no connection and may be used from many threads.

    Args:
        name: the key's name in the configuration; its URI is `env:<name>`.
        key: the key.
        scheme: `aes-gcm` where it wraps data keys, `direct` where it is the data key.
    """

    binds_context: ClassVar[bool] = False
    proves_wraps: ClassVar[bool] = False

    def __init__(self, name: str, key: DataKey, scheme: Scheme) -> None:
        self.key = f"env:{name}"
        self.scheme = scheme
        self.requests = 0
        self._data_key = key
        self._cipher = key.cipher()

    @classmethod
    def from_text(cls, name: str, text: bytes, encoding: Encoding, scheme: Scheme) -> Self:
        """Make the provider from what the environment variable or the file holds.

        Raises:
            EnvKeyError: see `parse_key`.
        """
        return cls(name, parse_key(text, encoding), scheme)

    def current_version(self) -> KeyVersion:
        """Return the key itself: it has no versions."""
        return KeyVersion(self.key)

    def wrap(self, data_key: DataKey, context: Context) -> WrappedKey:  # noqa: ARG002 - no binding
        """Wrap a data key as the legacy application did; `context` is not bound.

        Raises:
            RefusedError: under `direct`, a data key that is not the key itself.
        """
        if self.scheme == "direct":
            if data_key != self._data_key:
                raise self._refused("the key itself is the data key", "direct_key_wraps_nothing")
            return WrappedKey(self.current_version(), b"")
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, data_key.reveal(), None)
        return WrappedKey(self.current_version(), nonce + sealed)

    def unwrap(self, wrapped: WrappedKey, context: Context) -> DataKey:  # noqa: ARG002 - no binding
        """Open a wrap; `context` is not checked, since no legacy wrap has one.

        Raises:
            RefusedError: it belongs to another key, has another length, or does not open.
        """
        if wrapped.key_version != self.current_version():
            raise self._refused("the wrap names another key", "wrap_of_another_key")
        if self.scheme == "direct":
            if wrapped.ciphertext:
                raise self._refused(
                    "the key itself is the data key, yet there is a wrap", "direct_key_with_wrap"
                )
            return self._data_key
        return self._open(wrapped.ciphertext)

    def _open(self, ciphertext: bytes) -> DataKey:
        """Open nonce, ciphertext and tag; the length alone tells the length of what is inside."""
        if len(ciphertext) not in _WRAP_BYTES:
            raise self._refused(
                f"a wrap has 44, 52 or 60 bytes, not {len(ciphertext)}", "wrap_length"
            )
        try:
            inner = self._cipher.decrypt(ciphertext[:NONCE_BYTES], ciphertext[NONCE_BYTES:], None)
        except InvalidTag:
            raise self._refused("the wrap does not open", "wrap_does_not_open") from None
        return DataKey(inner)

    def _refused(self, message: str, reason_code: str) -> RefusedError:
        return RefusedError(f"{self.key}: {message}", key=self.key, reason_code=reason_code)
