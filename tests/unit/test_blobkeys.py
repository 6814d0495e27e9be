import pytest

from keywrap.blobs import EncryptedBlobs, LegacyCutOffError
from keywrap.contents import ContentError
from keywrap.control import ControlError, Cutover
from keywrap.keyring import KeyRing, UnlistedKeyError
from keywrap.keys import KeyVersion
from keywrap.kms import (
    DeniedError,
    KmsError,
    ProofFailedError,
    RefusedError,
    ThrottledError,
    UnavailableError,
)
from tests.applications import Kept, Published
from tests.worlds import KEK, OTHER_KEK, World

AWAY = [UnavailableError("no answer", key=KEK), DeniedError("not you", key=KEK)]
away = pytest.mark.parametrize("error", AWAY, ids=["unavailable", "denied"])


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def sink() -> Kept:
    return Kept()


@pytest.fixture
def control() -> Published:
    return Published()


@pytest.fixture
def blobs(world: World, sink: Kept, control: Published) -> EncryptedBlobs:
    return EncryptedBlobs(
        world.reader, world.keys, world.legacy_content, control=control, audit=sink
    )


def moved(world: World, kind: str = "direct") -> str:
    """Plant a legacy blob and migrate it, so that its sidecar has both wraps."""
    world.plant(kind, "a")
    world.migrate("a")
    assert "previous" in world.sidecar("a")
    return "a"


@away
def test_where_the_kek_is_away_the_wrap_before_is_opened(
    world: World, blobs: EncryptedBlobs, sink: Kept, error: KmsError
) -> None:
    moved(world)
    world.kms.fail_next(error)
    assert blobs.get("a") == world.originals["a"]
    now = f"{KEK}?version=1"
    assert sink.said("event", "outcome", "key_id", "reason_code", "instead_of") == [
        ("unwrap", "failed", now, error.reason_code, None),
        ("unwrap", "ok", "env:BLOB_KEY", None, None),
        ("fallback", "ok", "env:BLOB_KEY", None, now),
    ]


def test_a_reader_whose_configuration_does_not_list_the_new_kek_yet_still_reads(
    world: World, sink: Kept
) -> None:
    moved(world)
    old = EncryptedBlobs(world.reader, KeyRing([world.direct]), "records-v1", audit=sink)
    assert old.get("a") == world.originals["a"]
    assert sink.said()[0] == ("unwrap", f"{KEK}?version=1", "key_not_listed")


def test_a_managed_wrap_before_is_opened_where_its_version_still_opens(
    world: World, blobs: EncryptedBlobs, control: Published
) -> None:
    world.plant("managed", "a")
    world.kms.rotate(KEK)
    world.rotate("a")
    world.kms.disable_version(KeyVersion(KEK, "2"))
    control.cutover(Cutover.ON)
    assert blobs.get("a") == world.originals["a"]


@pytest.mark.parametrize("error", [RefusedError("damaged"), ThrottledError("slower")])
def test_a_wrap_that_is_refused_or_throttled_is_no_reason_to_open_the_wrap_before(
    world: World, blobs: EncryptedBlobs, sink: Kept, error: KmsError
) -> None:
    moved(world)
    world.kms.fail_next(error)
    with pytest.raises(type(error)):
        blobs.get("a")
    assert [event for event, _, _ in sink.said()] == ["unwrap", "alert"]


@away
def test_without_a_wrap_before_a_read_blocks_and_raises_an_alert(
    world: World, blobs: EncryptedBlobs, sink: Kept, error: KmsError
) -> None:
    world.plant("managed", "a")
    world.kms.fail_next(error)
    with pytest.raises(type(error)):
        blobs.get("a")
    assert sink.said()[-1] == ("alert", f"{KEK}?version=1", error.reason_code)
    assert blobs.get("a") == world.originals["a"], "and goes on once the KMS is back"


