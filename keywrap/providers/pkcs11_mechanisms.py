"""The two ways to wrap a data key in a PKCS#11 token, and the bytes that each makes.

`aes-gcm` (`CKM_AES_GCM`): nonce of 12 random bytes, ciphertext, tag of 16, the context as
additional data. The data key passes through this process.

`aes-kw` (`CKM_AES_KEY_WRAP`, RFC 3394): salt of 16 random bytes, then the wrap. Key wrap takes no
additional data, so the token first derives the key that wraps:
`CKM_AES_CBC_ENCRYPT_DATA` (PKCS #11 v2.40, section 2.15) of SHA-256(label, salt, context) under
the KEK, with an IV of zeros: AES-CBC over two blocks that nobody can choose. Under another
context the token derives another key, and the integrity check of RFC 3394 fails *inside* the
token: a wrap moves from one KEK version to the next without its data key ever leaving it, and
never to another blob. A digest inside the wrap could only be checked outside.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Protocol, cast

from pkcs11 import (
    Attribute,
    DecryptMixin,
    DeriveMixin,
    EncryptMixin,
    GCMParams,
    KeyType,
    Mechanism,
    MechanismFlag,
    ObjectClass,
    SecretKey,
    UnwrapMixin,
    WrapMixin,
)

NONCE_BYTES = 12
TAG_BYTES = 16
SALT_BYTES = 16
CHECK_BYTES = 8
"""What RFC 3394 adds to the key that it wraps."""

_LABEL = b"keywrap pkcs11 aes-kw 1\0"
_CBC_IV = bytes(16)


class WrapMechanism(Protocol):
    """One way to wrap; the functions run under the process's lock and raise `PKCS11Error`."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[Mechanism]]
    """What the token must offer."""
    capabilities: ClassVar[MechanismFlag]
    """What a KEK made for it may do, and nothing else."""
    switches: ClassVar[tuple[Attribute, ...]]
    """Attributes of the KEK without which nothing is wrapped or opened."""
    overhead: ClassVar[int]
    """Bytes that a wrap has more than its data key."""

    def can_wrap(self, kek: SecretKey) -> bool:
        """Whether the KEK's attributes let it wrap in this way."""

    def can_open(self, kek: SecretKey) -> bool:
        """Whether they let it open."""

    def wrap(self, kek: SecretKey, data_key: bytes, context: bytes) -> bytes:
        """Wrap a data key."""

    def open(self, kek: SecretKey, wrap: bytes, context: bytes) -> bytes:
        """Open a wrap as long as an AES key and `overhead`."""


class AesGcm:
    """`aes-gcm`: see the module."""

    name: ClassVar[str] = "aes-gcm"
    needs: ClassVar[frozenset[Mechanism]] = frozenset({Mechanism.AES_GCM})
    capabilities: ClassVar[MechanismFlag] = MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT
    switches: ClassVar[tuple[Attribute, ...]] = (Attribute.ENCRYPT, Attribute.DECRYPT)
    overhead: ClassVar[int] = NONCE_BYTES + TAG_BYTES

    def can_wrap(self, kek: SecretKey) -> bool:
        """Whether the KEK may encrypt."""
        return isinstance(kek, EncryptMixin)

    def can_open(self, kek: SecretKey) -> bool:
        """Whether the KEK may decrypt."""
        return isinstance(kek, DecryptMixin)

    def wrap(self, kek: SecretKey, data_key: bytes, context: bytes) -> bytes:
        """Wrap a data key."""
        nonce = os.urandom(NONCE_BYTES)
        sealed = cast("EncryptMixin", kek).encrypt(
            data_key,
            mechanism=Mechanism.AES_GCM,
            mechanism_param=GCMParams(nonce, context, 8 * TAG_BYTES),
        )
        return nonce + cast("bytes", sealed)

    def open(self, kek: SecretKey, wrap: bytes, context: bytes) -> bytes:
        """Open a wrap."""
        opened = cast("DecryptMixin", kek).decrypt(
            wrap[NONCE_BYTES:],
            mechanism=Mechanism.AES_GCM,
            mechanism_param=GCMParams(wrap[:NONCE_BYTES], context, 8 * TAG_BYTES),
        )
        return cast("bytes", opened)


