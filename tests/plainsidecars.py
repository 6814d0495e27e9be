"""Which sidecars are sound, from the format's description alone: nothing of `keywrap`.

Written to be checked by eye, not to be fast or to say what is wrong.
"""

import base64
import json
import math
import re
from typing import Any

_MOST_BYTES, _MOST_LEVELS, _MOST_WRAP, _MOST_VERSION = 65_536, 32, 6_144, 2**53 - 1
_SCHEMES = {
    "env": "env",
    "dpapi": "dpapi",
    "local": "local",
    "aws-kms": "aws",
    "gcp-kms": "gcp",
    "azure-kv": "azure",
    "hcvault": "vault",
    "pkcs11": "pkcs11",
}
_LEGACY = {"env", "dpapi"}
_TOKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_DPAPI_HEX = "01000000d08c9ddf0115d1118c7a00c04fc297eb"
_OF_THE_WRAP = ("key_id", "wrapped_dek", "dek_version", "previous")
_OURS = {*_OF_THE_WRAP, "provider", "context", "content", "object"}


class _UnsoundError(Exception):
    pass


def is_sound(data: bytes) -> bool:
    """Whether a reader may take these bytes for a sidecar."""
    try:
        record = _json(data)
        _require(isinstance(record, dict))
        _check(record)
    except (_UnsoundError, UnicodeError, ValueError, RecursionError):
        return False
    return True


def _require(fact: object) -> None:
    if not fact:
        raise _UnsoundError


def _json(data: bytes) -> Any:
    _require(len(data) <= _MOST_BYTES)
    value = json.loads(
        data.decode(),
        object_pairs_hook=_unique,
        parse_constant=lambda _name: _require(False),  # noqa: FBT003 - NaN and Infinity
        parse_float=_finite,
    )
    _walk(value, 1)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _require(len(dict(pairs)) == len(pairs))
    return dict(pairs)


def _finite(text: str) -> float:
    _require(math.isfinite(float(text)))
    return float(text)


def _walk(value: Any, level: int) -> None:
    """See that nothing is nested too deep and every string is Unicode."""
    if isinstance(value, str):
        value.encode()
    if isinstance(value, dict | list):
        _require(level <= _MOST_LEVELS)
        for inner in value:
            _walk(inner, level + 1)
    if isinstance(value, dict):
        for inner in value.values():
            _walk(inner, level + 1)


def _check(record: dict[str, Any]) -> None:
    for name in record.keys() - _OURS:
        _require(name.casefold() not in _OF_THE_WRAP)
    _check_key(record)
    _check_wrap(record)
    number = record.get("dek_version", 0)
    _require(type(number) is int and 0 <= number <= _MOST_VERSION)
    context = record.get("context", {})
    _require(isinstance(context, dict) and all(isinstance(v, str) for v in context.values()))
    _require(_TOKEN.match(_text(record, "content", "a")))
    _require(re.match(r"[0-9a-f]{32}\Z", _text(record, "object", "0" * 32)))
    if "previous" in record:
        _check_previous(record["previous"])


def _text(record: dict[str, Any], name: str, default: str) -> str:
    value = record.get(name, default)
    _require(isinstance(value, str))
    return str(value)


def _check_key(record: dict[str, Any]) -> None:
    provider = _text(record, "provider", "a")
    _require(_TOKEN.match(provider))
    key_id = _text(record, "key_id", "env")
    named = key_id if key_id in _LEGACY else _provider(key_id)
    if "provider" in record and "key_id" in record:
        _require(provider == named)


def _provider(key_id: str) -> str:
    key, marker, version = key_id.partition("?version=")
    scheme, colon, rest = key.partition(":")
    _require(len(key_id) <= 1024 and colon and scheme in _SCHEMES)
    _require(re.match(r"[A-Za-z0-9/._~:@%+=,;-]{1,960}\Z", rest))
    _require(not marker or re.match(r"[A-Za-z0-9._-]{1,128}\Z", version))
    return _SCHEMES[scheme]


def _check_wrap(record: dict[str, Any]) -> None:
    if "wrapped_dek" not in record:
        return
    text = _text(record, "wrapped_dek", "")
    if text.lower().startswith(_DPAPI_HEX) and text.isascii():
        _require(text in {text.lower(), text.upper()})
        wrap = bytes.fromhex(text)
        _require(len(wrap) * 2 == len(text))  # fromhex passes over white space
    else:
        if text.startswith("gAAAA") and not {"+", "/"} & set(text):
            text = text.replace("-", "+").replace("_", "/")
        wrap = base64.b64decode(text, validate=True)
        _require(base64.b64encode(wrap).decode() == text)
    _require(0 < len(wrap) <= _MOST_WRAP)


def _check_previous(previous: Any) -> None:
    _require(isinstance(previous, dict) and previous.keys() <= {"key_id", "wrapped_dek"})
    provider = _provider(_text(previous, "key_id", ""))
    _require("wrapped_dek" in previous or provider in _LEGACY)
    _check_wrap(previous)
