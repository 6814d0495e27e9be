"""Malformed and hostile sidecars, drawn from a seed; each with the reason why it is refused.

`tests.shapes` has those that somebody thought of; here the place, the value and the size are drawn.
"""

import base64
import json
import random
from collections.abc import Callable, Mapping
from typing import Any

from keywrap.sidecar import MAX_DEK_VERSION, MAX_DEPTH, MAX_SIDECAR_BYTES, MAX_WRAP_BYTES
from tests.shapes import Shape
from tests.texts import FULL, WRAP

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_STRANGE = " \n\r\t\0\"'\\<>{}|^`*#!$&()[]€é\u200b\u202e\u0430\uff21\U0001f511\ud800"
_TYPES: tuple[Any, ...] = (None, True, False, 0, 1, -1.5, [], ["a"], {}, {"a": "b"})
_TEXT_FIELDS = ("key_id", "provider", "wrapped_dek", "content", "object")


def _word(rng: random.Random, most: int = 12) -> str:
    return "".join(rng.choices(_LETTERS, k=rng.randint(1, most)))


def _record(rng: random.Random, **fields: Any) -> dict[str, Any]:
    """Return a sound record in a drawn order, with some fields that are not ours."""
    record = FULL | {f"x{_word(rng)}": rng.choice(_TYPES) for _ in range(rng.randrange(3))} | fields
    names = rng.sample(list(record), len(record))
    return {name: record[name] for name in names}


def _bytes(rng: random.Random, record: Mapping[str, Any]) -> bytes:
    form: dict[str, Any] = {"ensure_ascii": rng.random() < 0.5, "indent": rng.choice((None, 0, 2))}
    text = json.dumps(record, **form)
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a pair cannot be written but by its escape
        return json.dumps(record).encode()


def _sound(rng: random.Random) -> bytes:
    return _bytes(rng, _record(rng))


def _with(rng: random.Random, piece: bytes, data: bytes | None = None) -> bytes:
    """Put a piece before the first or behind the last field."""
    text = _sound(rng) if data is None else data
    if rng.random() < 0.5:
        return b"{" + piece + b"," + text[1:]
    return text.rstrip()[:-1] + b"," + piece + b"}"


def _spoilt(rng: random.Random, text: str, strange: str = _STRANGE) -> str:
    """Put a character into a text that it must not have."""
    at = rng.randrange(len(text) + 1)
    return text[:at] + rng.choice(strange) + text[at + rng.randrange(2) :]


# One for each reason


def _too_large(rng: random.Random) -> bytes:
    filling = _word(rng) * MAX_SIDECAR_BYTES
    return _bytes(rng, _record(rng, filling=filling[: MAX_SIDECAR_BYTES + rng.randrange(9)]))


def _empty(rng: random.Random) -> bytes:
    return "".join(rng.choices(" \t\r\n", k=rng.randrange(99))).encode()


def _not_utf8(rng: random.Random) -> bytes:
    bad = rng.choice((b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\x80", b"\xf4\x90\x80\x80", b"\xc3"))
    return _with(rng, b'"x' + _word(rng).encode() + b'":"' + bad + b'"')


def _not_json(rng: random.Random) -> bytes:
    data = _sound(rng)
    match rng.randrange(4):
        case 0:
            cut = json.dumps(_record(rng)).encode()  # ASCII, or a cut may fall inside a character
            return cut[: rng.randrange(1, len(cut))]
        case 1:
            return data + rng.choice((b"}", b",", b"\0", b"x", data))
        case 2:
            return data.replace(b":", rng.choice((b"", b"=", b"::", b";")), 1)
        case _:
            value = rng.choice((b"01", b"+1", b".5", b"1.", b"0x1f", b"True", b"'a'", b"undefined"))
            return _with(rng, b'"x":' + value)


def _not_object(rng: random.Random) -> bytes:
    value = rng.choice(
        (*_TYPES[:8], _word(rng), [_record(rng)], [[*pair] for pair in FULL.items()])
    )
    return json.dumps(value).encode()


def _duplicate(rng: random.Random) -> bytes:
    name = rng.choice([*FULL])
    at = rng.randrange(len(name))
    escaped = f"{name[:at]}\\u{ord(name[at]):04x}{name[at + 1 :]}"
    shown = rng.choice((name, escaped))
    value = rng.choice((json.dumps(FULL[name]), "1", "null", '":::"'))
    return _with(rng, f'"{shown}":{value}'.encode())


def _deep(rng: random.Random) -> bytes:
    levels = MAX_DEPTH + rng.choice((0, 1, 10, 300))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":[', b"]}"), (b'{"a":', b"}")))
    return _with(rng, b'"x":' + opening * levels + b"1" + closing * levels)