def test_a_wrap_before_whose_key_is_not_listed_is_not_opened(world: World, sink: Kept) -> None:
    moved(world)
    reader = EncryptedBlobs(world.reader, KeyRing([world.kek]), "records-v1", audit=sink)
    world.kms.fail_next(AWAY[0])
    with pytest.raises(UnavailableError):
        reader.get("a")
    assert [event for event, _, _ in sink.said()] == ["unwrap", "unwrap", "alert"]


def test_a_wrap_before_that_is_of_another_blob_opens_nothing(
    world: World, blobs: EncryptedBlobs, sink: Kept
) -> None:
    moved(world, "wrapped")
    world.plant("wrapped", "b")
    world.edit("a", previous={k: world.sidecar("b")[k] for k in ("key_id", "wrapped_dek")})
    world.kms.fail_next(AWAY[0])
    with pytest.raises(ContentError):
        blobs.get("a")
    assert sink.said()[-1][0] == "alert"


def test_once_cutover_is_on_a_legacy_wrap_is_refused(
    world: World, blobs: EncryptedBlobs, sink: Kept, control: Published
) -> None:
    world.plant("wrapped", "a")
    before = world.snapshot()
    control.cutover(Cutover.ON)
    with pytest.raises(LegacyCutOffError, match="rewrap cutover warn"):
        blobs.get("a")
    assert [(event, code) for event, _, code in sink.said()] == [
        ("unwrap", "legacy_cut_off"),
        ("alert", "legacy_cut_off"),
    ]
    assert world.snapshot() == before


def test_a_legacy_wrap_that_is_cut_off_is_not_read_around_by_the_wrap_before(
    world: World, blobs: EncryptedBlobs, control: Published
) -> None:
    world.plant("managed", "b")
    world.plant("wrapped", "a")
    world.edit("a", previous={k: world.sidecar("b")[k] for k in ("key_id", "wrapped_dek")})
    control.cutover(Cutover.ON)
    with pytest.raises(LegacyCutOffError):
        blobs.get("a")
    assert world.kms.operations["unwrap"] == 0


def test_once_cutover_is_on_no_read_falls_back_to_a_legacy_wrap(
    world: World, blobs: EncryptedBlobs, control: Published
) -> None:
    moved(world)
    control.cutover(Cutover.ON)
    assert blobs.get("a") == world.originals["a"]
    world.kms.fail_next(AWAY[0])
    with pytest.raises(UnavailableError):
        blobs.get("a")


def test_a_rehearsal_opens_legacy_wraps_and_says_so_each_time(
    world: World, blobs: EncryptedBlobs, sink: Kept, control: Published
) -> None:
    world.plant("direct", "a")
    world.plant("managed", "b")
    control.cutover(Cutover.WARN)
    for blob_id in ("a", "b"):
        assert blobs.get(blob_id) == world.originals[blob_id]
    assert sink.said("event", "blob_id") == [
        ("unwrap", "a"),
        ("legacy_unwrap", "a"),
        ("unwrap", "b"),
    ]


def test_without_a_control_file_to_obey_no_legacy_wrap_opens_and_managed_ones_do(
    world: World, blobs: EncryptedBlobs, sink: Kept, control: Published
) -> None:
    world.plant("direct", "a")
    world.plant("managed", "b")
    control.says = ControlError("control_unreadable", "too old")
    with pytest.raises(ControlError):
        blobs.get("a")
    assert sink.said()[-1] == ("alert", "env:BLOB_KEY", "control_unreadable")
    assert blobs.get("b") == world.originals["b"]


def test_without_a_control_file_to_obey_nothing_is_written(
    world: World, blobs: EncryptedBlobs, sink: Kept, control: Published
) -> None:
    control.says = ControlError("control_forged", "not its signature")
    with pytest.raises(ControlError):
        blobs.put("a", b"text")
    assert world.snapshot() == {}
    assert sink.said()[-1] == ("alert", None, "control_forged")


@pytest.mark.parametrize("error", [*AWAY, ThrottledError("slower", key=KEK)])
def test_a_write_blocks_while_the_kms_is_away_and_raises_an_alert(
    world: World, blobs: EncryptedBlobs, sink: Kept, error: KmsError
) -> None:
    moved(world)
    before = world.snapshot()
    world.kms.fail_next(error)
    with pytest.raises(type(error)):
        blobs.put("a", b"new")
    assert world.snapshot() == before
    assert sink.said() == [
        ("wrap", None, error.reason_code),
        ("alert", None, error.reason_code),
    ]


