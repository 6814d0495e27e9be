"""What is wrapped where the algorithm authenticates no context: the data key and its binding.

8 bytes `KWBIND1` and the key's length, 16 random bytes, the key, 32 bytes of digest. The digest is
SHA-256 over a name of this format, the random bytes, the key version's URI behind its length (two
bytes, big-endian), and the canonical context: inside the wrap nobody can alter it without the KEK,
so a wrap that is moved to another blob, or relabelled, does not open there.

The length is a multiple of 8 for every AES key, as AES key wrap needs it (RFC 3394), and at most
88, which an RSA key of 2048 bits takes under OAEP with SHA-256 (RFC 8017: 190). The random bytes
are for AES key wrap, which would wrap one key to the same bytes each time.

Every wrap depends on this format: it never changes.
"""

import hashlib
import hmac
import os

from keywrap.contexts import canonical_context
from keywrap.datakey import KEY_BYTES, DataKey
from keywrap.keys import KeyVersion
from keywrap.kms import Context

_MAGIC = b"KWBIND1"
_DOMAIN = b"keywrap azure binding 1\0"
_HEAD_BYTES = len(_MAGIC) + 1
_SALT_BYTES = 16
_DIGEST_BYTES = 32

MALFORMED = "inner_malformed"
BOUND_ELSEWHERE = "wrap_bound_elsewhere"


def seal(data_key: DataKey, version: KeyVersion, context: Context) -> bytes:
    """Return what to wrap under a version for a context; it holds the plaintext key."""
    salt = os.urandom(_SALT_BYTES)
    key = data_key.reveal()
    head = _MAGIC + bytes([len(key)])
    return head + salt + key + _digest(salt, version, context)


def open_payload(payload: bytes, version: KeyVersion, context: Context) -> DataKey | str:
    """Return the data key in what a wrap held, or the reason code of what is wrong with it."""
    size = len(payload) - _HEAD_BYTES - _SALT_BYTES - _DIGEST_BYTES
    if size not in KEY_BYTES or payload[:_HEAD_BYTES] != _MAGIC + bytes([size]):
        return MALFORMED
    salt = payload[_HEAD_BYTES : _HEAD_BYTES + _SALT_BYTES]
    key = payload[_HEAD_BYTES + _SALT_BYTES : -_DIGEST_BYTES]
    bound = _digest(salt, version, context)
    if not hmac.compare_digest(payload[-_DIGEST_BYTES:], bound):
        return BOUND_ELSEWHERE
    return DataKey(key)


def _digest(salt: bytes, version: KeyVersion, context: Context) -> bytes:
    named = str(version).encode()
    framed = len(named).to_bytes(2, "big") + named
    return hashlib.sha256(_DOMAIN + salt + framed + canonical_context(context)).digest()
