"""A certificate is verified with the public key alone, and every change of it is found."""

import base64
import hashlib
import json
from decimal import Decimal
from pathlib import Path

import pytest

from keywrap.certificate import CertificateError, canonical, digest, signed, verified
from keywrap.signing import SigningKey
from scheduler import certificate_page, confidence

RECORD = {
    "campaign": 7,
    "kind": "rotate",
    "store": "file:///srv/<b>lobs",
    "state": "complete_with_exceptions",
    "counts": {"scanned": 3, "rewrapped": 2, "quarantined": 1},
    "keys_before": [{"key_id": "hcvault://transit/k?version=1", "problem": "", "blobs": 3}],
    "exceptions": [{"blob_id": "<script>", "outcome": "quarantined", "reason_code": "x"}],
    "more_exceptions": None,
    "target": "hcvault://transit/k?version=2",
}


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return SigningKey.create(tmp_path / "certificate.key")


def test_a_certificate_is_verified_with_the_public_key_alone(key: SigningKey) -> None:
    record = verified(signed(RECORD, key), key.public)
    assert record == {"format": "rewrap-certificate-v1", **RECORD}


def test_every_change_of_a_byte_is_found(key: SigningKey) -> None:
    data = signed(RECORD, key)
    whole = verified(data, key.public)
    for place in range(len(data)):
        for flip in (1, 32):
            changed = bytearray(data)
            changed[place] ^= flip
            try:
                found = verified(bytes(changed), key.public)
            except CertificateError:
                continue
            assert found == whole, "only what says nothing may differ, such as a blank"


def test_a_certificate_cut_anywhere_is_refused(key: SigningKey) -> None:
    data = signed(RECORD, key).rstrip()
    for end in range(len(data)):
        with pytest.raises(CertificateError):
            verified(data[:end], key.public)


def test_another_key_is_refused_also_where_the_certificate_names_it(
    key: SigningKey, tmp_path: Path
) -> None:
    other = SigningKey.create(tmp_path / "other.key")
    with pytest.raises(CertificateError, match="did not sign"):
        verified(signed(RECORD, other), key.public)
    document = json.loads(signed(RECORD, other))
    document["public_key"] = str(key.public)
    with pytest.raises(CertificateError, match="did not sign"):
        verified(json.dumps(document).encode(), key.public)


def test_a_signature_made_for_something_else_is_refused(key: SigningKey) -> None:
    document = json.loads(signed(RECORD, key))

    signature = key.sign(b"rewrap control file v1", canonical(document["record"]))
    document["signature"] = base64.b64encode(signature).decode()
    with pytest.raises(CertificateError, match="did not sign"):
        verified(json.dumps(document).encode(), key.public)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"null", b'"x"', b"[" * 100_000, b"\xff"])
def test_what_is_no_certificate_is_refused(key: SigningKey, data: bytes) -> None:
    with pytest.raises(CertificateError, match="no certificate"):
        verified(data, key.public)


def test_a_name_that_stands_twice_is_refused(key: SigningKey) -> None:
    data = signed(RECORD, key).replace(b'"campaign": 7', b'"campaign": 8, "campaign": 7')
    with pytest.raises(CertificateError, match="no certificate"):
        verified(data, key.public)


@pytest.mark.parametrize("form", ["utf-16", "utf-32", "utf-8-sig"])
def test_a_certificate_in_another_encoding_than_utf_8_is_refused(
    key: SigningKey, form: str
) -> None:
    with pytest.raises(CertificateError, match="no certificate"):
        verified(signed(RECORD, key).decode().encode(form), key.public)


def test_the_digest_is_of_the_very_bytes_that_are_signed(key: SigningKey) -> None:
    record = verified(signed(RECORD, key), key.public)
    plain = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    assert digest(record) == hashlib.sha256(plain.encode()).hexdigest()


def test_a_blob_id_forges_no_line_of_the_page(key: SigningKey) -> None:
    ids = ["a\u202egpj.exe", 'b"onmouseover="x', "c\x1b[2J", "d</table><h1>e&amp;"]
    lines = [{"blob_id": i, "outcome": "quarantined", "reason_code": "x"} for i in ids]
    record = RECORD | {"exceptions": lines, "store": "file:///\u2067s"}
    page = certificate_page.page(record, str(key.public), "c2ln", "5ha256")
    assert all(c.isprintable() for c in page.replace("\n", ""))
    assert page.count("<h1>") == 1
    assert "d&lt;/table&gt;&lt;h1&gt;e&amp;amp;" in page
    assert 'b"' not in page


def test_lines_of_one_key_are_added_up_on_the_page(key: SigningKey) -> None:
    line = {"key_id": "", "problem": "p", "blobs": 3}
    record = RECORD | {"keys_before": [line, line | {"blobs": 4}]}
    page = certificate_page.page(record, str(key.public), "c2ln", "5ha256")
    assert ">7</text>" in page


@pytest.mark.parametrize("opened", [1, 2, 299, 459, 500, 9_999, 1_000_000])
def test_a_bound_is_rounded_up_never_down(opened: int) -> None:
    exact = 1 - Decimal("0.01") ** (1 / Decimal(opened))
    assert Decimal(confidence.bound_ppm(opened)) / 1_000_000 >= exact
    assert Decimal(confidence.bound_ppm(opened) - 1) / 1_000_000 < exact
    said = confidence.sentence(opened, 0, everything=False)
    shown = Decimal(said.partition("fewer than ")[2].partition("%")[0]) / 100
    assert exact <= shown < exact + Decimal("0.00001")


@pytest.mark.parametrize("value", [1.5, b"x", object()])
def test_a_record_holds_nothing_that_two_programs_write_differently(value: object) -> None:
    with pytest.raises(TypeError):
        canonical({"a": [{"b": value}]})


def test_the_page_takes_nothing_from_elsewhere_and_escapes_what_it_shows(key: SigningKey) -> None:
    page = certificate_page.page(RECORD, str(key.public), "c2ln", "5ha256")
    assert "5ha256" in page
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "&lt;b&gt;lobs" in page
    assert "http" not in page
    assert "<svg" in page
