"""`rewrap rotate-kek` with a KMS that rotates in its own time, on a real ledger."""

from pathlib import Path
from typing import Any

import pytest

from keywrap.keys import KeyVersion
from keywrap.kms import DeniedError, UnavailableError
from keywrap.rewrapping import Prove
from keywrap.testing.kms import MemoryKeyProvider, SimpleMemoryKeyProvider
from ledger import campaigns, rotations
from ledger.connection import Connection, Ledger
from ledger.rotations import Rotation
from ledger.states import Kind, State
from scheduler.commands.rotation import rotate
from scheduler.desk import REFUSED, UNREACHABLE
from scheduler.desk import Desk as OperatorsDesk
from scheduler.proofs import default_proof
from tests.desks import desk_of
from tests.rotations import STORE, Rotating, desk_at


class SlowProvider(MemoryKeyProvider):
    """A KEK whose KMS takes a rotation up and shows it later, or loses the request."""

    def __init__(self) -> None:
        super().__init__()
        self.rotations = 0
        self.in_progress = False
        self.lost = False

    def create_version(self) -> KeyVersion:
        self.rotations += 1
        self.in_progress = not self.lost
        raise UnavailableError("not seen yet", key=self.key, reason_code="rotation_not_seen")

    def finish(self) -> None:
        assert self.in_progress
        self.in_progress = False
        self.kms.rotate(self.key)


@pytest.fixture
def desk(ledger: Ledger, tmp_path: Path) -> OperatorsDesk:
    return desk_at(tmp_path, ledger, STORE.format(store=tmp_path.as_uri()))


@pytest.fixture
def slow(desk: OperatorsDesk, ledger: Ledger) -> Rotating:
    return Rotating(desk, desk_of(ledger), SlowProvider())


def _slow(rotating: Rotating) -> SlowProvider:
    assert isinstance(rotating.provider, SlowProvider)
    return rotating.provider


def test_a_rotation_that_is_not_seen_yet_is_taken_up_and_never_begun_again(slow: Rotating) -> None:
    provider = _slow(slow)
    for _ in range(3):
        refused = slow.refused()
        assert (refused.exit_code, refused.reason_code) == (UNREACHABLE, "rotation_not_seen")
        assert refused.next_command == "rewrap rotate-kek"
    assert provider.rotations == 1
    assert slow.ledger.rows("SELECT count(*) FROM campaign") == [(0,)]
    provider.finish()
    campaign = slow.ledger.get(slow.rotate())
    assert campaign.target == KeyVersion(provider.key, "2")
    assert slow.rotate() == campaign.id
    assert (provider.rotations, provider.current_version().version) == (1, "2")


def test_a_request_that_was_lost_is_sent_again_when_no_version_can_come_of_it(
    slow: Rotating,
) -> None:
    provider = _slow(slow)
    provider.lost = True
    slow.refused()
    slow.refused()
    assert provider.rotations == 1
    slow.ledger.run("UPDATE kek_rotation SET begun_at = begun_at - interval '16 min'")
    provider.lost = False
    assert slow.refused().reason_code == "rotation_not_seen"
    assert provider.rotations == 2
    slow.refused()
    assert provider.rotations == 2
    provider.finish()
    assert slow.ledger.get(slow.rotate()).target == KeyVersion(provider.key, "2")


