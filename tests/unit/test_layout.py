import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keywrap import layout as layout_module
from keywrap.layout import MAX_BLOB_ID_BYTES, Layout, Part, UnsafeBlobIdError, check_blob_id

GENERATION = "0123456789abcdef" * 2
ADOPTER = Layout(".blob", ".blob.meta")
LAYOUTS = [Layout(), ADOPTER, Layout("", ".meta"), Layout(".data.json", ".json")]


def refusal(blob_id: str) -> str:
    with pytest.raises(UnsafeBlobIdError) as caught:
        check_blob_id(blob_id)
    return caught.value.reason_code


@pytest.mark.parametrize(
    "blob_id",
    [
        "a",
        "tenants/7/invoice.pdf",
        "with space",
        "größe",
        "עברית",
        "文書",
        "🗝",
        "...",
        ".a",
        "é" * 512,
    ],
)
def test_ids_of_every_script_are_ordinary(blob_id: str) -> None:
    check_blob_id(blob_id)


@pytest.mark.parametrize(
    ("blob_id", "reason_code"),
    [
        ("", "blob_id_empty"),
        ("/", "blob_id_traversal"),
        ("/etc/passwd", "blob_id_traversal"),
        ("a//b", "blob_id_traversal"),
        ("a/", "blob_id_traversal"),
        (".", "blob_id_traversal"),
        ("..", "blob_id_traversal"),
        ("a/../b", "blob_id_traversal"),
        ("a/./b", "blob_id_traversal"),
        ("a\\b", "blob_id_not_portable"),
        ("a\\xff", "blob_id_not_portable"),
        ("a\udcff", "blob_id_not_unicode"),
        ("\ud800", "blob_id_not_unicode"),
        ("a\0b", "blob_id_control_character"),
        ("a\nb", "blob_id_control_character"),
        ("a\x1b[31m", "blob_id_control_character"),
        ("a\x7f", "blob_id_control_character"),
        ("a\x85", "blob_id_control_character"),
        ("a\u2028b", "blob_id_control_character"),
        ("a\u2029b", "blob_id_control_character"),
        ("a\u202egpj.exe", "blob_id_control_character"),
        ("a\u2066b", "blob_id_control_character"),
        ("x" * (MAX_BLOB_ID_BYTES + 1), "blob_id_too_long"),
        ("é" * 513, "blob_id_too_long"),
    ],
)
def test_an_unsafe_id_is_refused_with_its_reason(blob_id: str, reason_code: str) -> None:
    assert refusal(blob_id) == reason_code
    for name_of in (ADOPTER.sidecar_name, ADOPTER.content_name):
        with pytest.raises(UnsafeBlobIdError):
            name_of(blob_id)


def test_names_follow_the_suffixes() -> None:
    assert ADOPTER.sidecar_name("a/b") == "a/b.blob.meta"
    assert ADOPTER.content_name("a/b") == "a/b.blob"
    assert ADOPTER.content_name("a/b", GENERATION) == f"a/b.blob.~{GENERATION}"
    assert Layout().content_name("a/b") == "a/b"


@pytest.mark.parametrize(
    "generation",
    ["", "0" * 31, "0" * 33, "0" * 31 + "G", "A" * 32, "../" + "0" * 29, "0" * 32 + "\n"],
)
def test_a_generation_of_another_form_leads_nowhere(generation: str) -> None:
    with pytest.raises(UnsafeBlobIdError) as caught:
        ADOPTER.content_name("a", generation)
    assert caught.value.reason_code == "object_name_refused"


@pytest.mark.parametrize(
    ("layout", "name", "parsed"),
    [
        (ADOPTER, "a.blob", ("a", Part.CONTENT)),
        (ADOPTER, "a.blob.meta", ("a", Part.SIDECAR)),
        (ADOPTER, "a.meta", None),
        (ADOPTER, f"a.blob.~{GENERATION}", None),
        (ADOPTER, ".rewrap/a.blob", None),
        (ADOPTER, "b/.rewrap/a.blob", ("b/.rewrap/a", Part.CONTENT)),
        (Layout(), "a", ("a", Part.CONTENT)),
        (Layout(), "a.sidecar.json", ("a", Part.SIDECAR)),
        (Layout(), ".rewrap/control.json", None),
        (Layout(".data.json", ".json"), "a.data.json", ("a", Part.CONTENT)),
        (Layout(".data.json", ".json"), "a.json", ("a", Part.SIDECAR)),
    ],
)
def test_a_name_tells_its_part(layout: Layout, name: str, parsed: tuple[str, Part] | None) -> None:
    assert layout.parse(name) == parsed


@pytest.mark.parametrize(("blob", "sidecar"), [("", ""), (".x", ".x"), (".x", "")])
def test_suffixes_that_cannot_be_told_apart_are_refused(blob: str, sidecar: str) -> None:
    with pytest.raises(ValueError, match="sidecar_suffix"):
        Layout(blob, sidecar)


@pytest.mark.parametrize(
    ("layout", "blob_id"),
    [
        (Layout(), "x.sidecar.json"),  # its content would be the sidecar of "x"
        (Layout(), ".rewrap/control.json"),  # its content would be the control file
        (Layout(), f"x.~{GENERATION}"),  # no listing would show it
        (ADOPTER, ".rewrap/x"),
    ],
)
def test_content_never_takes_a_name_of_another_meaning(layout: Layout, blob_id: str) -> None:
    with pytest.raises(UnsafeBlobIdError) as caught:
        layout.content_name(blob_id)
    assert caught.value.reason_code == "blob_id_ambiguous"


def test_a_sidecar_never_takes_a_name_of_another_meaning() -> None:
    with pytest.raises(UnsafeBlobIdError) as caught:
        Layout(".data.json", ".json").sidecar_name("x.data")
    assert caught.value.reason_code == "blob_id_ambiguous"


@given(
    st.sampled_from(LAYOUTS),
    st.text(min_size=1, max_size=40)
    | st.text(alphabet="ab./~-0jsonmetalidecr", min_size=1, max_size=30),
)
def test_every_name_that_is_given_out_is_read_back_as_the_same_part(
    layout: Layout, blob_id: str
) -> None:
    for name_of, part in ((layout.content_name, Part.CONTENT), (layout.sidecar_name, Part.SIDECAR)):
        try:
            name = name_of(blob_id)
        except UnsafeBlobIdError:
            continue
        assert layout.parse(name) == (blob_id, part)


def test_every_character_that_unicode_calls_a_control_is_refused_and_no_other() -> None:
    directions = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    for code in [*range(0xD800), *range(0xE000, sys.maxunicode + 1)]:
        character = chr(code)
        forges = (
            unicodedata.category(character) in {"Cc", "Zl", "Zp"}
            or unicodedata.bidirectional(character) in directions
        )
        assert bool(layout_module._FORGES_LINES.search(character)) == forges, hex(code)


def test_a_layout_is_its_two_suffixes() -> None:
    assert Layout(".a", ".b") == Layout(".a", ".b")
    assert hash(Layout(".a", ".b")) == hash(Layout(".a", ".b"))
    assert repr(Layout()) == "Layout(blob_suffix='', sidecar_suffix='.sidecar.json')"
