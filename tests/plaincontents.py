"""The content formats from their descriptions alone: nothing of `keywrap`."""

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests import plainstreams

_NONCE, _HEAD = 12, 16


def open_content(form: str, key: bytes, sealed: bytes) -> bytes:
    """Decrypt a content whole; a tag fails where it is not sound."""
    if form == "stream-v1":
        return plainstreams.open_whole(key, sealed)
    cipher = AESGCM(key)
    if form == "gcm-v1":
        return cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], None)
    assert form == "records-v1"
    plain = b""
    while sealed:
        end = _HEAD + int.from_bytes(sealed[_NONCE:_HEAD])
        plain += cipher.decrypt(sealed[:_NONCE], sealed[_HEAD:end], None)
        sealed = sealed[end:]
    return plain
