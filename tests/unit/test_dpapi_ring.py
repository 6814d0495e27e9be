import json
import os
import stat
import uuid
from pathlib import Path

import pytest

from keywrap.dpapi.blob import Blob, NotOpenedError
from keywrap.dpapi.ring import MAX_RING_BYTES, MasterKeyRing, RingError, is_guid
from keywrap.dpapi.secret import MasterKey
from keywrap.testing.dpapi import Account

GUID = "ed93694f-5a6d-46e2-b821-219f2c0ecd4d"
KEY = MasterKey(bytes(range(64)))
ENTRY = {"guid": GUID, "key": KEY.reveal().hex(), "sha1": KEY.sha1().hex()}
FORMAT = "dpapi-ring-v1"


def ring_of(*entries: object, **fields: object) -> bytes:
    return json.dumps({"format": FORMAT, "master_keys": entries} | fields).encode()


def refusal(ring: MasterKeyRing, data: bytes, entropy: bytes = b"") -> NotOpenedError:
    with pytest.raises(NotOpenedError) as refused:
        ring.open(Blob.parse(data), entropy)
    return refused.value


def written(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def test_a_ring_comes_back_as_it_was_written(tmp_path: Path) -> None:
    accounts = [Account() for _ in range(5)]
    keys = {account.guid: MasterKey(account.master_key) for account in accounts[:4]}
    keys[accounts[4].guid] = MasterKey(MasterKey(accounts[4].master_key).sha1())
    MasterKeyRing(keys).write(tmp_path / "ring.json")
    ring = MasterKeyRing.read(tmp_path / "ring.json")
    assert set(ring) == set(keys)
    for account in accounts:
        assert ring.open(Blob.parse(account.protect(b"x" * 32)), b"") == b"x" * 32
    assert ring.to_bytes() == (tmp_path / "ring.json").read_bytes()


@pytest.mark.parametrize("names", [("key",), ("sha1",), ("key", "sha1")])
def test_a_master_key_or_its_sha1_is_enough(names: tuple[str, ...]) -> None:
    account = Account(GUID, KEY.reveal())
    ring = MasterKeyRing.parse(ring_of({"guid": GUID} | {name: ENTRY[name] for name in names}))
    assert ring.open(Blob.parse(account.protect(b"data")), b"") == b"data"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"{}", "its object"),
        (b"[]", "its object"),
        (ring_of(format="dpapi-ring-v2"), "format"),
        (ring_of(note="x"), "its object"),
        (ring_of(ENTRY | {"note": "x"}), "master_keys"),
        (ring_of(ENTRY | {"key": 1}), "master_keys"),
        (ring_of(ENTRY)[:-1] + b', "master_keys": []}', "says a thing twice"),
        (ring_of(ENTRY).replace(b'"sha1"', b'"key": "", "sha1"'), "says a thing twice"),
        (ring_of(ENTRY, ENTRY), f"{GUID} twice"),
        (ring_of(ENTRY | {"guid": GUID.upper()}), "master key 1 has no GUID"),
        (ring_of(ENTRY | {"guid": "{" + GUID + "}"}), "master key 1 has no GUID"),
        (ring_of(ENTRY | {"guid": GUID.replace("-", "")}), "master key 1 has no GUID"),
        (ring_of({"guid": GUID}), "neither"),
        (ring_of(ENTRY | {"key": ENTRY["key"][:-2]}), "128 hexadecimal digits"),
        (ring_of(ENTRY | {"key": ENTRY["sha1"]}), "128 hexadecimal digits"),
        (ring_of(ENTRY | {"key": "é" * 128}), "128 hexadecimal digits"),
        (ring_of(ENTRY | {"sha1": "0" * 39}), "40 hexadecimal digits"),
        (ring_of(ENTRY | {"sha1": "0" * 40}), "damaged"),
        (ring_of(ENTRY | {"key": "ff" + ENTRY["key"][2:]}), "damaged"),
    ],
)
def test_a_ring_that_leaves_a_doubt_is_refused_without_showing_a_key(
    data: bytes, says: str
) -> None:
    with pytest.raises(RingError, match=says) as refused:
        MasterKeyRing.parse(data)
    assert ENTRY["key"][:12] not in f"{refused.value} {refused.value.__cause__!r}"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o700 | 0o001, 0o620])