def test_a_run_cut_off_while_the_kms_is_asked_is_gone_on_with_and_asks_for_no_second(
    slow: Rotating, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = _slow(slow)

    def cut_off() -> Any:
        provider.rotations += 1
        provider.in_progress = True
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(provider, "create_version", cut_off)
        with pytest.raises(KeyboardInterrupt):
            slow.rotate()
    assert slow.refused().reason_code == "rotation_not_seen"
    assert provider.rotations == 1
    provider.finish()
    assert slow.ledger.get(slow.rotate()).target == KeyVersion(provider.key, "2")
    assert provider.rotations == 1


def test_that_the_kms_is_asked_is_committed_before_it_is(
    desk: OperatorsDesk, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotating = Rotating(desk, desk_of(ledger), SimpleMemoryKeyProvider())
    noted: list[Any] = []
    create = rotating.provider.create_version

    def look_and_create() -> KeyVersion:
        noted.extend(rotating.ledger.rows("SELECT begun_at IS NOT NULL FROM kek_rotation"))
        return create()

    monkeypatch.setattr(rotating.provider, "create_version", look_and_create)
    rotating.rotate()
    assert noted == [(True,)]


def test_a_run_held_up_before_it_asks_lets_another_go_on(
    slow: Rotating, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = _slow(slow)
    ask = rotations.ask

    def held_up(connection: Connection, rotation: Rotation, current: KeyVersion) -> Rotation:
        asked = ask(connection, rotation, current)
        connection.exec_driver_sql("UPDATE kek_rotation SET begun_at = begun_at + interval '1 s'")
        return asked

    monkeypatch.setattr(rotations, "ask", held_up)
    assert slow.refused().reason_code == "rotation_not_seen"
    assert provider.rotations == 0


def test_a_version_made_elsewhere_after_a_refusal_is_not_taken_for_the_rotation(
    desk: OperatorsDesk, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotating = Rotating(desk, desk_of(ledger), SimpleMemoryKeyProvider())

    def refuse() -> Any:
        raise DeniedError("no", key="k", reason_code="permission_denied")

    with monkeypatch.context() as patched:
        patched.setattr(rotating.provider, "create_version", refuse)
        with pytest.raises(DeniedError):
            rotating.rotate()
    rotating.provider.kms.rotate(rotating.provider.key)
    campaign = rotating.ledger.get(rotating.rotate())
    assert campaign.target == KeyVersion(rotating.provider.key, "3")


def test_a_version_made_before_the_kms_was_ever_asked_is_not_taken_for_the_rotation(
    desk: OperatorsDesk, ledger: Ledger
) -> None:
    rotating = Rotating(desk, desk_of(ledger), SimpleMemoryKeyProvider())
    current = rotating.provider.current_version()
    with ledger.begin() as connection:
        rotations.begin(connection, current)  # and cut off there
    rotating.provider.kms.rotate(rotating.provider.key)
    campaign = rotating.ledger.get(rotating.rotate())
    assert campaign.target == KeyVersion(rotating.provider.key, "3")
    assert rotating.ledger.rows("SELECT from_version, to_version FROM kek_rotation") == [("2", "3")]


def test_a_refusal_after_which_the_kms_cannot_be_looked_at_keeps_the_rotation(
    slow: Rotating, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = _slow(slow)
    denied = DeniedError("no", key="k", reason_code="permission_denied")
    current = provider.current_version()

    def refuse() -> Any:
        raise denied

    def look_is_denied_too() -> Any:
        provider.kms.rotate(provider.key)  # the refusal came after the rotation began
        patched.setattr(provider, "current_version", refuse)
        raise denied

    with monkeypatch.context() as patched:
        patched.setattr(provider, "create_version", look_is_denied_too)
        with pytest.raises(DeniedError):
            rotate(slow.desk, provider, current, default_proof(Kind.ROTATE, provider))
    assert slow.ledger.get(slow.rotate()).target == KeyVersion(provider.key, "2")
    assert provider.rotations == 0


def test_a_kek_that_its_kms_rotates_no_more_is_said_so_and_leaves_nothing_behind(
    slow: Rotating, monkeypatch: pytest.MonkeyPatch
) -> None:
    denied = DeniedError("rotated 25 times", key="k", reason_code="rotation_limit")

    def refuse() -> Any:
        raise denied

    monkeypatch.setattr(slow.provider, "create_version", refuse)
    refused = slow.refused()
    assert (refused.exit_code, refused.reason_code) == (REFUSED, "rotation_limit")
    assert "rewrap start rotate --to" in refused.next_command
    assert slow.ledger.rows("SELECT count(*) FROM kek_rotation") == [(0,)]


def test_a_permission_that_is_missing_keeps_the_rotation_for_the_next_try(
    slow: Rotating, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> Any:
        slow.provider.kms.rotate(slow.provider.key)  # the refusal came after the rotation began
        raise DeniedError("no", key="k", reason_code="permission_denied")

    monkeypatch.setattr(slow.provider, "create_version", refuse)
    with pytest.raises(DeniedError):
        slow.rotate()
    monkeypatch.setattr(slow.provider, "create_version", pytest.fail)
    assert slow.ledger.get(slow.rotate()).target == KeyVersion(slow.provider.key, "2")


def test_no_version_is_made_for_a_campaign_that_would_be_refused(slow: Rotating) -> None:
    open_one = slow.ledger.campaign(Kind.MIGRATE)
    with pytest.raises(campaigns.RequestRefusedError):
        slow.rotate()
    assert _slow(slow).rotations == 0
    slow.ledger.force(open_one, State.COMPLETE)
    slow.refused()
    assert _slow(slow).rotations == 1


@pytest.mark.parametrize(
    ("provider", "prove", "sample"),
    [(MemoryKeyProvider, Prove.SAMPLE, 0.01), (SimpleMemoryKeyProvider, Prove.ALL, None)],
)
def test_a_rotation_is_proved_as_its_kind_of_key_allows(
    desk: OperatorsDesk,
    ledger: Ledger,
    provider: type[SimpleMemoryKeyProvider],
    prove: Prove,
    sample: float | None,
) -> None:
    rotating = Rotating(desk, desk_of(ledger), provider())
    campaign = rotating.ledger.get(rotating.rotate())
    assert (campaign.prove, campaign.sample) == (prove, sample)


def test_a_kms_that_takes_its_time_is_waited_for_under_the_lock(ledger: Ledger) -> None:
    # An idle transaction is cut off after a minute otherwise, which is as long as AWS may take.
    current = KeyVersion("hcvault://memory/blob-kek", "1")
    question = "SHOW idle_in_transaction_session_timeout"
    with ledger.begin() as connection:
        rotations.begin(connection, current)
        assert connection.exec_driver_sql(question).scalar_one() == "10min"
    with ledger.begin() as connection:
        assert connection.exec_driver_sql(question).scalar_one() == "1min"
