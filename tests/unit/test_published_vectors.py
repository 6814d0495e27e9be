"""Vectors that others published, run through our own schemes.

Wycheproof's (github.com/C2SP/wycheproof) are read from a folder beside the checkout, or the one
that WYCHEPROOF_DIR names; Fernet's are those of github.com/fernet/spec; the RFCs' are their own.
"""

import base64
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import InvalidToken

from keywrap.datakey import DataKey
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import RefusedError
from keywrap.providers import env_schemes
from keywrap.providers.env import EnvKeyProvider
from keywrap.providers.env_schemes import (
    WRAP_LENGTHS,
    GcmWrapping,
    NotOpenedError,
    Scheme,
    Wrapping,
    wrapping_of,
)

BESIDE = Path(__file__).resolve().parents[3] / "shared/data/wycheproof"
FOLDER = Path(os.environ.get("WYCHEPROOF_DIR", BESIDE))
CONTEXT = {"blob_id": "a"}


def cases(name: str) -> list[dict[str, Any]]:
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f"NOT PROVED: there is no {path}; name its folder in WYCHEPROOF_DIR")
    document = json.loads(path.read_bytes())
    found = [
        {k: v for k, v in group.items() if k != "tests"} | case
        for group in document["testGroups"]
        for case in group["tests"]
    ]
    assert len(found) == document["numberOfTests"]
    return found


def case_bytes(case: dict[str, Any], *names: str) -> list[bytes]:
    return [bytes.fromhex(case[name]) for name in names]


def made(scheme: Scheme, key: bytes) -> Wrapping:
    wrapping = wrapping_of(scheme, DataKey(key))
    assert wrapping is not None
    return wrapping


def opened(wrapping: Wrapping, wrap: bytes, aad: bytes | None = None) -> bytes | None:
    try:
        return wrapping.open(wrap, aad)
    except NotOpenedError:
        return None


def through_provider(scheme: Scheme, key: bytes, wrap: bytes) -> bytes | None:
    """Open as the provider does, with its rule on lengths."""
    try:
        wrapped = WrappedKey(KeyVersion("env:K"), wrap)
        return EnvKeyProvider("K", DataKey(key), scheme).unwrap(wrapped, CONTEXT).reveal()
    except RefusedError:
        return None


def check_provider(
    ran: Counter[str], scheme: Scheme, key: bytes, wrap: bytes, expected: bytes | None
) -> None:
    """Expect what the scheme gives where it is an AES key, and a refusal everywhere else."""
    is_key = expected is not None and len(expected) in {16, 24, 32}
    assert through_provider(scheme, key, wrap) == (expected if is_key else None)
    if len(wrap) in WRAP_LENGTHS[scheme]:
        ran[f"{scheme} by its provider"] += 1


