"""Requests of Flower on a real ledger: two schedulers, and one that was cut off."""

from pathlib import Path
from typing import Any

import pytest

from keywrap.kms import UnavailableError
from ledger import requests
from ledger.connection import Ledger, LedgerUnavailableError
from ledger.requests import Action, Asked, TooManyRequestsError, Verdict
from ledger.states import Kind, State
from scheduler import judge as judging
from scheduler.judge import Judge
from scheduler.starts import Start
from tests.desks import Desk, desk_of
from tests.rotations import STORE, desk_at
from tests.yards import Yard


@pytest.fixture
def desk(ledger: Ledger) -> Desk:
    return desk_of(ledger)


@pytest.fixture
def judge(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Judge:
    """What judges everything, with a KEK in memory."""
    store = (tmp_path / "blobs").as_uri()
    config = STORE.format(store=store) + "\n[flower]\nactions = true\n"
    settings = desk_at(tmp_path, ledger, config).settings
    judge = Judge(settings, ledger, set(Action))
    kek = Yard(ledger).world.kek
    monkeypatch.setattr(judge._desk, "kek", lambda _key: kek, raising=False)
    return judge


def ask(ledger: Ledger, action: Action, campaign: int | None = None, key: str = "k" * 8) -> Asked:
    details = Start(kind="migrate", prefix="p/").text() if action is Action.START else ""
    with ledger.begin() as connection:
        return requests.file(connection, Asked(key, action, campaign, details, "flower: ann"))


def answer(ledger: Ledger, key: str = "k" * 8) -> Asked:
    with ledger.begin() as connection:
        found = requests.get(connection, key)
    assert found is not None
    return found


def test_of_two_schedulers_that_have_read_a_start_one_opens_its_campaign(
    ledger: Ledger, judge: Judge, desk: Desk
) -> None:
    asked = ask(ledger, Action.START)
    judge._answer(asked)
    first = answer(ledger)
    assert (first.verdict, first.campaign_id) == (Verdict.DONE, 1)
    desk.force(1, State.CANCELLED)  # or the second would be refused as overlapping
    judge._answer(asked)
    assert desk.rows("SELECT count(*) FROM campaign") == [(1,)]
    assert answer(ledger) == first


def test_of_two_schedulers_that_have_read_a_pause_one_pauses(
    ledger: Ledger, judge: Judge, desk: Desk
) -> None:
    campaign = desk.campaign(Kind.MIGRATE)
    desk.force(campaign, State.RUNNING)
    asked = ask(ledger, Action.PAUSE, campaign)
    judge._answer(asked)
    assert desk.get(campaign).state is State.PAUSING
    desk.force(campaign, State.RUNNING)
    judge._answer(asked)
    assert desk.get(campaign).state is State.RUNNING


def test_while_another_scheduler_judges_this_one_does_not(ledger: Ledger, judge: Judge) -> None:
    ask(ledger, Action.START)
    with ledger.exclusively(judging._LOCKS[Action.START]) as ours:
        assert ours
        assert judge.look() == 0
    assert answer(ledger).verdict is None
    assert judge.look() == 1
    assert judge.look() == 0


def test_a_key_service_that_is_away_refuses_the_start_with_the_words_of_the_desk(
    ledger: Ledger, judge: Judge, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_key: str | None) -> Any:
        raise UnavailableError("it does not answer")

    monkeypatch.setattr(judge._desk, "kek", away)
    ask(ledger, Action.START)
    judge.look()
    refused = answer(ledger)
    assert (refused.verdict, refused.reason_code) == (Verdict.REFUSED, "kms_unavailable")
    assert "[keys]" in (refused.next_command or "")
    assert desk.rows("SELECT count(*) FROM campaign") == [(0,)]


def test_what_could_not_be_answered_for_want_of_the_ledger_is_judged_later(
    ledger: Ledger, judge: Judge, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(ledger, Action.START)

    def gone(*_: Any) -> bool:
        raise LedgerUnavailableError("gone")

    with monkeypatch.context() as away:
        away.setattr(requests, "done", gone)
        with pytest.raises(LedgerUnavailableError):
            judge.look()
    assert answer(ledger).verdict is None
    assert desk.rows("SELECT count(*) FROM campaign") == [(0,)], "it was opened without an answer"
    judge.look()
    assert answer(ledger).verdict is Verdict.DONE
    assert desk.rows("SELECT count(*) FROM campaign") == [(1,)]


def test_no_more_requests_are_taken_than_a_scheduler_will_judge_soon(
    ledger: Ledger, judge: Judge
) -> None:
    for number in range(requests._MOST_WAITING):
        ask(ledger, Action.CANCEL, 1, f"waiting-{number:03d}")
    with pytest.raises(TooManyRequestsError):
        ask(ledger, Action.CANCEL, 1, "one-more")
    assert ask(ledger, Action.CANCEL, 1, "waiting-000").verdict is None
    judge.look()
    assert ask(ledger, Action.CANCEL, 1, "one-more").verdict is None


def test_starts_that_wait_keep_nobody_from_a_cancel(ledger: Ledger, desk: Desk) -> None:
    for number in range(requests._MOST_WAITING):
        ask(ledger, Action.START, key=f"start-{number}")
    with pytest.raises(TooManyRequestsError):
        ask(ledger, Action.START, key="one-more-start")
    campaign = desk.campaign(Kind.MIGRATE)
    assert ask(ledger, Action.CANCEL, campaign, key="a-cancel").verdict is None


def test_a_start_whose_key_service_took_too_long_opens_nothing(
    ledger: Ledger, judge: Judge, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, of = ask(ledger, Action.START), judging.request_of

    def slowly(*arguments: Any) -> Any:
        monkeypatch.setattr(judging, "_GOOD_FOR_S", -1.0)  # so long it took
        return of(*arguments)

    monkeypatch.setattr(judging, "request_of", slowly)
    judge._answer(asked)
    assert answer(ledger).reason_code == "request_expired"
    assert desk.rows("SELECT count(*) FROM campaign") == [(0,)]
