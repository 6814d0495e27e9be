"""Certificates: a signed record of a finished campaign, verified with the public key alone.

A certificate is a JSON object with `record` and `signature`. What is signed (Ed25519, RFC 8032,
under a domain of its own) is the record in canonical form: RFC 8785's order and separators, ASCII,
and no number but integers, so that every JSON library gives the same bytes.
"""

import base64
import binascii
import hashlib
import json
from typing import Any

from keywrap.reasons import ReasonedError
from keywrap.signing import PublicKey, SigningKey

FORMAT = "rewrap-certificate-v1"

_DOMAIN = b"rewrap certificate v1"
_MAX_BYTES = 64 * 1024 * 1024


class CertificateError(ReasonedError):
    """A certificate is not to be trusted."""


def canonical(record: dict[str, Any]) -> bytes:
    """Return the bytes of a record that are signed.

    Raises:
        TypeError: a value is no object, list, string, integer, boolean or null.
    """
    _require_plain(record)
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode("ascii")


def digest(record: dict[str, Any]) -> str:
    """Return the SHA-256 (FIPS 180-4) of a record's canonical form, in hexadecimal.

    It is what a page or a letter names, so that whoever holds the certificate can see that both
    are of the same record.

    Args:
        record: the record as `verified` returns it, its `format` with it.

    Raises:
        TypeError: see `canonical`.
    """
    return hashlib.sha256(canonical(record)).hexdigest()


def _require_plain(value: object) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise TypeError("a name is no string")
            _require_plain(inner)
    elif isinstance(value, list):
        for inner in value:
            _require_plain(inner)
    elif isinstance(value, float) or not isinstance(value, str | int | None):
        raise TypeError(f"a record holds no {type(value).__name__}")


def signed(record: dict[str, Any], key: SigningKey) -> bytes:
    """Return a certificate: the record, whose key signed it, and the signature.

    Raises:
        TypeError: see `canonical`.
    """
    whole = {"format": FORMAT, **record}
    signature = key.sign(_DOMAIN, canonical(whole))
    document = {
        "record": whole,
        "public_key": str(key.public),
        "signature": base64.b64encode(signature).decode(),
    }
    return json.dumps(document, indent=1, sort_keys=True).encode("ascii") + b"\n"


def verified(data: bytes, key: PublicKey) -> dict[str, Any]:
    """Return the record of a certificate that a key has signed.

    Args:
        data: the certificate.
        key: whose signature counts. The key that the certificate names is not asked.

    Raises:
        CertificateError: it is none, another key signed it, or it was changed since.
    """
    if len(data) > _MAX_BYTES:
        raise CertificateError("certificate_malformed", "it is too large to be a certificate")
    try:
        # RFC 8259: UTF-8 and no mark before it. `loads` alone would take UTF-16 and more.
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_once)
        record, text = document["record"], document["signature"]
        message = canonical(record)
        signature = binascii.a2b_base64(text, strict_mode=True)
        is_one = document.keys() == {"record", "public_key", "signature"}
        is_one = is_one and record["format"] == FORMAT
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        is_one = False
    if not is_one or base64.b64encode(signature).decode() != text:
        raise CertificateError("certificate_malformed", "it is no certificate of this format")
    if document["public_key"] != str(key) or not key.verifies(signature, _DOMAIN, message):
        raise CertificateError(
            "certificate_forged", "this key did not sign it, or it was changed since"
        )
    found: dict[str, Any] = record
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found