class AesKw:
    """`aes-kw`: see the module."""

    name: ClassVar[str] = "aes-kw"
    needs: ClassVar[frozenset[Mechanism]] = frozenset(
        {Mechanism.AES_KEY_WRAP, Mechanism.AES_CBC_ENCRYPT_DATA}
    )
    # A KEK that may also encrypt would show the derived keys to whoever may use it.
    capabilities: ClassVar[MechanismFlag] = MechanismFlag.DERIVE
    switches: ClassVar[tuple[Attribute, ...]] = (Attribute.DERIVE,)
    # SoftHSM 2.6.1 pads keys of other lengths than multiples of 8 without a word. There are none:
    # a wrap has the length of an AES key and this.
    overhead: ClassVar[int] = SALT_BYTES + CHECK_BYTES

    def can_wrap(self, kek: SecretKey) -> bool:
        """Whether the KEK may derive."""
        return isinstance(kek, DeriveMixin)

    def can_open(self, kek: SecretKey) -> bool:
        """Whether the KEK may derive."""
        return isinstance(kek, DeriveMixin)

    def wrap(self, kek: SecretKey, data_key: bytes, context: bytes) -> bytes:
        """Wrap a data key."""
        salt = os.urandom(SALT_BYTES)
        held = kek.session.create_object(
            {
                Attribute.CLASS: ObjectClass.SECRET_KEY,
                Attribute.KEY_TYPE: KeyType.GENERIC_SECRET,
                Attribute.VALUE: data_key,
                Attribute.TOKEN: False,
                Attribute.PRIVATE: True,
                Attribute.SENSITIVE: True,
                Attribute.EXTRACTABLE: True,
            }
        )
        try:
            return salt + self._wrapped(kek, cast("SecretKey", held), salt, context)
        finally:
            held.destroy()

    def open(self, kek: SecretKey, wrap: bytes, context: bytes) -> bytes:
        """Open a wrap."""
        with self._unwrapped(kek, wrap, context, sensitive=False) as held:
            return cast("bytes", held[Attribute.VALUE])

    def move(self, source: SecretKey, target: SecretKey, wrap: bytes, context: bytes) -> bytes:
        """Open a wrap under one KEK and wrap its data key under another, inside the token."""
        salt = os.urandom(SALT_BYTES)
        with self._unwrapped(source, wrap, context, sensitive=True) as held:
            return salt + self._wrapped(target, held, salt, context)

    def _wrapped(self, kek: SecretKey, held: SecretKey, salt: bytes, context: bytes) -> bytes:
        with _derived(kek, salt, context) as wrapping:
            return cast("WrapMixin", wrapping).wrap_key(held, mechanism=Mechanism.AES_KEY_WRAP)

    @contextmanager
    def _unwrapped(
        self, kek: SecretKey, wrap: bytes, context: bytes, *, sensitive: bool
    ) -> Iterator[SecretKey]:
        """Open a wrap to an object of the session, which goes when the block ends."""
        with _derived(kek, wrap[:SALT_BYTES], context) as unwrapping:
            held = cast("UnwrapMixin", unwrapping).unwrap_key(
                ObjectClass.SECRET_KEY,
                KeyType.GENERIC_SECRET,
                wrap[SALT_BYTES:],
                mechanism=Mechanism.AES_KEY_WRAP,
                template={
                    Attribute.TOKEN: False,
                    Attribute.PRIVATE: True,
                    Attribute.SENSITIVE: sensitive,
                    # By python-pkcs11's default it could not be wrapped again.
                    Attribute.EXTRACTABLE: True,
                },
            )
        try:
            yield cast("SecretKey", held)
        finally:
            held.destroy()


@contextmanager
def _derived(kek: SecretKey, salt: bytes, context: bytes) -> Iterator[SecretKey]:
    """Derive the key that wraps, as an object of the session that goes when the block ends."""
    digest = hashlib.sha256(_LABEL + salt + context).digest()
    key = cast("DeriveMixin", kek).derive_key(
        KeyType.AES,
        256,
        capabilities=MechanismFlag.WRAP | MechanismFlag.UNWRAP,
        mechanism=Mechanism.AES_CBC_ENCRYPT_DATA,
        mechanism_param=(_CBC_IV, digest),
        template={
            Attribute.TOKEN: False,
            Attribute.PRIVATE: True,
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
        },
    )
    try:
        yield key
    finally:
        key.destroy()
