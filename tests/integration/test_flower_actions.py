"""Asking for something from a real Flower: who may, what it does, and that it does it once."""

import base64
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests
from tornado.web import create_signed_value

from ledger import campaigns
from ledger.connection import Ledger
from ledger.requests import Action
from ledger.states import Kind, State
from scheduler.desk import Desk as OperatorsDesk
from scheduler.judge import Judge, judges
from tests.desks import Desk, desk_of
from tests.flowers import Flower
from tests.nodes import until
from tests.sites import run

ON = "actions = true"
BARE = ("start", "1/pause", "1/resume", "1/cancel")


@pytest.fixture(scope="module")
def desk(shared_ledger: Ledger) -> Desk:
    return desk_of(shared_ledger)


@pytest.fixture(scope="module")
def flower(
    tmp_path_factory: pytest.TempPathFactory, shared_ledger_url: str, redis_server: Any
) -> Iterator[Flower]:
    folder = tmp_path_factory.mktemp("flower")
    with Flower(folder, shared_ledger_url, redis_server.url, ON).running() as flower:
        made = OperatorsDesk(str(flower.config))
        assert made.settings.flower.actions
        yield flower


@pytest.fixture
def scheduler(flower: Flower, shared_ledger: Ledger) -> Iterator[None]:
    """The threads of a scheduler that judge requests, with the configuration of Flower."""
    running = judges(OperatorsDesk(str(flower.config)).settings, shared_ledger)
    for judge in running:
        judge.start()
    yield
    for judge in running:
        judge.stop()


@pytest.fixture
def campaign(desk: Desk) -> Iterator[int]:
    number = desk.campaign(Kind.MIGRATE, prefix=f"{uuid.uuid4()}/")
    desk.force(number, State.RUNNING)
    yield number
    desk.force(number, State.CANCELLED)


def key() -> str:
    return uuid.uuid4().hex


def post(flower: Flower, path: str, body: Any = None, **headers: str) -> requests.Response:
    headers = {"Idempotency-Key": key()} | {n.replace("_", "-"): v for n, v in headers.items()}
    return flower.session.post(
        f"{flower.origin}/api/campaigns/{path}", json=body or {}, headers=headers, timeout=30
    )


def test_actions_are_off_unless_the_configuration_says_so(
    tmp_path: Path, shared_ledger_url: str, redis_server: Any, desk: Desk, campaign: int
) -> None:
    before = desk.rows("SELECT count(*) FROM request")
    more = {"REWRAP_FLOWER_ACTIONS": "true", "FLOWER_READ_ONLY": "false"}
    with Flower(
        tmp_path, shared_ledger_url, redis_server.url, environment=more
    ).running() as flower:
        for path in (*BARE, f"{campaign}/pause"):
            answer = post(flower, path, {"kind": "rotate"} if path == "start" else {})
            assert (answer.status_code, answer.json()["reason_code"]) == (403, "actions_off")
            anybody = requests.post(f"{flower.origin}/api/campaigns/{path}", timeout=10)
            assert anybody.status_code == 401
        page = flower.get(f"/campaigns/{campaign}").text
        assert "data-action" not in page
        assert "actions.js" not in page
        # What an environment can never do either: Flower's own API.
        sent = flower.session.post(
            f"{flower.origin}/api/task/send-task/rewrap.rewrap_shard", json={}, timeout=10
        )
        assert sent.status_code == 403
    assert desk.rows("SELECT count(*) FROM request") == before
    assert desk.get(campaign).state is State.RUNNING


@pytest.mark.usefixtures("scheduler")
def test_pause_resume_and_cancel_do_what_the_commands_do_and_name_who_asked(
    flower: Flower, desk: Desk, campaign: int
) -> None:
    for action, state in (("pause", "pausing"), ("resume", "running"), ("cancel", "cancelling")):
        answer = post(flower, f"{campaign}/{action}")
        assert answer.status_code == 200, answer.text
        said = answer.json()
        assert (said["verdict"], said["campaign"], said["state"]) == ("done", campaign, state)
        assert said["requested_by"] == "flower: ann"
        assert desk.get(campaign).state == state
    shown = flower.document(f"/campaigns/{campaign}.json")["tables"]["requests"]
    assert [row[1:] for row in shown[:2]] == [
        ["flower: ann", f"cancel {campaign}", "done: cancelling"],
        ["flower: ann", f"resume {campaign}", "done: running"],
    ]


