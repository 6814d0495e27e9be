"""A certificate is verified with the public key alone, and every change of it is found."""

import base64
import json
from pathlib import Path

import pytest

from keywrap.certificate import CertificateError, canonical, signed, verified
from keywrap.signing import SigningKey
from scheduler import certificate_page

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


@pytest.mark.parametrize("value", [1.5, b"x", object()])
def test_a_record_holds_nothing_that_two_programs_write_differently(value: object) -> None:
    with pytest.raises(TypeError):
        canonical({"a": [{"b": value}]})


def test_the_page_takes_nothing_from_elsewhere_and_escapes_what_it_shows(key: SigningKey) -> None:
    page = certificate_page.page(RECORD, str(key.public), "c2ln")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "&lt;b&gt;lobs" in page
    assert "http" not in page
    assert "<svg" in page
