"""How a KEK kept in the environment wraps data keys: one form for each legacy scheme.

| scheme | wrap | a 32-byte data key becomes | what notices an alteration |
|---|---|---|---|
| `aes-gcm` | nonce 12, ciphertext, tag 16 | 60 bytes | 128-bit tag (NIST SP 800-38D) |
| `aes-gcm-tag-first` | nonce 12, tag 16, ciphertext | 60 bytes | the same |
| `aes-gcm-iv16` | nonce 16, ciphertext, tag 16 | 64 bytes | the same |
| `aes-kw` | RFC 3394 | 40 bytes | 64-bit check: 1 altered wrap in 2**64 opens |
| `aes-kwp` | RFC 5649 | 40 bytes | 32-bit check, length, padding: 1 in over 2**32 opens |
| `fernet` | a Fernet token | 140 characters | HMAC-SHA-256 (github.com/fernet/spec) |
| `direct` | none | nothing | nothing: the key is itself the data key |

A Fernet token is url-safe base64, and a sidecar's `wrapped_dek` is canonical *standard* base64. So
a sidecar holds base64 of the token's text, or the token's bytes written in the standard alphabet;
both open here. A token put into `wrapped_dek` as it is passes the sidecar's parser only where it
happens to have no `-` and no `_`, which about 1 in 60 does.

No scheme here opens what another one made, nor an altered byte. Only the AES length of what is
inside is the provider's business. Schemes without authentication are not here, and never will be:
under AES-CBC a wrong key passed the padding in 80 of 20,000 tries, and what it "opens" to is a
wrong data key that nobody notices.
"""

import base64
import binascii
from collections.abc import Callable, Mapping
from functools import partial
from os import urandom
from typing import Literal, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap,
    aes_key_wrap_with_padding,
)

from keywrap.datakey import KEY_BYTES, DataKey

Scheme = Literal[
    "aes-gcm", "aes-gcm-tag-first", "aes-gcm-iv16", "aes-kw", "aes-kwp", "fernet", "direct"
]

UNAUTHENTICATED = frozenset(
    {"aes-cbc", "aes-cfb", "aes-ctr", "aes-ecb", "aes-ofb", "openssl-enc", "xor"}
)
"""Schemes that legacy applications have and that are refused by name."""

BINDING_SCHEMES: frozenset[Scheme] = frozenset({"aes-gcm", "aes-gcm-tag-first", "aes-gcm-iv16"})
"""Schemes that take additional authenticated data, and so may bind a wrap to its blob."""

FERNET_KEY_BYTES = 32
"""16 to sign, 16 to encrypt (Fernet specification, "Key Format")."""

NONCE_BYTES = 12
TAG_BYTES = 16
_IV16_BYTES = 16
_KW_BYTES = 8  # RFC 3394, section 2.2.1: one block of 64 bits more
_FERNET_VERSION = b"\x80"


class NotOpenedError(Exception):
    """The wrap is not what this scheme makes with this key; carries nothing of either."""


class Wrapping(Protocol):
    """One scheme with its key. May be used from many threads."""

    def seal(self, payload: bytes, aad: bytes | None, /) -> bytes:
        """Wrap a payload; `aad` is bound where the scheme can, and ignored where it cannot."""

    def open(self, wrap: bytes, aad: bytes | None, /) -> bytes:
        """Return the payload of a wrap.

        Raises:
            NotOpenedError: it is altered, or of another key, scheme or `aad`.
        """


class GcmWrapping:
    """AES-GCM: nonce, ciphertext and tag in one of the orders that applications write them.

    Args:
        key: the KEK.
        nonce_bytes: 12; 16 as Node and PyCryptodome draw it.
        tag_first: whether the tag precedes the ciphertext.
    """

    def __init__(
        self, key: DataKey, *, nonce_bytes: int = NONCE_BYTES, tag_first: bool = False
    ) -> None:
        self._cipher = key.cipher()
        self._nonce_bytes = nonce_bytes
        self._tag_first = tag_first

    def seal(self, payload: bytes, aad: bytes | None, /) -> bytes:
        """See `Wrapping`."""
        nonce = urandom(self._nonce_bytes)
        sealed = self._cipher.encrypt(nonce, payload, aad)
        if self._tag_first:
            sealed = sealed[-TAG_BYTES:] + sealed[:-TAG_BYTES]
        return nonce + sealed

    def open(self, wrap: bytes, aad: bytes | None, /) -> bytes:
        """See `Wrapping`."""
        nonce, sealed = wrap[: self._nonce_bytes], wrap[self._nonce_bytes :]
        if len(sealed) < TAG_BYTES:
            raise NotOpenedError
        if self._tag_first:
            sealed = sealed[TAG_BYTES:] + sealed[:TAG_BYTES]
        try:
            return self._cipher.decrypt(nonce, sealed, aad)
        except InvalidTag:
            raise NotOpenedError from None