@pytest.mark.usefixtures("scheduler")
def test_the_same_key_is_one_request_and_one_answer(
    flower: Flower, desk: Desk, campaign: int
) -> None:
    once = key()
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: post(flower, f"{campaign}/pause", Idempotency_Key=once), range(8))
        )
    assert {a.status_code for a in answers} == {200}
    assert len({a.text for a in answers}) == 1
    assert desk.rows("SELECT count(*) FROM request WHERE key = :k", k=once) == [(1,)]
    desk.force(campaign, State.RUNNING)
    again = post(flower, f"{campaign}/pause", Idempotency_Key=once)
    assert again.text == answers[0].text
    assert desk.get(campaign).state is State.RUNNING, "it was done again"
    other = post(flower, f"{campaign}/cancel", Idempotency_Key=once)
    assert (other.status_code, other.json()["reason_code"]) == (422, "request_key_used")
    seen = flower.document(f"/api/requests/{once}")
    assert seen == again.json()
    assert flower.get(f"/api/requests/{key()}").status_code == 404


@pytest.mark.usefixtures("scheduler")
def test_what_is_refused_says_why_and_what_to_type(flower: Flower, campaign: int) -> None:
    for path, body, code in (
        (f"{campaign}/resume", {}, "wrong_state"),
        ("999999/pause", {}, "no_such_campaign"),
        ("start", {"kind": "rotate", "to": "aws-kms://arn:x"}, "key_not_usable"),
        ("start", {"kind": "rotate", "prove": "most"}, "usage"),
        ("start", {"kind": "rotate", "finish_by": "soon"}, "usage"),
        ("start", {"kind": "rotate", "window": "at night"}, "usage"),
        ("start", {"kind": "rotate", "max_rate": -1}, "usage"),
        ("start", {"kind": "rotate", "escrow": True}, "backup_not_configured"),
    ):
        answer = post(flower, path, body)
        assert answer.status_code == 409, answer.text
        said = answer.json()
        assert (said["verdict"], said["reason_code"]) == ("refused", code), said
        assert said["reason"]
        assert said["next_command"]


def test_what_is_no_request_is_not_written_down(flower: Flower, desk: Desk, campaign: int) -> None:
    before = desk.rows("SELECT count(*) FROM request")
    for path, body, headers, status in (
        ("start", {"kind": "sweep"}, {}, 400),
        ("start", {"kind": "rotate", "approved": True}, {}, 400),
        ("start", {"kind": "rotate", "prefix": "a\0b"}, {}, 400),
        ("start", {"kind": "rotate", "prefix": "x" * 20_000}, {}, 413),
        ("start", ["rotate"], {}, 400),
        (f"{campaign}/pause", {"state": "complete"}, {}, 400),
        (f"{campaign}/pause", {}, {"Idempotency_Key": "short"}, 400),
        (f"{campaign}/pause", {}, {"Idempotency_Key": "a'; DROP TABLE x"}, 400),
        (f"{campaign}/pause", {}, {"Content_Type": "text/plain"}, 415),
        (f"{campaign}/delete", {}, {}, 404),
        ("0/pause", {}, {}, 404),
    ):
        answer = post(flower, path, body, **headers)
        assert answer.status_code == status, (path, answer.text)
    surrogate = flower.session.post(
        f"{flower.origin}/api/campaigns/start",
        data=b'{"kind": "rotate", "prefix": "\\ud800"}',
        headers={"Idempotency-Key": key(), "Content-Type": "application/json"},
        timeout=10,
    )
    assert surrogate.status_code == 400
    assert desk.rows("SELECT count(*) FROM request") == before


def test_pages_of_other_sites_ask_for_nothing(flower: Flower, desk: Desk, campaign: int) -> None:
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": flower.origin, "Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "none"},
        {"Origin": f"http://127.0.0.1:{flower.port + 1}"},
    ):
        answer = post(flower, f"{campaign}/cancel", **headers)
        assert answer.status_code == 403, headers
    asked = flower.session.options(
        f"{flower.origin}/api/campaigns/{campaign}/cancel",
        headers={"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"},
        timeout=10,
    )
    assert "Access-Control-Allow-Origin" not in asked.headers
    form = flower.session.post(
        f"{flower.origin}/api/campaigns/{campaign}/cancel", data={"a": "b"}, timeout=10
    )
    assert form.status_code == 415
    assert (
        flower.session.get(
            f"{flower.origin}/api/campaigns/{campaign}/cancel", timeout=10
        ).status_code
        == 405
    )
    assert desk.get(campaign).state is State.RUNNING


