import base64
import json
import os
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keywrap.canary import require_usable
from keywrap.config import ConfigError, KeywrapConfig
from keywrap.control import Control, ControlError, ControlReader, Cutover, open_control
from keywrap.controlfile import FIRST, MAX_BYTES, MAX_SERIAL, NAME, ControlFile
from keywrap.keys import KeyVersion
from keywrap.kms import DeniedError, ProofFailedError, UnavailableError
from keywrap.signing import PublicKey, SigningKey, SigningKeyError
from keywrap.stores import StoreUnavailableError
from keywrap.testing.kms import SimpleMemoryKeyProvider
from keywrap.testing.stores import MemoryStore

KEK = "hcvault://transit/blob-kek"
OTHER_KEK = "local:blobs"
STORE_ID = "0123456789abcdef0123456789abcdef"
AGE_S = 60.0

# Signed by the key whose seed is the bytes 0 to 31.
RECORDED = (
    b'{"cutover":"warn","format":"rewrap-control-v1","issued_at":"2026-11-24T04:10:00Z",'
    b'"issued_by":"ann@desk","max_age_s":60,"primary":"hcvault://transit/blob-kek?version=3",'
    b'"serial":7,"signature":"QwzWm+w0Cfq52oZEj9tnmh7oD39EZNbPPzEvmScHBWhBwyB7Gw1LoAbMVTMH6OzTmew'
    b'xOV1By8bFUgP+fKFNDw==","store_id":"000102030405060708090a0b0c0d0e0f"}'
)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return SigningKey.create(tmp_path_factory.mktemp("keys") / "control.key")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return SigningKey.create(tmp_path_factory.mktemp("keys") / "control.key")


@dataclass
class Site:
    """A store with a control file, its publisher, and a clock that a test moves."""

    key: SigningKey
    store: MemoryStore = field(default_factory=MemoryStore)
    now: float = 1000.0

    @property
    def file(self) -> ControlFile:
        return ControlFile(self.store, STORE_ID, self.key.public, frozenset({KEK, OTHER_KEK}))

    def publish(self, cutover: Cutover = Cutover.OFF, version: str = "") -> Control:
        def edit(base: Control) -> Control:
            primary = KeyVersion(KEK, version) if version else base.primary
            return replace(base, cutover=cutover, primary=primary)

        return self.file.publish(self.key, edit, by="ann@desk")

    def publish_another(self, version: str) -> None:
        self.publish(version=version)

    def reader(self, **options: Any) -> ControlReader:
        return ControlReader(self.file, clock=lambda: self.now, **{"max_age_s": AGE_S, **options})

    @property
    def data(self) -> bytes:
        return self.store._objects[NAME]

    @data.setter
    def data(self, data: bytes) -> None:
        self.store._objects[NAME] = data

    def alter(self, **fields: Any) -> None:
        self.data = json.dumps(json.loads(self.data) | fields).encode()

    def sign(self, key: SigningKey, **fields: Any) -> None:
        """Put a record there that is signed as it stands, whatever it says."""
        record = {n: v for n, v in json.loads(self.data).items() if n != "signature"} | fields
        signed = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
        signature = base64.b64encode(key.sign(b"rewrap control file v1", signed)).decode()
        self.data = json.dumps(record | {"signature": signature}).encode()


@pytest.fixture
def site(key: SigningKey) -> Site:
    return Site(key)


def refused(act: Callable[[], object], reason_code: str) -> ControlError:
    with pytest.raises(ControlError) as caught:
        act()
    assert caught.value.reason_code == reason_code
    assert caught.value.next_command
    return caught.value


def test_what_is_published_is_what_readers_obey(site: Site) -> None:
    published = site.publish(Cutover.WARN, "3")
    assert (published.serial, published.cutover) == (1, Cutover.WARN)
    assert published.primary == KeyVersion(KEK, "3")
    assert published.issued_by == "ann@desk"
    assert site.reader().current() == published
    on = site.publish(Cutover.ON)
    assert on == replace(published, serial=2, cutover=Cutover.ON, issued_at=on.issued_at)


