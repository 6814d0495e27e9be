"""What is fuzzed: parsers of what others wrote, each with what it may say and nothing else."""

import base64
import json
import random
import re
from collections.abc import Mapping
from unittest import mock

from keywrap.datakey import DataKey
from keywrap.dpapi.blob import BadBlobError, Blob, NotOpenedError
from keywrap.dpapi.crypto import SUITES
from keywrap.dpapi.masterkey import MasterKeyFile, MasterKeyFileError
from keywrap.dpapi.secret import MasterKey
from keywrap.keys import WrappedKey
from keywrap.kms import RefusedError
from keywrap.providers.env import EnvKeyProvider
from keywrap.providers.env_schemes import Scheme
from keywrap.sidecar import BadSidecarError, Sidecar
from keywrap.testing.dpapi import make_master_key_file, protect
from tests.fuzz.mutation import NUMBERS, TEXTS, WORDS, Target
from tests.plainsidecars import is_sound

_SCHEMES: tuple[Scheme, ...] = (
    *("aes-gcm", "aes-gcm-tag-first", "aes-gcm-iv16", "aes-kw", "aes-kwp", "fernet"),
)
_NUMBER = re.compile(r"(0x)?[0-9a-f]*[0-9][0-9a-f]*")
_CODE = re.compile(r"[a-z][a-z0-9_]+")
_KEY, _GUID = bytes(range(64)), "6f1fd11d-2b8e-4a1c-9a53-64f2f0f1b3a7"


def _sidecars() -> list[bytes]:
    wrap, uri = base64.b64encode(bytes(range(60))).decode(), "local:kek?version=3-0a1b2c3d"
    token = base64.urlsafe_b64encode(b"\x80\0\0\0\0" + b"\xfb\xff" * 46).decode()
    blob = protect(b"k" * 32, _KEY, _GUID)
    records: list[dict[str, object]] = [
        {},
        {"plaintext_size": 17},
        {"key_id": "dpapi", "wrapped_dek": blob.hex()},
        {"key_id": f"dpapi:{_GUID}", "wrapped_dek": blob.hex().upper(), "provider": "dpapi"},
        {"key_id": "env:OLD_KEK", "wrapped_dek": token, "dek_version": 1, "content": "gcm-v1"},
        {
            "key_id": uri,
            "wrapped_dek": wrap,
            "dek_version": 2,
            "context": {"blob_id": "größe/a:b.pdf", "tenant": ""},
            "content": "stream-v1",
            "object": "0123456789abcdef" * 2,
            "previous": {"key_id": "env:OLD_KEK", "wrapped_dek": wrap},
            "note": {"by": ["Zoë", 1.10, None, True, {"a": "\U0001f511"}], "at": 1e5},
        },
    ]
    compact = [json.dumps(record, separators=(",", ":")).encode() for record in records]
    return compact + [json.dumps(r, indent=1, ensure_ascii=False).encode() for r in records]


def _sidecar(data: bytes) -> str:
    try:
        read, code = Sidecar.parse(data), ""
    except BadSidecarError as error:
        read, code = None, _reason(error.reason_code)
    assert is_sound(data) == (read is not None), f"what a plain reader says, and {code or 'read'}"
    if read is None:
        return code
    written = _written(read)
    if written is not None:
        assert Sidecar.parse(written) == read, "it is read back differently"
        assert Sidecar.parse(written).to_bytes() == written, "its canonical form is not one"
    return f"read with {len(read.extra)} unknown fields" if read.extra else "read"


def _written(read: Sidecar) -> bytes | None:
    try:
        return read.to_bytes()
    except BadSidecarError:  # too large in canonical form: nothing is written
        return None


def _reason(code: str) -> str:
    assert _CODE.fullmatch(code), f"{code!r} is no reason code"
    return code


def _wraps(scheme: Scheme) -> Target:
    provider = EnvKeyProvider("KEK", DataKey(bytes(range(32))), scheme)
    version = provider.current_version()
    seeds = [provider.wrap(DataKey(bytes(n)), {}).ciphertext for n in (16, 24, 32)]
    if scheme == "fernet":
        seeds += [base64.urlsafe_b64decode(token) for token in seeds]
    sound = frozenset(seeds)

    def check(data: bytes) -> str:
        try:
            provider.unwrap(WrappedKey(version, data), {})
        except RefusedError as error:
            assert data not in sound, "a sound wrap was refused"
            return _reason(error.reason_code)
        assert data in sound, "an altered wrap opened"
        return "opened"

    return Target(seeds, check, least=3)


def _dpapi_blobs() -> Target:
    seeds = [
        protect(b"k" * 32, _KEY, _GUID, suite=suite, description=description)
        for suite in SUITES
        for description in (b"", "größe\0".encode("utf-16-le"))
    ]
    sound, key = frozenset(seeds), MasterKey(_KEY)

    def check(data: bytes) -> str:
        try:
            plain = Blob.parse(data).open(key)
        except (BadBlobError, NotOpenedError) as error:
            assert data not in sound, "a sound blob was refused"
            return f"{_reason(error.reason_code)}: {_NUMBER.sub('#', str(error))}"
        assert data in sound, "an altered blob opened"
        assert plain == b"k" * 32
        return "opened"

    return Target(seeds, check, least=10)


def _master_key_files() -> Target:
    seeds = [
        make_master_key_file(_GUID, _KEY, bytes(20), suite=suite, rounds=1) for suite in SUITES
    ]

    def check(data: bytes) -> str:
        try:
            MasterKeyFile.parse(data)
        except MasterKeyFileError as error:
            assert data not in seeds, "a sound file was refused"
            return _NUMBER.sub("#", str(error))
        return "read"

    return Target(seeds, check, least=5)


def targets() -> Mapping[str, Target]:
    """Return what is fuzzed, by name; the same in each process, so that a seed says it all."""
    words = (*TEXTS, *NUMBERS, *WORDS, *(b'"' + word + b'":' for word in WORDS))
    drawn = random.Random(0).randbytes
    with (
        mock.patch("os.urandom", drawn),
        mock.patch("keywrap.providers.env_schemes.urandom", drawn),
        mock.patch("time.time", return_value=0.0),  # stands in Fernet's tokens
    ):
        return {
            "sidecar": Target(_sidecars(), _sidecar, words, least=25),
            "dpapi-blob": _dpapi_blobs(),
            "dpapi-master-key": _master_key_files(),
            **{f"wrap-{scheme}": _wraps(scheme) for scheme in _SCHEMES},
        }