def test_nobody_asks_without_the_sign_in(flower: Flower, desk: Desk, campaign: int) -> None:
    url = f"{flower.origin}/api/campaigns/{campaign}/cancel"
    headers = {"Idempotency-Key": key(), "Content-Type": "application/json"}
    for auth in (None, ("ann", "wrong"), ("bob", flower.password)):
        answer = requests.post(url, auth=auth, headers=headers, data="{}", timeout=10)
        assert answer.status_code == 401
    assert requests.get(f"{flower.origin}/api/requests/{key()}", timeout=10).status_code == 401
    assert desk.get(campaign).state is State.RUNNING


def test_a_start_opens_one_campaign_as_the_command_would(
    flower: Flower, desk: Desk, shared_ledger: Ledger
) -> None:
    with_kek(flower)
    settings = OperatorsDesk(str(flower.config)).settings
    judge = Judge(settings, shared_ledger, {Action.START})
    once, prefix = key(), f"{uuid.uuid4()}/"
    body = {"kind": "migrate", "prefix": prefix, "max_rate": 50, "prove": "content"}
    answers: list[requests.Response] = []
    asking = threading.Thread(
        target=lambda: answers.append(post(flower, "start", body, Idempotency_Key=once))
    )
    asking.start()
    until(judge.look, "it is judged", 10)
    asking.join()
    (answer,) = answers
    assert answer.status_code == 200, answer.text
    number = answer.json()["campaign"]
    opened = desk.get(number)
    assert (opened.kind, opened.state, opened.prefix) == (Kind.MIGRATE, State.PLANNED, prefix)
    assert (opened.requested_by, opened.max_rate) == ("flower: ann", 50)
    assert opened.prove == "content"
    assert str(opened.target).startswith("local:blob-kek?version=1-")
    assert opened.store == settings.keywrap.store.place
    assert post(flower, "start", body, Idempotency_Key=once).json()["campaign"] == number
    assert judge.look() == 0
    overlapping = threading.Thread(
        target=lambda: answers.append(post(flower, "start", body | {"kind": "rotate"}))
    )
    overlapping.start()
    until(judge.look, "it is judged", 10)
    overlapping.join()
    assert answers[1].status_code == 409
    assert answers[1].json()["reason_code"] == "already_open"
    assert answers[1].json()["next_command"] == f"rewrap status {number}"
    desk.force(number, State.CANCELLED)


def with_kek(flower: Flower) -> None:
    """Make the KEK that the configuration names."""
    if not (flower.config.parent / "kek.json").exists():
        made = run(
            ["create-kek", "local:blob-kek"],
            flower.environment,
            flower.config.parent,
        )
        assert made.code == 0, made


def test_the_scheduler_s_own_configuration_decides_whatever_flower_was_told(
    flower: Flower, desk: Desk, shared_ledger: Ledger, campaign: int
) -> None:
    allowed = OperatorsDesk(str(flower.config)).settings
    shut = msgspec.structs.replace(
        allowed, flower=msgspec.structs.replace(allowed.flower, actions=False)
    )
    refused = judged(flower, shared_ledger, shut, f"{campaign}/pause")
    assert refused["reason_code"] == "actions_off"
    two = msgspec.structs.replace(
        allowed,
        approvals=msgspec.structs.replace(
            allowed.approvals, required=frozenset({"start_urgent", "reencrypt"})
        ),
    )
    for body in ({"kind": "rotate", "urgent": True}, {"kind": "reencrypt"}):
        refused = judged(flower, shared_ledger, two, "start", body)
        assert refused["reason_code"] == "approval_wanted"
        assert refused["next_command"].startswith("rewrap start ")
    assert desk.get(campaign).state is State.RUNNING


