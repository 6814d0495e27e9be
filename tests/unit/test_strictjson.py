import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keywrap import strictjson
from keywrap.strictjson import MAX_DEPTH, BadSidecarError, read_object

TOKENS = [
    *'{}[]:,"\\/-+ \n\t\r\0\x0b\x7f\u2028é',
    '"a"', '"b"', '"a":1', '"a":{"a":1}', '"\\u003a"', '"\\u003A"', '"\\u0061"', '"a::b"',
    '"\\ud83d\\udd11"', '"\\ud800"', "\\u", "1", "0", "01", "-0", "1.", ".5", "1.5", "E+5",
    "1e308", "1e400", "1.7976931348623159e308", "9" * 20, "9" * 400, "9" * 5_000, "NaN",
    "Infinity", "null", "true", "fals", "'a'", "//",
]  # fmt: skip
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(':aé\\"\n🗝', max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(":ab", max_size=2), inner),
    max_leaves=8,
)
documents = st.builds(
    lambda value, form: json.dumps(value, **form),
    st.dictionaries(st.text(":ab", max_size=2), values, max_size=4),
    st.fixed_dictionaries({"ensure_ascii": st.booleans(), "indent": st.sampled_from([None, 1])}),
)
anything = st.lists(st.sampled_from(TOKENS), max_size=10).map(
    lambda parts: "{" + "".join(parts) + "}"
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A document with a piece of it copied elsewhere, or a byte changed."""
    data = bytearray(draw(documents).encode())
    start, at = (draw(st.integers(0, len(data) - 1)) for _ in range(2))
    if draw(st.booleans()):
        data[at:at] = data[start : start + draw(st.integers(1, 12))]
    else:
        data[at] = draw(st.integers(0, 255))
    return bytes(data)


def strictly(data: bytes) -> dict[str, Any] | None:
    try:
        return strictjson._read_strictly(data)
    except BadSidecarError:
        return None


@given(documents.map(str.encode) | anything.map(str.encode) | damaged())
@example(b'{"a":":","a":"\\u003a:"}')
@example(b'{"a":"::","a":"\\u003a"}')
@example(b'{"a":[{"b":1,"b":2}],"c":":"}')
@example(b'{"a:":1,"a\\u003a":":"}')
def test_what_is_read_plainly_is_what_the_strict_reader_reads(data: bytes) -> None:
    plain = strictjson._read_plainly(data)
    if plain is not None:
        # As text: True is not 1, 1 is not 1.0, 0.0 is not -0.0, and the order counts.
        assert repr(plain) == repr(strictly(data))


@given(documents.map(str.encode))
def test_an_ordinary_record_is_read_plainly(data: bytes) -> None:
    is_plain = data.count(b"{") + data.count(b"[") <= strictjson.MAX_DEPTH
    assert (strictjson._read_plainly(data) is not None) == is_plain
    assert read_object(data) == strictly(data)


@pytest.mark.parametrize(
    "data",
    [b'{"a":1,"a":1}', b'{"a":":::","a":1}', b'{"x":[{"a":1,"a":2}]}', b'{"a":1,"\\u0061":"::"}'],
)
def test_a_field_given_twice_is_never_read_plainly(data: bytes) -> None:
    assert strictjson._read_plainly(data) is None
    with pytest.raises(BadSidecarError) as caught:
        read_object(data)
    assert caught.value.reason_code == "sidecar_duplicate_key"


@pytest.mark.parametrize(("opening", "closing"), [('{"a":', "}"), ("[", "]")])
def test_a_sidecar_may_be_nested_as_deep_as_the_limit_and_no_deeper(
    opening: str, closing: str
) -> None:
    def nested(levels: int) -> bytes:
        inner = levels - 1  # the sidecar itself is a level
        # More brackets beside it: few of them would be proof enough that nothing is too deep.
        return f'{{"x":{opening * inner}1{closing * inner},"y":[[],[]]}}'.encode()

    read_object(nested(MAX_DEPTH))
    with pytest.raises(BadSidecarError) as caught:
        read_object(nested(MAX_DEPTH + 1))
    assert caught.value.reason_code == "sidecar_nested_too_deep"


def test_many_brackets_beside_each_other_are_not_deep() -> None:
    read_object(f'{{"x":[{",".join(["[]"] * 10 * MAX_DEPTH)}]}}'.encode())
