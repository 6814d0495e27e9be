import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keywrap import keyfolder
from keywrap.datakey import DataKey
from keywrap.keyfile import BadKeyFileError, KeyFile
from keywrap.keys import KeyVersion
from keywrap.kms import DeniedError, KmsError, UnavailableError
from keywrap.providers.local import LocalKeyProvider, create_key_file

CONTEXT = {"blob_id": "tenants/7/Rechnung März.pdf"}
V1 = KeyVersion("local:blobs", "1")
V2 = KeyVersion("local:blobs", "2")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_key_file(tmp_path / "blobs.key.json", "blobs")
    return tmp_path / "blobs.key.json"


@pytest.fixture
def provider(path: Path) -> LocalKeyProvider:
    return LocalKeyProvider("blobs", path)


def document(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(path.read_bytes())
    return read


def edit(path: Path, number: int, **fields: object) -> None:
    """Change a version as an operator with an editor would."""
    record = document(path)
    record["versions"][number - 1] |= fields
    path.write_text(json.dumps(record))


def denied(act: Callable[[], object], reason_code: str) -> DeniedError:
    with pytest.raises(DeniedError) as refused:
        act()
    assert refused.value.reason_code == reason_code
    assert refused.value.key == "local:blobs"
    return refused.value


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o644])
def test_a_key_file_that_others_have_access_to_is_refused(
    path: Path, provider: LocalKeyProvider, mode: int
) -> None:
    wrapped = provider.wrap(DataKey.generate(), CONTEXT)
    path.chmod(mode)
    error = denied(lambda: provider.unwrap(wrapped, CONTEXT), "key_file_insecure")
    assert f"chmod 600 {path}" in str(error)
    path.chmod(0o600)
    assert provider.unwrap(wrapped, CONTEXT)


def test_a_key_file_that_is_no_plain_file_is_refused(path: Path) -> None:
    link, pipe, folder = (path.parent / name for name in ("link", "pipe", "folder"))
    link.symlink_to(path)
    os.mkfifo(pipe)
    folder.mkdir()
    for other in (link, pipe, folder):
        denied(LocalKeyProvider("blobs", other).current_version, "key_file_insecure")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_key_file_of_somebody_else_is_refused(path: Path, provider: LocalKeyProvider) -> None:
    os.chown(path, 12345, -1)
    error = denied(provider.current_version, "key_file_insecure")
    assert "belongs to user 12345" in str(error)


def test_a_key_file_may_be_laid_out_otherwise(path: Path, provider: LocalKeyProvider) -> None:
    wrapped = provider.wrap(DataKey.generate(), CONTEXT)
    path.write_text(json.dumps(document(path), indent=8))
    assert provider.unwrap(wrapped, CONTEXT)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"key":"blobs"', '"key":"blobs","key":"blobs"'),
        ('"key":"blobs"', '"key":"blobs","more":1'),
        ('"key":"blobs"', '"key":"../blobs"'),
        ('"key":"blobs"', '"key":"b\\u006cobs"'),
        ('"version":1', '"version":2'),
        ('"version":1', '"version":0'),
        ('"version":1', '"version":"1"'),
        ('"version":1', '"version":1.0'),
        ('"version":1', '"version":true'),
        ('"state":"enabled"', '"state":"deleted"'),
        ('"state":"enabled",', ""),
        ('"wraps":0', '"wraps":-1'),
        ('"wraps":0', '"wraps":4294967297'),
        ('"wraps":0', '"wraps":0,"wraps":0'),
        (',"wraps":0', ""),
        ('Z","key"', '","key"'),
        ('Z","key"', '+00:00","key"'),
        ('"id":"', '"id":"0'),
        ("]}", "]}x"),
        ("]}", "]"),
        ("]}", ""),
    ],
)
def test_a_key_file_that_could_be_read_in_two_ways_is_refused(
    path: Path, old: str, new: str
) -> None:
    text = json.dumps(document(path), separators=(",", ":"))
    assert KeyFile.parse(text.encode())
    assert old in text
    with pytest.raises(BadKeyFileError):
        KeyFile.parse(text.replace(old, new).encode())


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"null", b"\xff", b'{"key":"blobs","versions":[]}']
)
def test_what_is_no_key_file_is_refused(
    path: Path, provider: LocalKeyProvider, data: bytes
) -> None:
    with pytest.raises(BadKeyFileError):
        KeyFile.parse(data)
    path.write_bytes(data)
    denied(provider.current_version, "key_file_malformed")
    denied(provider.create_version, "key_file_malformed")
    assert path.read_bytes() == data