def _number(rng: random.Random) -> bytes:
    numbers = (b"NaN", b"-Infinity", b"1e%d" % rng.randint(309, 10**6), b"9" * 4_400)
    value = rng.choice(numbers)
    return _with(rng, b'"x":' + rng.choice((value, b"[" + value + b"]")))


def _half_a_pair(rng: random.Random) -> bytes:
    half = f"\\u{rng.randint(0xD800, 0xDFFF):04x}"
    word = _word(rng)
    piece = rng.choice((f'"x":"{word}{half}{word}"', f'"x":["{half}"]', f'"x":{{"{half}":1}}'))
    return _with(rng, piece.encode())


def _case(rng: random.Random) -> bytes:
    name = rng.choice(("key_id", "wrapped_dek", "dek_version", "previous"))
    at = rng.choice([n for n, letter in enumerate(name) if letter != "_"])
    return _bytes(rng, _record(rng, **{name[:at] + name[at].upper() + name[at + 1 :]: "x"}))


def _bad_key(rng: random.Random) -> bytes:
    uri = rng.choice((FULL["key_id"], "env:BLOB_KEY", "local:kek?version=2-0a1b2c3d"))
    bad = (
        _spoilt(rng, uri),
        f"{_word(rng)}x:{_word(rng)}".lower(),
        uri + "?version=",
        uri + "?region=" + _word(rng),
        "env:" + "A" * rng.randint(961, 3_000),
        f"https://{_word(rng)}.example/{_word(rng)}",
    )
    return _bytes(rng, _record(rng, key_id=rng.choice(bad)))


def _wrong_type(rng: random.Random) -> bytes:
    return _bytes(rng, _record(rng, **{rng.choice(_TEXT_FIELDS): rng.choice(_TYPES)}))


def _bad_provider(rng: random.Random) -> bytes:
    bad = (_spoilt(rng, "vault"), "", "." + _word(rng), "a" * rng.randint(65, 200))
    return _bytes(rng, _record(rng, provider=rng.choice(bad)))


def _contradiction(rng: random.Random) -> bytes:
    return _bytes(rng, _record(rng, provider="not-" + _word(rng)))


def _bad_base64(rng: random.Random) -> bytes:
    bad = (
        _spoilt(rng, WRAP, _STRANGE + "-_.,:;%"),
        WRAP + "=",
        WRAP.rstrip("=") + "A" * (len(WRAP) % 4 + 1 + (len(WRAP.rstrip("=")) % 4 == 3)),
        f"vault:v{rng.randrange(99)}:{WRAP}",
        "AB==",
    )
    return _bytes(rng, _record(rng, wrapped_dek=rng.choice(bad)))


def _long_wrap(rng: random.Random) -> bytes:
    wrap = rng.randbytes(MAX_WRAP_BYTES + rng.randint(1, 3_000))
    return _bytes(rng, _record(rng, wrapped_dek=base64.b64encode(wrap).decode()))


def _bad_hex(rng: random.Random) -> bytes:
    begins = "01000000d08c9ddf0115d1118c7a00c04fc297eb"
    bad = begins + rng.choice(("0", "zz", "aA", " 00", "0x00", "==", "é"))
    return _bytes(rng, _record(rng, wrapped_dek=bad))