def test_a_ring_that_others_could_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path / "ring", ring_of(ENTRY), mode)
    with pytest.raises(RingError, match=f"chmod 600 {path}"):
        MasterKeyRing.read(path)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_ring_that_is_its_owners_alone_is_read(tmp_path: Path, mode: int) -> None:
    assert list(MasterKeyRing.read(written(tmp_path / "ring", ring_of(ENTRY), mode))) == [GUID]


def test_a_ring_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "ring", ring_of(ENTRY))
    found = list(path.stat())
    found[stat.ST_UID] = os.geteuid() + 1
    monkeypatch.setattr(os, "fstat", lambda _: os.stat_result(found))
    with pytest.raises(RingError, match="belongs to user"):
        MasterKeyRing.read(path)


def test_what_is_no_file_of_its_own_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "ring", ring_of(ENTRY))
    (tmp_path / "link").symlink_to(path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", "pipe", ".", "missing"):
        with pytest.raises(RingError):
            MasterKeyRing.read(tmp_path / name)
    with pytest.raises(RingError, match=r"rewrap dpapi-ring"):
        MasterKeyRing.read(tmp_path / "missing")


def test_a_file_that_is_far_too_large_is_not_read_whole(tmp_path: Path) -> None:
    path = written(tmp_path / "ring", b"")
    os.truncate(path, MAX_RING_BYTES + 1)
    with pytest.raises(RingError, match="more than"):
        MasterKeyRing.read(path)


def test_a_ring_is_written_for_its_owner_alone_and_over_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    before = os.umask(0)
    try:
        MasterKeyRing({GUID: KEY}).write(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    whole = path.read_bytes()
    with pytest.raises(FileExistsError):
        MasterKeyRing({}).write(path)
    assert path.read_bytes() == whole
    MasterKeyRing({}).write(path, replace=True)
    assert list(MasterKeyRing.read(path)) == []
    assert [each.name for each in tmp_path.iterdir()] == ["ring"]


def test_a_crash_while_a_ring_is_replaced_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ring"
    MasterKeyRing({GUID: KEY}).write(path)

    def crash(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="No space"):
        MasterKeyRing({}).write(path, replace=True)
    assert list(MasterKeyRing.read(path)) == [GUID]
    assert [each.name for each in tmp_path.iterdir()] == ["ring"]


def test_a_ring_takes_more_keys_but_never_another_key_of_a_guid() -> None:
    ring, more = MasterKeyRing({GUID: MasterKey(KEY.sha1())}), str(uuid.uuid4())
    grown = ring.with_keys({GUID: KEY, more: MasterKey(bytes(64))})
    assert set(grown) == {GUID, more}
    assert ENTRY["key"] in grown.to_bytes().decode(), "64 bytes say more than their SHA-1"
    with pytest.raises(RingError, match=f"another key under {GUID}"):
        ring.with_keys({GUID: MasterKey(bytes(64))})


def test_why_a_blob_does_not_open_is_told_where_it_can_be() -> None:
    mine, other = Account(entropy=b"app"), Account(entropy=b"app")
    keys = {each.guid: MasterKey(each.master_key) for each in (mine, other)}
    ring = MasterKeyRing(keys, "/ring")
    blob = mine.protect(b"x" * 32)
    assert ring.open(Blob.parse(blob), b"app") == b"x" * 32
    assert refusal(ring, blob, b"other").reason_code == "dpapi_does_not_open"
    assert refusal(ring, blob[:-1] + bytes([blob[-1] ^ 1]), b"app").reason_code == (
        "dpapi_does_not_open"
    )
    bare = Account(mine.guid, mine.master_key).protect(b"x" * 32)
    assert refusal(ring, bare, b"app").reason_code == "dpapi_entropy_not_used"
    missing = refusal(ring, Account().protect(b"x"))
    assert missing.reason_code == "dpapi_master_key_missing"
    mixed_up = MasterKeyRing({mine.guid: keys[other.guid], other.guid: keys[mine.guid]}, "/ring")
    wrong = refusal(mixed_up, blob, b"app")
    assert wrong.reason_code == "dpapi_master_key_wrong"
    for error in (missing, wrong):
        assert "/ring" in str(error)


def test_a_ring_shows_no_key() -> None:
    assert ENTRY["key"][:10] not in repr(MasterKeyRing({GUID: KEY}))
    assert ENTRY["sha1"][:10] not in repr(vars(MasterKeyRing({GUID: KEY})))


def test_a_guid_has_one_form() -> None:
    assert is_guid(GUID)
    for text in ("", GUID.upper(), GUID[:-1], f"{{{GUID}}}", f"urn:uuid:{GUID}", GUID + "\n"):
        assert not is_guid(text)
