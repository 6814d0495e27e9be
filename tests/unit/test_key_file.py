import base64
import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest

from keywrap import keyfolder
from keywrap.contents import content_format
from keywrap.datakey import DataKey
from keywrap.keyfile import BadKeyFileError, KeyFile
from keywrap.keyring import KeyRing
from keywrap.keys import WrappedKey
from keywrap.kms import Context, KmsError, RefusedError, UnavailableError
from keywrap.layout import Layout
from keywrap.moves import Goal, Outcome, Prove, Selection
from keywrap.providers.local import LocalKeyProvider, create_key_file
from keywrap.reading import SidecarReader
from keywrap.rewrapping import Rewrapper
from keywrap.testing.stores import MemoryStore
from keywrap.threads import StoreThreads
from tests.keyfiles import denied, document, edit, named

CONTEXT = {"blob_id": "tenants/7/Rechnung März.pdf"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_key_file(tmp_path / "blobs.key.json", "blobs")
    return tmp_path / "blobs.key.json"


@pytest.fixture
def provider(path: Path) -> LocalKeyProvider:
    return LocalKeyProvider("blobs", path)


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
    assert provider.create_version() == named(path, 2)
    assert not left.exists()


def test_a_lock_that_is_held_too_long_is_told(
    path: Path, provider: LocalKeyProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyfolder, "WAIT_S", 0.05)
    with keyfolder.KeyFolder(path, "local:blobs")._locked(), pytest.raises(KmsError) as refused:
        provider.create_version()
    assert refused.value.reason_code == "key_file_locked"
    assert isinstance(refused.value, UnavailableError)
    assert provider.create_version() == named(path, 2)


def test_a_file_system_without_locks_is_told(
    provider: LocalKeyProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(_file: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(UnavailableError) as refused:
        provider.create_version()
    assert refused.value.reason_code == "key_file_unavailable"


def test_a_version_is_named_by_its_number_and_its_key(path: Path) -> None:
    (version,) = document(path)["versions"]
    assert str(named(path, 1)) == f"local:blobs?version=1-{version['id'][:8]}"
    twin = path.parent / "twin.key.json"
    assert create_key_file(twin, "blobs") == named(twin, 1) != named(path, 1)


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
        act(named(path, 1))
        seen.append(path.stat().st_mtime_ns)
    assert seen == sorted(set(seen))


def lose_a_version(
    path: Path, provider: LocalKeyProvider, context: Context = CONTEXT
) -> WrappedKey:
    """Restore a backup that lacks the newest version; return a wrap made under that one."""
    backup = path.read_bytes()
    provider.create_version()
    lost = provider.wrap(DataKey.generate(), context)
    path.write_bytes(backup)
    return lost


def test_a_lost_version_passes_for_none_that_has_its_number_since(
    path: Path, provider: LocalKeyProvider
) -> None:
    first = provider.wrap(DataKey.generate(), CONTEXT)
    lost = lose_a_version(path, provider)
    second, ring = provider.create_version(), KeyRing([provider])
    for target in (second, first.key_version):
        assert not ring.reaches(lost.key_version, target)
        assert not ring.reaches(target, lost.key_version)
    assert ring.reaches(second, first.key_version)
    with pytest.raises(RefusedError) as refused:
        provider.unwrap(lost, CONTEXT)
    assert refused.value.reason_code == "wrap_version_unknown"
    assert "older backup" in str(refused.value)
    with pytest.raises(RefusedError):
        provider.disable_version(lost.key_version)
    assert provider.unwrap(first, CONTEXT)


def test_a_rotate_puts_wraps_of_a_lost_version_aside_and_moves_the_others(
    path: Path, provider: LocalKeyProvider
) -> None:
    store, layout, data_key = MemoryStore(), Layout(".blob", ".meta"), DataKey.generate()
    kept, lost = {"blob_id": "kept"}, {"blob_id": "lost"}
    first = provider.wrap(data_key, kept)
    for context, wrapped in ((kept, first), (lost, lose_a_version(path, provider, lost))):
        blob_id = context["blob_id"]
        record = {
            "key_id": str(wrapped.key_version),
            "wrapped_dek": base64.b64encode(wrapped.ciphertext).decode(),
            "dek_version": 1,
            "context": context,
        }
        store.create(f"{blob_id}.meta", json.dumps(record).encode())
        store.create(f"{blob_id}.blob", content_format("gcm-v1").seal(data_key, b"x"))
    goal = Goal(provider.create_version(), Selection.MANAGED, Prove.ALL)
    with StoreThreads(1) as pool:
        reader = SidecarReader(store, layout)
        rewrapper = Rewrapper(reader, KeyRing([provider]), "gcm-v1", pool)
        moved, refused = rewrapper.rewrap(["kept", "lost"], goal).results
    assert moved.outcome is Outcome.REWRAPPED
    assert (refused.outcome, refused.reason_code) == (Outcome.QUARANTINED, "wrap_version_unknown")


def test_what_was_reserved_under_a_lost_version_is_not_used_under_another(
    path: Path, provider: LocalKeyProvider
) -> None:
    lose_a_version(path, provider)
    assert provider.wraps_reserved(LocalKeyProvider("blobs", path).create_version()) == 0
    wrapped = provider.wrap(DataKey.generate(), CONTEXT)
    assert provider.wraps_reserved(wrapped.key_version) >= 1