def _bad_version(rng: random.Random) -> bytes:
    beyond = MAX_DEK_VERSION + rng.randint(1, 10**20)
    bad = (beyond, -rng.randint(1, 10**20), rng.random(), str(rng.randrange(9)), True, None, [1])
    return _bytes(rng, _record(rng, dek_version=rng.choice(bad)))


def _bad_context(rng: random.Random) -> bytes:
    values: tuple[Any, ...] = (None, 1, True, [_word(rng)], {"a": "b"}, "\ud800")
    bad = ({_word(rng): rng.choice(values)}, [["blob_id", "a"]], _word(rng), None, 1)
    return _bytes(rng, _record(rng, context=rng.choice(bad)))


def _bad_content(rng: random.Random) -> bytes:
    bad = (_spoilt(rng, "stream-v1"), "", "../gcm-v1", "a" * rng.randint(65, 200))
    return _bytes(rng, _record(rng, content=rng.choice(bad)))


def _bad_object(rng: random.Random) -> bytes:
    name = f"{rng.getrandbits(128):032x}"
    bad = (name[:-1], name + "0", name[:-1] + rng.choice("ABCDEFg/.\n\0"), "../" + name[3:])
    return _bytes(rng, _record(rng, object=rng.choice(bad)))


def _bad_previous(rng: random.Random) -> bytes:
    sound = {"key_id": "env:OLD_KEK", "wrapped_dek": WRAP}
    bad = (
        rng.choice((None, 1, [], "env:A", {})),
        sound | {"x" + _word(rng): 1},
        sound | {"key_id": _spoilt(rng, "env:OLD_KEK")},
        sound | {"wrapped_dek": _spoilt(rng, WRAP)},
        {"wrapped_dek": WRAP},
        {"key_id": str(FULL["key_id"])},
        sound | {"previous": sound},
    )
    return _bytes(rng, _record(rng, previous=rng.choice(bad)))


def _of_another_blob(rng: random.Random) -> bytes:
    return _bytes(rng, _record(rng, context={"blob_id": f"another/{_word(rng)}"}))


_MAKERS: Mapping[str, Callable[[random.Random], bytes]] = {
    "sidecar_too_large": _too_large,
    "sidecar_empty": _empty,
    "sidecar_not_utf8": _not_utf8,
    "sidecar_has_bom": lambda rng: b"\xef\xbb\xbf" + _sound(rng),
    "sidecar_not_json": _not_json,
    "sidecar_not_object": _not_object,
    "sidecar_duplicate_key": _duplicate,
    "sidecar_nested_too_deep": _deep,
    "sidecar_number_out_of_range": _number,
    "sidecar_not_unicode": _half_a_pair,
    "sidecar_ambiguous": _case,
    "key_id_malformed": _bad_key,
    "field_wrong_type": _wrong_type,
    "provider_invalid": _bad_provider,
    "provider_contradicts_key_id": _contradiction,
    "wrapped_dek_not_base64": _bad_base64,
    "wrapped_dek_too_long": _long_wrap,
    "wrapped_dek_not_hex": _bad_hex,
    "dek_version_invalid": _bad_version,
    "context_invalid": _bad_context,
    "content_invalid": _bad_content,
    "object_invalid": _bad_object,
    "previous_invalid": _bad_previous,
    "context_mismatch": _of_another_blob,
}


def generated_shapes(count: int, seed: int) -> list[Shape]:
    """Return sidecars that must be refused, of all reasons in turn.

    Args:
        count: how many.
        seed: what all choices follow from.
    """
    rng, makers = random.Random(seed), list(_MAKERS.items())
    shapes = []
    for number in range(count):
        reason_code, make = makers[number % len(makers)]
        shapes.append(Shape(f"{reason_code} {number}", make(rng), reason_code))
    return shapes