def test_a_control_file_of_the_first_release_is_read_for_ever() -> None:
    store = MemoryStore()
    store.create(NAME, RECORDED)
    public = PublicKey.parse("A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=")
    file = ControlFile(store, bytes(range(16)).hex(), public, frozenset({KEK}))
    issued_at = datetime(2026, 11, 24, 4, 10, tzinfo=UTC)
    primary = KeyVersion(KEK, "3")
    assert file.read() == Control(7, primary, Cutover.WARN, 60, issued_at, "ann@desk")


def test_an_edit_that_changes_nothing_publishes_nothing(site: Site) -> None:
    first = site.publish(Cutover.WARN)
    before = site.data
    assert site.publish(Cutover.WARN) == first
    assert site.data == before
    assert site.store.writes == 1


def test_where_nothing_was_published_yet_nothing_is_cut_off(site: Site) -> None:
    control = site.reader().current()
    assert control == FIRST
    assert (control.primary, control.cutover) == (None, Cutover.OFF)


@pytest.mark.parametrize(
    "fields",
    [
        {"cutover": "off"},
        {"primary": f"{OTHER_KEK}?version=1-aa"},
        {"primary": None},
        {"serial": 900},
        {"max_age_s": 3600},
        {"issued_by": "mallory"},
        {"issued_at": "2020-01-01T00:00:00Z"},
        {"store_id": "f" * 32},
        {"signature": base64.b64encode(bytes(64)).decode()},
    ],
)
def test_a_field_that_was_changed_is_a_forgery(site: Site, fields: dict[str, Any]) -> None:
    site.publish(Cutover.ON, "3")
    site.alter(**fields)
    refused(site.reader().current, "control_forged")


def test_a_file_that_somebody_else_signed_is_a_forgery(site: Site, stranger: SigningKey) -> None:
    site.publish(Cutover.ON, "3")
    site.sign(stranger, cutover="off")
    refused(site.reader().current, "control_forged")


def test_a_signature_under_another_domain_does_not_count(site: Site) -> None:
    site.publish()
    record = {n: v for n, v in json.loads(site.data).items() if n != "signature"}
    signed = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
    signature = site.key.sign(b"rewrap certificate v1", signed)
    site.alter(signature=base64.b64encode(signature).decode())
    refused(site.reader().current, "control_forged")


@given(st.binary(max_size=600))
def test_no_bytes_but_the_signed_ones_are_obeyed(key: SigningKey, data: bytes) -> None:
    site = Site(key)
    site.data = data
    with pytest.raises(ControlError):
        site.reader().current()


@given(st.data())
def test_a_damaged_file_is_never_obeyed_as_something_else(
    key: SigningKey, data: st.DataObject
) -> None:
    site = Site(key)
    published = site.publish(Cutover.ON, "3")
    sound = site.data
    place = data.draw(st.integers(0, len(sound) - 1))
    byte = data.draw(st.integers(0, 255))
    site.data = sound[:place] + bytes([byte]) + sound[place + 1 :]
    try:
        assert site.reader().current() == published
    except ControlError:
        assert site.data != sound


@pytest.mark.parametrize(
    ("fields", "reason_code"),
    [
        ({"store_id": "f" * 32}, "control_of_another_store"),
        ({"primary": "hcvault://transit/other?version=1"}, "control_key_not_listed"),
        ({"primary": "env:BLOB_KEY"}, "control_key_not_listed"),
        ({"primary": KEK}, "control_key_not_usable"),
        ({"primary": "nonsense"}, "control_malformed"),
        ({"cutover": "perhaps"}, "control_malformed"),
        ({"serial": 0}, "control_malformed"),
        ({"serial": -1}, "control_malformed"),
        ({"serial": 2**53}, "control_malformed"),
        ({"serial": True}, "control_malformed"),
        ({"serial": 1.0}, "control_malformed"),
        ({"max_age_s": 0}, "control_malformed"),
        ({"issued_at": "yesterday"}, "control_malformed"),
        ({"issued_by": "line\nbreak"}, "control_malformed"),
        ({"more": 1}, "control_malformed"),
        ({"format": "rewrap-control-v2", "more": 1}, "control_format_unknown"),
    ],
)
def test_even_a_signed_file_says_only_what_a_control_file_may(
    site: Site, fields: dict[str, Any], reason_code: str
) -> None:
    site.publish()
    site.sign(site.key, **fields)
    refused(site.reader().current, reason_code)