class KeyWrapping:
    """AES key wrap (RFC 3394), or with padding (RFC 5649); binds nothing.

    Args:
        key: the KEK.
        padding: whether it is RFC 5649.
    """

    def __init__(self, key: DataKey, *, padding: bool = False) -> None:
        self._key = key
        self._wrap = aes_key_wrap_with_padding if padding else aes_key_wrap
        self._unwrap = aes_key_unwrap_with_padding if padding else aes_key_unwrap

    def seal(self, payload: bytes, _aad: bytes | None, /) -> bytes:
        """See `Wrapping`."""
        return self._wrap(self._key.reveal(), payload)

    def open(self, wrap: bytes, _aad: bytes | None, /) -> bytes:
        """See `Wrapping`."""
        try:
            return self._unwrap(self._key.reveal(), wrap)
        except InvalidUnwrap:
            raise NotOpenedError from None


class FernetWrapping:
    """Fernet tokens, as text or as the bytes that the text stands for; binds nothing.

    A token's time is not looked at: a data key does not expire.

    Args:
        key: the KEK.

    Raises:
        ValueError: it has not 32 bytes.
    """

    def __init__(self, key: DataKey) -> None:
        raw = key.reveal()
        if len(raw) != FERNET_KEY_BYTES:
            raise ValueError(f"a Fernet key has {FERNET_KEY_BYTES} bytes, not {len(raw)}")
        self._fernet = Fernet(base64.urlsafe_b64encode(raw))

    def seal(self, payload: bytes, _aad: bytes | None, /) -> bytes:
        """Return a token's text; see `Wrapping`."""
        return self._fernet.encrypt(payload)

    def open(self, wrap: bytes, _aad: bytes | None, /) -> bytes:
        """See `Wrapping`."""
        token = base64.urlsafe_b64encode(wrap) if wrap.startswith(_FERNET_VERSION) else wrap
        try:
            # cryptography's own decoder passes over foreign characters and spare bits, so that a
            # token with an altered byte would open.
            data = base64.b64decode(token, altchars=b"-_", validate=True)
            if base64.urlsafe_b64encode(data) != token:
                raise NotOpenedError
            return self._fernet.decrypt(token)
        except (binascii.Error, InvalidToken):
            raise NotOpenedError from None


_WRAPPINGS: Mapping[Scheme, Callable[[DataKey], Wrapping]] = {
    "aes-gcm": GcmWrapping,
    "aes-gcm-tag-first": partial(GcmWrapping, tag_first=True),
    "aes-gcm-iv16": partial(GcmWrapping, nonce_bytes=_IV16_BYTES),
    "aes-kw": KeyWrapping,
    "aes-kwp": partial(KeyWrapping, padding=True),
    "fernet": FernetWrapping,
}


def wrapping_of(scheme: Scheme, key: DataKey) -> Wrapping | None:
    """Return a scheme with its key; None for `direct`, which wraps nothing.

    Raises:
        ValueError: the key has not the length that the scheme takes.
    """
    return None if scheme == "direct" else _WRAPPINGS[scheme](key)


def _more(extra: int) -> tuple[int, ...]:
    return tuple(size + extra for size in KEY_BYTES)


# Version 1, time 8, IV 16, ciphertext padded to whole blocks of 16, HMAC 32.
_FERNET_BYTES = tuple(sorted({57 + 16 * (size // 16 + 1) for size in KEY_BYTES}))
_FERNET_CHARS = tuple((size + 2) // 3 * 4 for size in _FERNET_BYTES)

WRAP_LENGTHS: Mapping[Scheme, tuple[int, ...]] = {
    "aes-gcm": _more(NONCE_BYTES + TAG_BYTES),
    "aes-gcm-tag-first": _more(NONCE_BYTES + TAG_BYTES),
    "aes-gcm-iv16": _more(_IV16_BYTES + TAG_BYTES),
    "aes-kw": _more(_KW_BYTES),
    "aes-kwp": _more(_KW_BYTES),
    "fernet": _FERNET_BYTES + _FERNET_CHARS,
    "direct": (0,),
}
"""How many bytes the wrap of an AES key has."""