def judged(
    flower: Flower, ledger: Ledger, settings: Any, path: str, body: Any = None
) -> dict[str, Any]:
    """Ask, and let one look of a scheduler answer."""
    answers: list[requests.Response] = []
    asking = threading.Thread(target=lambda: answers.append(post(flower, path, body)))
    asking.start()
    waiting = judges(settings, ledger)
    until(lambda: sum(judge.look() for judge in waiting), "it is judged", 10)
    asking.join()
    assert answers[0].status_code == 409, answers[0].text
    found: dict[str, Any] = answers[0].json()
    return found


def test_what_nobody_looked_at_for_long_is_not_done_any_more(
    flower: Flower, desk: Desk, shared_ledger: Ledger, campaign: int
) -> None:
    once = key()
    waiting = post(flower, f"{campaign}/cancel", Idempotency_Key=once)
    assert (waiting.status_code, waiting.json()["verdict"]) == (202, "waiting")
    desk.run(
        "UPDATE request SET created_at = created_at - interval '6 minutes' WHERE key = :k", k=once
    )
    for judge in judges(OperatorsDesk(str(flower.config)).settings, shared_ledger):
        judge.look()
    answer = post(flower, f"{campaign}/cancel", Idempotency_Key=once)
    assert (answer.status_code, answer.json()["reason_code"]) == (409, "request_expired")
    assert desk.get(campaign).state is State.RUNNING


def test_a_request_that_nobody_foresaw_is_refused_and_holds_up_no_other(
    flower: Flower,
    desk: Desk,
    shared_ledger: Ledger,
    campaign: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole: Callable[..., Any] = campaigns.get

    def broken(connection: Any, number: int) -> Any:
        if number == 31337:
            raise ZeroDivisionError
        return whole(connection, number)

    monkeypatch.setattr(campaigns, "get", broken)
    for number in (31337, campaign):
        desk.run(
            "INSERT INTO request (key, action, campaign_id, requested_by)"
            " VALUES (:k, 'pause', :n, 'flower: ann')",
            k=f"unforeseen-{number}",
            n=number,
        )
    for judge in judges(OperatorsDesk(str(flower.config)).settings, shared_ledger):
        judge.look()
    found = dict(desk.rows("SELECT key, coalesce(reason_code, state) FROM request"))
    assert found["unforeseen-31337"] == "internal_error"
    assert found[f"unforeseen-{campaign}"] == "pausing"


def test_under_oauth_the_e_mail_is_who_asks_and_the_xsrf_token_is_wanted(
    tmp_path: Path, shared_ledger_url: str, redis_server: Any, campaign: int
) -> None:
    secret = uuid.uuid4().hex
    oauth = {
        "REWRAP_FLOWER_BASIC_AUTH": "",
        "FLOWER_AUTH": "eve@example.org",
        "FLOWER_AUTH_PROVIDER": "flower.views.auth.GoogleAuth2LoginHandler",
        "FLOWER_COOKIE_SECRET": secret,
        "FLOWER_OAUTH2_KEY": "k",
        "FLOWER_OAUTH2_SECRET": "s",
        "FLOWER_OAUTH2_REDIRECT_URI": "http://127.0.0.1/login",
    }
    with Flower(tmp_path, shared_ledger_url, redis_server.url, ON, oauth).running() as flower:
        flower.session.auth = None
        assert "/login" in flower.get("/campaigns", allow_redirects=False).headers["Location"]
        for mail, status in (("mallory@example.org", 403), ("eve@example.org", 202)):
            cookie = create_signed_value(secret, "user", mail).decode()
            flower.session.cookies.clear()
            flower.session.cookies.set("user", cookie)
            if status == 202:
                flower.get(f"/campaigns/{campaign}")
                assert post(flower, f"{campaign}/pause").status_code == 403, "no XSRF token"
            token = flower.session.cookies.get("_xsrf", "")
            answer = post(flower, f"{campaign}/pause", X_XSRFToken=token)
            assert answer.status_code == status, answer.text
        assert answer.json()["requested_by"] == "flower: eve@example.org"
        # A header that Flower does not look at names nobody.
        forged = base64.b64encode(b"root:x").decode()
        answer = post(
            flower, f"{campaign}/pause", Authorization=f"Basic {forged}", X_XSRFToken=token
        )
        assert answer.json()["requested_by"] == "flower: eve@example.org"