def test_who_finds_a_file_of_another_is_told_to_find_out_whose_it_is(
    site: Site, stranger: SigningKey
) -> None:
    site.publish()
    forge, take = lambda: site.sign(stranger), lambda: site.sign(site.key, store_id="f" * 32)
    for put, reason_code in ((forge, "control_forged"), (take, "control_of_another_store")):
        put()
        assert "find out who wrote it" in refused(site.file.read, reason_code).next_command


def test_what_is_wrong_in_a_signed_file_is_said(site: Site) -> None:
    site.publish()
    site.sign(site.key, issued_at="yesterday")
    assert "yesterday" in str(refused(site.file.read, "control_malformed"))


def test_a_legacy_key_that_is_listed_is_no_primary_either(site: Site) -> None:
    site.publish()
    site.sign(site.key, primary="env:BLOB_KEY")
    file = replace(site.file, listed=frozenset({KEK, "env:BLOB_KEY"}))
    refused(file.read, "control_key_not_usable")


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"format":"rewrap-control-v1"}', b"x" * (MAX_BYTES + 1), b"\xff\xfe"],
)
def test_what_is_no_control_file_is_refused(site: Site, data: bytes) -> None:
    site.data = data
    with pytest.raises(ControlError):
        site.reader().current()


@pytest.mark.parametrize(
    "signature", ["", "AAAA", "not base64", base64.b64encode(bytes(65)).decode()]
)
def test_what_is_no_signature_is_refused_as_none(site: Site, signature: str) -> None:
    site.publish(Cutover.ON)
    record = json.loads(site.data) | {"signature": signature}
    site.data = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
    refused(site.reader().current, "control_malformed")


@pytest.mark.parametrize("fields", [{"serial": MAX_SERIAL}, {"max_age_s": 1}])
def test_numbers_may_go_to_their_limits(site: Site, fields: dict[str, int]) -> None:
    site.publish()
    site.sign(site.key, **fields)
    found = site.file.read()
    assert found is not None
    assert {name: getattr(found, name) for name in fields} == fields


def test_a_signature_is_written_in_one_way(site: Site) -> None:
    site.publish()
    site.alter(signature=json.loads(site.data)["signature"] + "\n")
    refused(site.reader().current, "control_malformed")


def test_more_bytes_than_a_control_file_has_are_not_read(site: Site) -> None:
    site.publish()
    site.data += b" " * MAX_BYTES
    refused(site.reader().current, "control_malformed")