def test_a_new_wrap_that_opens_to_another_data_key_is_never_written(
    world: World, blobs: EncryptedBlobs, sink: Kept
) -> None:
    world.kms.corrupt_next_wrap()
    with pytest.raises(ProofFailedError, match="'a'"):
        blobs.put("a", b"text")
    assert world.snapshot() == {}
    assert sink.said()[0] == ("wrap", f"{KEK}?version=1", "ProofFailedError")


def test_a_provider_that_proves_its_wraps_is_not_asked_again(
    world: World, blobs: EncryptedBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs.put("a", b"text")
    assert world.kms.operations == {"wrap": 1, "unwrap": 1}
    monkeypatch.setattr(type(world.kek), "proves_wraps", True)
    blobs.put("b", b"text")
    assert world.kms.operations == {"wrap": 2, "unwrap": 1}


def test_a_wrap_under_a_version_before_the_published_one_is_not_written(
    world: World, blobs: EncryptedBlobs, control: Published
) -> None:
    control.primary(world.kms.rotate(KEK))
    world.kms.wrong_version_next()
    with pytest.raises(UnavailableError) as blocked:
        blobs.put("a", b"text")
    assert blocked.value.reason_code == "version_not_current"
    assert world.snapshot() == {}
    blobs.put("a", b"text")
    assert world.sidecar("a")["key_id"] == f"{KEK}?version=2"


def test_a_wrap_under_a_version_after_the_published_one_is_written(
    world: World, blobs: EncryptedBlobs, control: Published
) -> None:
    control.primary(world.target)
    world.kms.rotate(KEK)
    blobs.put("a", b"text")
    assert world.sidecar("a")["key_id"] == f"{KEK}?version=2"


def test_new_wraps_follow_the_published_kek(
    world: World, blobs: EncryptedBlobs, control: Published
) -> None:
    control.primary(KeyVersion(OTHER_KEK, "1"))
    blobs.put("a", b"text")
    assert world.sidecar("a")["key_id"] == f"{OTHER_KEK}?version=1"
    assert blobs.get("a") == b"text"


@pytest.mark.parametrize(
    ("key", "error"), [("hcvault://foreign/kek", UnlistedKeyError), ("env:OLD_KEK", DeniedError)]
)
def test_a_published_kek_that_is_not_listed_or_legacy_wraps_nothing(
    world: World,
    blobs: EncryptedBlobs,
    control: Published,
    key: str,
    error: type[Exception],
) -> None:
    control.primary(KeyVersion(key, "" if key.startswith("env:") else "1"))
    with pytest.raises(error):
        blobs.put("a", b"text")
    assert world.snapshot() == {}


def test_a_rotation_published_while_the_content_is_written_is_followed(
    world: World, blobs: EncryptedBlobs, control: Published, sink: Kept
) -> None:
    control.primary(world.target)
    world.store.before("create", lambda: control.primary(world.kms.rotate(KEK)))
    blobs.put("a", b"text")
    assert world.sidecar("a")["key_id"] == f"{KEK}?version=2"
    assert [version for event, version, _ in sink.said() if event == "wrap"] == [
        f"{KEK}?version=1",
        f"{KEK}?version=2",
    ]
    assert blobs.get("a") == b"text"


def test_a_rotation_published_while_writers_race_is_followed(
    world: World, blobs: EncryptedBlobs, control: Published
) -> None:
    control.primary(world.target)
    world.plant("managed", "a")

    def rotate_and_overwrite() -> None:
        world.put("a", b"other")
        control.primary(world.kms.rotate(KEK))

    world.store.before("replace", rotate_and_overwrite)
    blobs.put("a", b"ours")
    assert world.sidecar("a")["key_id"] == f"{KEK}?version=2"
    assert blobs.get("a") == b"ours"