def test_a_damaged_or_exchanged_key_is_found(path: Path, provider: LocalKeyProvider) -> None:
    provider.create_version()
    one, two = (version["key"] for version in document(path)["versions"])
    for wrong in (two, base64.b64encode(bytes(32)).decode()):
        edit(path, 1, key=wrong)
        error = denied(provider.current_version, "key_file_malformed")
        assert "the key of version 1" in str(error)
        assert wrong not in repr(error)
    for wrong in (one[:-4] + "AAA=" + "AAAA", one[:-1], base64.b64encode(bytes(16)).decode(), 7):
        edit(path, 1, key=wrong)
        denied(provider.current_version, "key_file_malformed")


def test_no_key_is_shown(path: Path, provider: LocalKeyProvider) -> None:
    provider.wrap(DataKey.generate(), CONTEXT)
    file = KeyFile.parse(path.read_bytes())
    text = document(path)["versions"][0]["key"]
    raw = base64.b64decode(text)
    shown = f"{file!r} {provider!r} {vars(provider)!r} {file.newest!r}"
    assert "hidden" in shown
    for secret in (text, raw.hex(), repr(raw)[2:-1]):
        assert secret not in shown


class SimulatedCrash(BaseException):
    """What a SIGKILL looks like from inside."""


@pytest.mark.parametrize("call", ["open", "write", "fsync", "utime", "replace", "unlink"])
def test_a_crash_at_any_system_call_leaves_the_old_file_or_the_new_one(
    path: Path, provider: LocalKeyProvider, call: str
) -> None:
    data_key = DataKey.generate()
    wrapped = provider.wrap(data_key, CONTEXT)
    real = getattr(os, call)
    for calls_before in range(10):
        before = document(path)
        left = [None] * calls_before
        crashed = False

        def crash(*arguments: Any, left: list[None] = left, **named: Any) -> Any:
            if left:
                left.pop()
                return real(*arguments, **named)
            raise SimulatedCrash

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(keyfolder.os, call, crash)
            try:
                provider.create_version()
            except SimulatedCrash:
                crashed = True
        after = document(path)
        assert before["versions"] in (after["versions"], after["versions"][:-1])
        assert LocalKeyProvider("blobs", path).unwrap(wrapped, CONTEXT) == data_key
        if not crashed:
            assert len(after["versions"]) == len(before["versions"]) + 1
            return
    pytest.fail("it never came through")


def test_what_a_crash_left_is_cleared_away(path: Path, provider: LocalKeyProvider) -> None:
    left = path.parent / f".{path.name}.new"
    left.write_text("half a file")
    assert provider.create_version() == V2
    assert not left.exists()


def test_a_lock_that_is_held_too_long_is_told(
    path: Path, provider: LocalKeyProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyfolder, "WAIT_S", 0.05)
    with keyfolder.KeyFolder(path, "local:blobs")._locked(), pytest.raises(KmsError) as refused:
        provider.create_version()
    assert refused.value.reason_code == "key_file_locked"
    assert isinstance(refused.value, UnavailableError)
    assert provider.create_version() == V2


@pytest.mark.parametrize("order", [(1,), (1, 0), (0, 0), (0, 2), (0, 1, 1), (0, 2, 1)])
def test_versions_that_are_not_counted_from_one_are_refused(
    path: Path, provider: LocalKeyProvider, order: tuple[int, ...]
) -> None:
    provider.create_version()
    provider.create_version()
    record = document(path)
    record["versions"] = [record["versions"][place] for place in order]
    path.write_text(json.dumps(record))
    assert "without gaps" in str(denied(provider.current_version, "key_file_malformed"))


def test_no_two_states_of_the_file_have_one_time(
    path: Path, provider: LocalKeyProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyfolder.time, "time_ns", lambda: 0)
    seen = [path.stat().st_mtime_ns]
    for act in (provider.disable_version, provider.enable_version) * 5:
        act(V1)
        seen.append(path.stat().st_mtime_ns)
    assert seen == sorted(set(seen))