def test_times_are_utc_wherever_it_runs(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        before = datetime.now(UTC).replace(microsecond=0)
        control = site.publish()
        written = json.loads(site.data)["issued_at"]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert control.issued_at is not None
    assert control.issued_at >= before
    assert written == control.issued_at.strftime("%Y-%m-%dT%H:%M:%SZ")


def test_one_edit_is_one_write(site: Site) -> None:
    first = site.publish()
    before = site.store.writes
    longer = site.file.publish(
        site.key, lambda base: replace(base, max_age_s=base.max_age_s + 1), by="ann@desk"
    )
    assert site.store.writes == before + 1
    assert (longer.serial, longer.max_age_s) == (first.serial + 1, first.max_age_s + 1)


def test_what_readers_would_read_differently_is_not_sealed(site: Site) -> None:
    control = site.publish(Cutover.ON)
    assert control.issued_at is not None
    finer = replace(control, issued_at=control.issued_at.replace(microsecond=1))
    refused(lambda: site.file._seal(finer, site.key), "control_malformed")


def test_a_field_given_twice_is_refused(site: Site) -> None:
    site.publish(Cutover.ON)
    site.data = site.data.replace(b'"cutover":"on"', b'"cutover":"off","cutover":"on"')
    refused(site.reader().current, "control_malformed")


def test_an_older_file_is_not_obeyed_by_who_has_seen_a_newer_one(site: Site) -> None:
    site.publish(Cutover.OFF)
    old = site.data
    on = site.publish(Cutover.ON)
    reader = site.reader()
    assert reader.current() == on
    site.data = old
    site.now += AGE_S - 1
    assert reader.current() == on
    site.now += 1
    refused(reader.current, "control_rolled_back")
    site.now += 10 * AGE_S
    refused(reader.current, "control_rolled_back")


def test_another_file_of_the_same_serial_is_not_obeyed(site: Site) -> None:
    site.publish(Cutover.ON)
    reader = site.reader()
    reader.current()
    site.sign(site.key, cutover="off")
    site.now += AGE_S
    refused(reader.current, "control_rolled_back")


def test_who_starts_later_accepts_no_file_below_its_least_serial(site: Site) -> None:
    site.publish(Cutover.OFF)
    refused(site.reader(min_serial=2).current, "control_rolled_back")
    on = site.publish(Cutover.ON)
    assert site.reader(min_serial=2).current() == on
    del site.store._objects[NAME]
    refused(site.reader(min_serial=2).current, "control_missing")


def test_a_file_that_vanished_blocks_who_has_seen_it(site: Site) -> None:
    on = site.publish(Cutover.ON)
    reader = site.reader()
    reader.current()
    del site.store._objects[NAME]
    site.now += AGE_S / 2
    assert reader.current() == on
    site.now += AGE_S / 2
    assert "serial 1" in str(refused(reader.current, "control_missing"))


def test_a_store_that_is_away_is_no_file_that_was_never_there(site: Site) -> None:
    site.store.fail_next("check", StoreUnavailableError("no mount"))
    assert "no mount" in str(refused(site.reader().current, "control_unreadable"))


def test_a_file_is_read_again_at_half_its_age_and_obeyed_for_no_more_than_all_of_it(
    site: Site,
) -> None:
    reads: list[float] = []
    read = site.store.read

    def counted(name: str, **options: Any) -> Any:
        reads.append(site.now)
        return read(name, **options)

    site.store.read = counted  # type: ignore[method-assign]
    first = site.publish()
    reads.clear()
    reader = site.reader()
    for _ in range(120):
        assert reader.current() == first
        site.now += 0.5
    assert reads == [1000.0, 1030.0]


def test_one_bad_answer_at_half_the_age_blocks_nobody(site: Site) -> None:
    first = site.publish()
    reader = site.reader()
    reader.current()
    site.now += AGE_S / 2
    site.store.fail_next("read", StoreUnavailableError("one bad answer"))
    assert reader.current() == first
    newer = site.publish(Cutover.WARN)
    site.now += AGE_S / 10
    assert reader.current() == newer


def test_a_store_in_trouble_is_asked_ten_times_an_age_and_no_oftener(site: Site) -> None:
    site.publish()
    reader = site.reader()
    reader.current()
    site.now += AGE_S
    for _ in range(50):
        site.store.fail_next("read", StoreUnavailableError("away"))
    for _ in range(1000):
        refused(reader.current, "control_unreadable")
        site.now += AGE_S / 1000
    assert len(site.store._failures["read"]) in {39, 40}


def test_who_publishes_may_shorten_the_age_and_readers_may_too(site: Site) -> None:
    site.file.publish(site.key, lambda base: replace(base, max_age_s=4), by="ann@desk")
    for reader, age in ((site.reader(), 4), (site.reader(max_age_s=2), 2)):
        reader.current()
        site.store.fail_next("read", StoreUnavailableError("away"))
        site.now += age - 0.1
        assert reader.current().serial == 1
        site.now += 0.1
        site.store.fail_next("read", StoreUnavailableError("away"))
        refused(reader.current, "control_unreadable")
        site.store._failures.clear()


def test_a_file_that_took_longer_to_read_than_its_age_is_not_obeyed(site: Site) -> None:
    site.publish()

    def slowly() -> None:
        site.now += AGE_S

    site.store.before("read", slowly)
    refused(site.reader().current, "control_unreadable")


def test_while_one_thread_reads_again_the_others_go_on(site: Site) -> None:
    first = site.publish()
    reader = site.reader()
    reader.current()
    site.now += AGE_S / 2
    reading, others_are_done = threading.Event(), threading.Event()

    def slowly() -> None:
        reading.set()
        assert others_are_done.wait(10)

    site.store.before("read", slowly)
    thread = threading.Thread(target=reader.current)
    thread.start()
    assert reading.wait(10)
    assert reader.current() == first
    others_are_done.set()
    thread.join()


def test_of_two_who_publish_at_once_both_are_heard(site: Site) -> None:
    site.publish()
    site.store.before("replace", lambda: site.publish_another("7"))
    last = site.publish(Cutover.WARN)
    assert (last.serial, last.cutover, last.primary) == (3, Cutover.WARN, KeyVersion(KEK, "7"))
    assert site.reader().current() == last


def test_of_two_who_publish_first_at_once_both_are_heard(site: Site) -> None:
    site.store.before("create", lambda: site.publish_another("7"))
    last = site.publish(Cutover.WARN)
    assert (last.serial, last.cutover, last.primary) == (2, Cutover.WARN, KeyVersion(KEK, "7"))


def test_publishing_ends_where_others_never_stop(site: Site) -> None:
    site.publish()

    def always_first() -> None:
        site.sign(site.key, serial=json.loads(site.data)["serial"] + 1)

    for _ in range(20):
        site.store.before("replace", always_first)
    refused(lambda: site.publish(Cutover.WARN), "control_busy")


def test_an_answer_that_was_lost_is_found_out_about(site: Site) -> None:
    site.publish()
    site.store.lose_next_reply()
    published = site.publish(Cutover.WARN)
    assert site.reader().current() == published


def test_a_write_that_was_not_made_is_said_so(site: Site) -> None:
    first = site.publish()
    site.store.fail_next("replace", StoreUnavailableError("away"))
    with pytest.raises(StoreUnavailableError):
        site.publish(Cutover.WARN)
    assert site.reader().current() == first


@pytest.mark.parametrize("loss", ["gone", "older"])
def test_what_was_lost_or_put_back_is_mended_from_what_is_known(site: Site, loss: str) -> None:
    site.publish(Cutover.OFF)
    old = site.data
    on = site.publish(Cutover.ON, "3")
    reader = site.reader()
    reader.current()
    if loss == "gone":
        del site.store._objects[NAME]
    else:
        site.data = old
    mended = site.file.publish(site.key, lambda base: base, by="ann@desk", known=on)
    assert (mended.serial, mended.cutover, mended.primary) == (3, on.cutover, on.primary)
    site.now += AGE_S
    assert reader.current() == mended


@pytest.mark.parametrize(
    ("fields", "reason_code"),
    [
        ({"store_id": "f" * 32}, "control_of_another_store"),
        ({"primary": "hcvault://transit/unknown-here?version=1"}, "control_key_not_listed"),
        ({"format": "rewrap-control-v2"}, "control_format_unknown"),
    ],
)
def test_what_is_not_understood_is_not_published_over(
    site: Site, fields: dict[str, Any], reason_code: str
) -> None:
    site.publish()
    site.sign(site.key, **fields)
    before = site.data
    refused(lambda: site.publish(Cutover.WARN), reason_code)
    assert site.data == before


def test_a_forged_file_is_left_for_a_person_to_look_at(site: Site, stranger: SigningKey) -> None:
    site.publish()
    site.sign(stranger)
    before = site.data
    refused(lambda: site.publish(Cutover.WARN), "control_forged")
    assert site.data == before


def test_a_key_that_is_not_listed_is_not_published(site: Site) -> None:
    edited = Control(0, KeyVersion("hcvault://transit/other", "1"), Cutover.OFF)
    refused(
        lambda: site.file.publish(site.key, lambda _: edited, by="ann@desk"),
        "control_key_not_listed",
    )
    assert NAME not in site.store._objects


def test_who_holds_another_key_publishes_nothing(site: Site, stranger: SigningKey) -> None:
    refused(
        lambda: site.file.publish(stranger, lambda base: base, by="ann@desk"),
        "control_key_of_another",
    )
    assert NAME not in site.store._objects


def config(**control: Any) -> KeywrapConfig:
    vault = {"transit/blob-kek": {"address": "http://127.0.0.1:8200", "token_env": "T"}}
    table: dict[str, Any] = {"store": {"url": "file:///srv/blobs"}, "keys": {"vault": vault}}
    return KeywrapConfig.from_table(table | ({"control": control} if control else {}))


def test_a_configuration_opens_the_reader_of_its_control_file(site: Site) -> None:
    published = site.publish(Cutover.WARN, "3")
    table = {"public_key": str(site.key.public), "store_id": STORE_ID}
    source = open_control(config(**table), site.store)
    assert source is not None
    assert source.current() == published
    strict = open_control(config(**table, min_serial=2), site.store)
    assert strict is not None
    refused(strict.current, "control_rolled_back")
    assert open_control(config(), site.store) is None


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"public_key": "short"}, "[control] public_key"),
        ({"public_key": "A" * 43 + "B="}, "[control] public_key"),
        ({"store_id": "production"}, "[control] store_id"),
        ({"max_age_s": 0}, "[control] max_age_s"),
        ({"max_age_s": 3601}, "[control] max_age_s"),
        ({"min_serial": -1}, "[control] min_serial"),
        ({"private_key_file": "control.key"}, "[control] private_key_file"),
        ({"cutover": "off"}, "[control]"),
    ],
)
def test_a_wrong_table_is_refused_and_its_field_named(
    key: SigningKey, fields: dict[str, Any], place: str
) -> None:
    with pytest.raises(ConfigError) as wrong:
        config(**{"public_key": str(key.public), "store_id": STORE_ID, **fields})
    assert wrong.value.place == place