def test_aes_gcm_is_that_of_wycheproof(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: Counter[str] = Counter()
    for case in cases("aes_gcm_test.json"):
        key, iv, aad, msg, ct, tag = case_bytes(case, "key", "iv", "aad", "msg", "ct", "tag")
        expected = msg if case["result"] == "valid" else None
        monkeypatch.setattr(env_schemes, "urandom", lambda _, iv=iv: iv)
        if not 8 <= len(iv) <= 128:
            # Bounds of OpenSSL's and so cryptography's AESGCM; no scheme of ours has such nonces.
            ran["not applicable: nonce of another length than OpenSSL takes"] += 1
            continue
        forms: dict[str, tuple[Wrapping, bytes]] = {}
        if len(iv) == 12:
            forms["aes-gcm"] = made("aes-gcm", key), iv + ct + tag
            forms["aes-gcm-tag-first"] = made("aes-gcm-tag-first", key), iv + tag + ct
        elif len(iv) == 16:
            forms["aes-gcm-iv16"] = made("aes-gcm-iv16", key), iv + ct + tag
        else:
            other = GcmWrapping(DataKey(key), nonce_bytes=len(iv))
            forms["nonce of another length"] = other, iv + ct + tag
        for form, (wrapping, wrap) in forms.items():
            assert opened(wrapping, wrap, aad) == expected, case
            assert expected is None or wrapping.seal(msg, aad) == wrap, case
            ran[form] += 1
            if form in WRAP_LENGTHS and not aad:
                check_provider(ran, form, key, wrap, expected)  # type: ignore[arg-type]
    assert ran == {
        "aes-gcm": 197,
        "aes-gcm-tag-first": 197,
        "aes-gcm-iv16": 58,
        "nonce of another length": 28,
        "not applicable: nonce of another length than OpenSSL takes": 33,
        "aes-gcm by its provider": 94,
        "aes-gcm-tag-first by its provider": 94,
        "aes-gcm-iv16 by its provider": 12,
    }


@pytest.mark.parametrize(
    ("scheme", "name", "count"),
    [("aes-kw", "aes_wrap_test.json", 165), ("aes-kwp", "aes_kwp_test.json", 254)],
)
def test_aes_key_wrap_is_that_of_wycheproof(scheme: Scheme, name: str, count: int) -> None:
    ran: Counter[str] = Counter()
    for case in cases(name):
        key, msg, ct = case_bytes(case, "key", "msg", "ct")
        wrapping = made(scheme, key)
        # Acceptable: a payload of 8 bytes, for which RFC 3394 defines no wrap.
        expected = msg if case["result"] == "valid" else None
        assert opened(wrapping, ct) == expected, case
        assert expected is None or wrapping.seal(msg, None) == ct, case
        ran[case["result"]] += 1
        check_provider(ran, scheme, key, ct, expected)
    by_provider = ran.pop(f"{scheme} by its provider")
    assert sum(ran.values()) == count
    assert by_provider > count // 2


RFC_3394 = [  # sections 4.1 to 4.6: key, key data, ciphertext
    (
        "000102030405060708090A0B0C0D0E0F",
        "00112233445566778899AABBCCDDEEFF",
        "1FA68B0A8112B447AEF34BD8FB5A7B829D3E862371D2CFE5",
    ),
    (
        "000102030405060708090A0B0C0D0E0F1011121314151617",
        "00112233445566778899AABBCCDDEEFF",
        "96778B25AE6CA435F92B5B97C050AED2468AB8A17AD84E5D",
    ),
    (
        "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F",
        "00112233445566778899AABBCCDDEEFF",
        "64E8C3F9CE0F5BA263E9777905818A2A93C8191E7D6E8AE7",
    ),
    (
        "000102030405060708090A0B0C0D0E0F1011121314151617",
        "00112233445566778899AABBCCDDEEFF0001020304050607",
        "031D33264E15D33268F24EC260743EDCE1C6C7DDEE725A936BA814915C6762D2",
    ),
    (
        "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F",
        "00112233445566778899AABBCCDDEEFF0001020304050607",
        "A8F9BC1612C68B3FF6E6F4FBE30E71E4769C8B80A32CB8958CD5D17D6B254DA1",
    ),
    (
        "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F",
        "00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F",
        "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21",
    ),
]
RFC_5649 = [  # section 6
    (
        "5840DF6E29B02AF1AB493B705BF16EA1AE8338F4DCC176A8",
        "C37B7E6492584340BED12207808941155068F738",
        "138BDEAA9B8FA7FC61F97742E72248EE5AE6AE5360D1AE6A5F54F373FA543B6A",
    ),
    (
        "5840DF6E29B02AF1AB493B705BF16EA1AE8338F4DCC176A8",
        "466F7250617369",
        "AFBEB0F07DFBF5419200F2CCB50BB24F",
    ),
]


@pytest.mark.parametrize(
    ("scheme", "vector"),
    [*(("aes-kw", v) for v in RFC_3394), *(("aes-kwp", v) for v in RFC_5649)],
)
def test_aes_key_wrap_is_that_of_its_rfc(scheme: Scheme, vector: tuple[str, str, str]) -> None:
    key, payload, wrap = map(bytes.fromhex, vector)
    assert made(scheme, key).open(wrap, None) == payload
    assert made(scheme, key).seal(payload, None) == wrap
    if len(payload) in {16, 24, 32}:
        assert through_provider(scheme, key, wrap) == payload


FERNET_SECRET = base64.urlsafe_b64decode("cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=")
FERNET_TIME = 499162800  # 1985-10-26T01:20:00-07:00
FERNET_TOKEN = (
    b"gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODy021cpGVWKZ_eEwCGM4BLLF_5CV9dOPmrhuVUPgJobwOz7J"
    b"cbmrR64jVmpU4IwqDA=="
)
FERNET_INVALID = {
    "incorrect mac": (
        b"gAAAAAAdwJ6xAAECAwQFBgcICQoLDA0OD3HkMATM5lFqGaerZ-fWPAl1-szkFVzXTuGb4hR8AKtwcaX1"
        b"YdykQUFBQUFBQUFBQQ=="
    ),
    "too short": b"gAAAAAAdwJ6xAAECAwQFBgcICQoLDA0OD3HkMATM5lFqGaerZ-fWPA==",
    "invalid base64": (
        b"%%%%%%%%%%%%%AECAwQFBgcICQoLDA0OD3HkMATM5lFqGaerZ-fWPAl1-szkFVzXTuGb4hR8AKtwcaX1"
        b"YdykRtfsH-p1YsUD2Q=="
    ),
    "payload size not multiple of block size": (
        b"gAAAAAAdwJ6xAAECAwQFBgcICQoLDA0OD3HkMATM5lFqGaerZ-fWPOm73QeoCk9uGib28Xe5vz6oxq5n"
        b"mxbx_v7mrfyudzUm"
    ),
    "payload padding error": (
        b"gAAAAAAdwJ6xAAECAwQFBgcICQoLDA0ODz4LEpdELGQAad7aNEHbf-JkLPIpuiYRLQ3RtXatOYREu2FW"
        b"ke6CnJNYIbkuKNqOhw=="
    ),
    "incorrect IV (causes padding error)": (
        b"gAAAAAAdwJ6xBQECAwQFBgcICQoLDA0OD3HkMATM5lFqGaerZ-fWPAkLhFLHpGtDBRLRTZeUfWgHSv49"
        b"TF2AUEZ1TIvcZjK1zQ=="
    ),
}
FERNET_LATE = {
    "expired TTL": (
        b"gAAAAAAdwJ6xAAECAwQFBgcICQoLDA0OD3HkMATM5lFqGaerZ-fWPAl1-szkFVzXTuGb4hR8AKtwcaX1"
        b"YdykRtfsH-p1YsUD2Q=="
    ),
    "far-future TS (unacceptable clock skew)": (
        b"gAAAAAAdwStRAAECAwQFBgcICQoLDA0OD3HkMATM5lFqGaerZ-fWPAnja1xKYyhd-Y6mSkTOyTGJmw2X"
        b"c2a6kBd-iX9b_qXQcw=="
    ),
}


def test_a_fernet_token_is_generated_and_verified_as_its_specification_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrapping = made("fernet", FERNET_SECRET)
    assert wrapping.open(FERNET_TOKEN, None) == b"hello"
    assert wrapping.open(base64.urlsafe_b64decode(FERNET_TOKEN), None) == b"hello"
    with monkeypatch.context() as fixed:
        fixed.setattr(time, "time", lambda: float(FERNET_TIME))
        fixed.setattr(os, "urandom", lambda n: bytes(range(n)))
        token = wrapping.seal(b"hello", None)
    assert token == FERNET_TOKEN


@pytest.mark.parametrize("token", FERNET_INVALID.values(), ids=FERNET_INVALID.keys())
def test_a_fernet_token_that_its_specification_calls_invalid_does_not_open(token: bytes) -> None:
    assert opened(made("fernet", FERNET_SECRET), token) is None
    assert through_provider("fernet", FERNET_SECRET, token) is None


@pytest.mark.parametrize("token", FERNET_LATE.values(), ids=FERNET_LATE.keys())
def test_a_fernet_token_is_judged_by_no_clock_since_a_data_key_does_not_expire(
    token: bytes,
) -> None:
    assert made("fernet", FERNET_SECRET).open(token, None) == b""
    with pytest.raises(InvalidToken):
        env_schemes.Fernet(base64.urlsafe_b64encode(FERNET_SECRET)).decrypt_at_time(
            token, 60, FERNET_TIME + 91 if token == FERNET_LATE["expired TTL"] else FERNET_TIME + 1
        )
