"""The JSON of a sidecar, read so that no two readers could understand it differently."""

import codecs
import json
import math
from collections.abc import Mapping
from typing import Any

import msgspec

from keywrap.reasons import ReasonedError

MAX_SIDECAR_BYTES = 65_536
"""Most bytes a sidecar may have; a store reads no more than this."""

MAX_DEPTH = 32
"""Deepest nesting that is read: far under the recursion limit of any reader of the record."""


class BadSidecarError(ReasonedError, ValueError):
    """The sidecar does not say, without any doubt, which key wraps what.

    The message shows no wrap, and no value of an unknown field.
    """


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # json and msgspec both let the last one win; another reader may take the first.
    record = dict(pairs)
    if len(record) != len(pairs):
        raise BadSidecarError("sidecar_duplicate_key", "a field is given twice")
    return record


def _refuse_constant(_name: str) -> float:
    raise BadSidecarError("sidecar_number_out_of_range", "NaN and Infinity are not JSON")


def _read_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise BadSidecarError("sidecar_number_out_of_range", "a number is larger than any double")
    return value


_STRICT = json.JSONDecoder(
    object_pairs_hook=_refuse_duplicates, parse_constant=_refuse_constant, parse_float=_read_float
)
_RAW = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read_object(data: bytes) -> dict[str, Any]:
    """Read a sidecar's JSON object.

    Raises:
        BadSidecarError: with one reason code for each kind of defect.
    """
    if len(data) > MAX_SIDECAR_BYTES:
        raise BadSidecarError(
            "sidecar_too_large", f"the sidecar has more than {MAX_SIDECAR_BYTES} bytes"
        )
    record = _read_plainly(data)
    return _read_strictly(data) if record is None else record


def _read_plainly(data: bytes) -> dict[str, Any] | None:
    """Read a record that is plainly sound; None where the strict reader has to look.

    msgspec reads JSON as strictly as `_STRICT`, in a third of the time, but lets the last of two
    fields of one name win. Each field has a colon, so a record that lost one has fewer colons
    when it is written again. Reading adds none to make up for it: a colon in a string comes from
    a colon in the bytes or from its escape, and no text with that escape is read this way.
    """
    if (
        b"\\u003" in data  # a colon is \u003a, or 3A
        or data.count(b"{") + data.count(b"[") > MAX_DEPTH
    ):
        return None
    try:
        record = msgspec.json.decode(data)
        colons = msgspec.json.encode(record).count(b":")
    except (ValueError, OverflowError, RecursionError):
        return None
    return record if isinstance(record, dict) and colons == data.count(b":") else None


def _read_strictly(data: bytes) -> dict[str, Any]:
    """Read a record by the slower reader, which tells what is wrong with it."""
    if not data.strip():
        raise BadSidecarError("sidecar_empty", "the sidecar is empty")
    if data.startswith(codecs.BOM_UTF8):
        raise BadSidecarError("sidecar_has_bom", "the sidecar starts with a byte order mark")
    record = _read_json(data)
    if not isinstance(record, dict):
        raise BadSidecarError("sidecar_not_object", "the sidecar is JSON but no object")
    # Each level needs a bracket, so few brackets are proof enough and nearly always there.
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH and _is_deeper(record, MAX_DEPTH):
        raise _too_deep()
    return record


def _read_json(data: bytes) -> Any:  # noqa: ANN401  # any JSON value
    # Errors are raised "from None": a JSONDecodeError carries the whole text, wraps included.
    try:
        return _STRICT.decode(data.decode())
    except UnicodeDecodeError:
        raise BadSidecarError("sidecar_not_utf8", "the sidecar is not UTF-8") from None
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError as error:
        place = f"the sidecar is not JSON (character {error.pos})"
        raise BadSidecarError("sidecar_not_json", place) from None
    except BadSidecarError:
        raise
    except ValueError:  # CPython reads no integer of more than 4,300 digits
        raise BadSidecarError("sidecar_number_out_of_range", "an integer is too long") from None


def _too_deep() -> BadSidecarError:
    return BadSidecarError(
        "sidecar_nested_too_deep", f"the sidecar is nested deeper than {MAX_DEPTH} levels"
    )


def _is_deeper(value: Any, levels: int) -> bool:  # noqa: ANN401  # any JSON value
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return False
    return levels == 0 or any(_is_deeper(inner, levels - 1) for inner in value)


def read_raw(data: bytes, record: Mapping[str, Any]) -> dict[str, msgspec.Raw]:
    """Read an object a second time, for the bytes of its values.

    1.10 must not become 1.1, nor an escaped letter the letter.

    Args:
        data: the bytes that `read_object` read.
        record: what it returned.

    Raises:
        BadSidecarError: a string has half a surrogate pair.
    """
    try:
        values = _RAW.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        values = {}
    if values.keys() != record.keys():
        raise BadSidecarError("sidecar_not_unicode", "a string has half a surrogate pair")
    return values