def test_a_signing_key_is_read_back_and_hides_its_value(tmp_path: Path) -> None:
    path = tmp_path / "control.key"
    made = SigningKey.create(path)
    read = SigningKey.load(path)
    assert read.public == made.public == PublicKey.parse(str(made.public))
    assert made.public.verifies(read.sign(b"d", b"m"), b"d", b"m")
    assert not made.public.verifies(read.sign(b"d", b"m"), b"d", b"n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secret = path.read_text().splitlines()[1]
    assert secret not in repr(made)
    with pytest.raises(TypeError):
        made.__reduce_ex__(4)


def test_a_signing_key_overwrites_nothing(tmp_path: Path) -> None:
    path = tmp_path / "control.key"
    path.write_bytes(b"something")
    with pytest.raises(FileExistsError):
        SigningKey.create(path)
    assert path.read_bytes() == b"something"


def test_half_a_signing_key_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        SigningKey.create(tmp_path / "control.key")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_signing_key_that_others_can_read_is_not_used(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "control.key"
    SigningKey.create(path)
    path.chmod(mode)
    with pytest.raises(SigningKeyError) as refusal:
        SigningKey.load(path)
    assert refusal.value.reason_code == "signing_key_insecure"
    assert refusal.value.next_command == f"chmod 600 {path}"


@pytest.mark.parametrize("data", [b"", b"x" * 10_000, b"-----BEGIN PRIVATE KEY-----\n"])
def test_a_file_that_holds_no_signing_key_says_so_and_no_more(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "control.key"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(SigningKeyError) as refusal:
        SigningKey.load(path)
    assert refusal.value.reason_code == "signing_key_malformed"
    path.unlink()
    with pytest.raises(SigningKeyError) as refusal:
        SigningKey.load(path)
    assert refusal.value.reason_code == "signing_key_missing"


def test_a_version_that_wraps_and_opens_is_usable() -> None:
    provider = SimpleMemoryKeyProvider()
    require_usable(provider, provider.current_version())
    old = provider.current_version()
    provider.create_version()
    require_usable(provider, old)  # a later one is in use: that is good as well


def test_a_version_that_is_not_in_use_yet_is_waited_for() -> None:
    provider = SimpleMemoryKeyProvider()
    new = provider.create_version()
    provider.kms.wrong_version_next()
    with pytest.raises(UnavailableError) as late:
        require_usable(provider, new)
    assert late.value.reason_code == "version_not_in_use"


def test_a_version_that_does_not_open_is_not_usable() -> None:
    provider = SimpleMemoryKeyProvider()
    provider.kms.corrupt_next_wrap()
    with pytest.raises(ProofFailedError) as failed:
        require_usable(provider, provider.current_version())
    assert failed.value.__context__ is None
    new = provider.create_version()
    provider.kms.disable_version(new)
    with pytest.raises(DeniedError):
        require_usable(provider, new)
