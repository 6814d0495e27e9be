"""Two people, on a real PostgreSQL: nothing begins that two listed ones do not stand for."""

import base64
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text

from keywrap.rewrapping import Outcome
from keywrap.signing import PublicKey, SigningKey
from ledger import approvals, campaigns
from ledger.approvals import Action, Approval
from ledger.campaigns import Request
from ledger.connection import Ledger
from ledger.states import Kind, State
from scheduler import approving, certifying, statements, status
from scheduler.approving import KEY_FILE, NO_PERMIT
from scheduler.commands.approval import approve
from scheduler.commands.asking import retry
from scheduler.commands.cutover import cutover
from scheduler.commands.unwinding import undo
from scheduler.desk import REFUSED, USAGE, Desk, DeskError
from scheduler.statements import Role
from tests.rotations import STORE, desk_at
from tests.yards import Yard, only
from workers.approvals_table import Approvals

PEOPLE = ("alice", "bob", "carol")


@dataclass
class Office:
    """Three people with a key each, one who is not listed, and where they type."""

    folder: Path
    ledger: Ledger
    desk: Desk
    yard: Yard
    monkeypatch: pytest.MonkeyPatch

    def sits(self, name: str) -> None:
        """Let a person sit down at the terminal."""
        self.monkeypatch.setenv(KEY_FILE, str(self.folder / f"{name}.key"))

    def types(self, command: click.Command, *words: str) -> Result:
        return CliRunner().invoke(command, list(words), obj=self.desk)

    def refused(self, command: click.Command, *words: str) -> DeskError:
        error = self.types(command, *words).exception
        assert isinstance(error, DeskError), error
        return error

    def opens(self, kind: Kind = Kind.REENCRYPT, reason: str = "", **asked: Any) -> int:
        request = Request(kind, "tests", target=self.yard.world.target, **asked)
        with approving.opening(self.desk, reason) as opened:
            return opened.request(request)

    def asked(self) -> Approval:
        with self.ledger.begin() as connection:
            (one,) = approvals.pending(connection)
        return one

    def approves(self, name: str, *words: str) -> None:
        self.sits(name)
        done = self.types(approve, str(self.asked().id), "--yes", *words)
        assert done.exit_code == 0, (done.output, done.exception)

    def edits(self, **columns: object) -> None:
        """Edit the newest approval, as somebody with a password of the database may."""
        sets = ", ".join(f"{name} = :{name}" for name in columns)
        with self.ledger.begin() as connection:
            connection.execute(
                text(f"UPDATE approval SET {sets} WHERE id = (SELECT max(id) FROM approval)"),  # noqa: S608
                columns,
            )

    def newest(self) -> Approval:
        with self.ledger.begin() as connection:
            last = connection.execute(text("SELECT max(id) FROM approval")).scalar_one()
            found = approvals.get(connection, last)
        assert found is not None
        return found

    def rules(self, **changed: object) -> Approvals:
        """Change what the configuration of the desk says."""
        settings = self.desk.settings
        rules = msgspec.structs.replace(settings.approvals, **changed)
        self.desk.__dict__["settings"] = msgspec.structs.replace(settings, approvals=rules)
        return rules

    def trail(self) -> list[dict[str, Any]]:
        files = sorted((self.folder / ".rewrap-state" / "audit").rglob("*.jsonl"))
        lines = [line for file in files for line in file.read_text().splitlines()]
        events = [json.loads(line) for line in lines]
        return sorted((e for e in events if e["event"] == "approval"), key=lambda e: e["time"])


@pytest.fixture
def office(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Office:
    keys = {name: SigningKey.create(tmp_path / f"{name}.key") for name in (*PEOPLE, "mallory")}
    people = "".join(f'{name} = "{keys[name].public}"\n' for name in PEOPLE)
    actions = ", ".join(f'"{action}"' for action in Action)
    table = f"[approvals]\nrequired = [{actions}]\n[approvals.people]\n{people}"
    store = STORE.format(store=(tmp_path / "blobs").as_uri())
    desk = desk_at(tmp_path, ledger, f"{store}\n{table}")
    yard = Yard(ledger)
    yard.approvals = desk.settings.approvals
    office = Office(tmp_path, ledger, desk, yard, monkeypatch)
    office.sits("alice")
    return office


def test_a_campaign_waits_for_a_second_person_and_then_runs(office: Office) -> None:
    office.yard.plant(3)
    campaign = office.opens()
    office.yard.tick(5)
    assert office.yard.desk.get(campaign).state is State.AWAITING_APPROVAL
    found = status.read(office.ledger, campaign, keeps_previous=True)
    assert found is not None
    document = found.document()
    (waiting,) = document["pending_approvals"]
    assert waiting["requested_by"] == "alice"
    assert document["reason_code"] == "approval_wanted"
    assert document["next_command"] == f"rewrap approve {waiting['id']}"

    office.approves("bob")
    assert office.yard.run(campaign).state is State.COMPLETE
    assert office.yard.counts(campaign) == only(Outcome.REWRAPPED, 3)
    assert office.newest().used_at is not None
    assert [(e["outcome"], e["person"]) for e in office.trail()] == [
        ("requested", "alice"),
        ("approved", "bob"),
    ]


def test_nobody_approves_what_they_asked_for(office: Office) -> None:
    office.opens()
    error = office.refused(approve, str(office.asked().id), "--yes")
    assert (error.reason_code, error.exit_code) == ("own_approval", REFUSED)
    # Nor past the command, by a signature of their own that is written into the ledger.
    key = SigningKey.load(office.folder / "alice.key")
    signed = statements.signature(office.newest(), Role.APPROVAL, "alice", key)
    office.edits(approved_by="alice", approval_signature=signed)
    office.yard.tick(3)
    assert office.yard.desk.get(1).reason_code == "approval_forged"


def test_who_is_not_listed_neither_asks_nor_approves(office: Office) -> None:
    campaign = office.opens()
    office.sits("mallory")
    error = office.refused(approve, str(office.asked().id), "--yes")
    assert (error.reason_code, error.exit_code) == ("approver_unlisted", REFUSED)
    with pytest.raises(DeskError) as refused:
        office.opens(prefix="x")
    assert refused.value.reason_code == "approver_unlisted"
    office.monkeypatch.delenv(KEY_FILE)
    with pytest.raises(DeskError) as refused:
        office.opens(prefix="x")
    assert (refused.value.reason_code, refused.value.exit_code) == ("approval_key_wanted", USAGE)
    with office.ledger.begin() as connection:
        assert [c.id for c in campaigns.recent(connection)] == [campaign]


def _plan(office: Office) -> dict[str, object]:
    plan = json.loads(office.newest().plan)
    return {"plan": json.dumps(plan | {"prefix": "other/"}, sort_keys=True, separators=(",", ":"))}


FORGERIES: dict[str, Callable[[Office], dict[str, object]]] = {
    "another plan": _plan,
    "no plan": lambda _o: {"plan": "{"},
    "a deep plan": lambda _o: {"plan": "[" * 100_000},
    "another action": lambda _o: {"action": "undo"},
    "another requester": lambda _o: {"requested_by": "carol"},
    "another account": lambda _o: {"account": "root@elsewhere"},
    "a later end": lambda o: {"expires_at": o.newest().expires_at.replace(year=2099)},
    "another nonce": lambda _o: {"nonce": "00000000-0000-0000-0000-000000000000"},
    "another approver": lambda _o: {"approved_by": "carol"},
    "an approver who is not listed": lambda _o: {"approved_by": "mallory"},
    "no signature": lambda _o: {"approval_signature": b""},
    "the request's signature": lambda o: {"approval_signature": o.newest().request_signature},
    "a glass that nobody broke": lambda _o: {"reason": "an emergency"},
    "another campaign": lambda _o: {"campaign_id": 2},
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_an_edited_approval_counts_for_nothing(office: Office, forgery: str) -> None:
    office.yard.plant(2)
    campaign = office.opens()
    office.approves("bob")
    office.edits(**FORGERIES[forgery](office))
    office.yard.tick(5)
    ended = office.yard.desk.get(campaign)
    moved = forgery in {"another action", "another campaign"}  # then it is not to be found at all
    assert ended.state is (State.AWAITING_APPROVAL if moved else State.CANCELLED)
    assert ended.reason_code == ("approval_wanted" if moved else "approval_forged")
    assert office.yard.counts(campaign) == {}


@pytest.mark.parametrize(
    "edit",
    [
        "prefix = '0'",
        "target = 'hcvault://memory/blob-kek?version=9'",
        "store = 'elsewhere'",
        "nonce = gen_random_uuid()",
        "kind = 'reencrypt', backs_up = true",
        "escrow = true",
    ],
)
def test_a_campaign_that_was_changed_since_does_not_begin(office: Office, edit: str) -> None:
    campaign = office.opens()
    office.approves("bob")
    office.yard.desk.run(f"UPDATE campaign SET {edit} WHERE id = :id", id=campaign)  # noqa: S608
    office.yard.tick(3)
    ended = office.yard.desk.get(campaign)
    assert (ended.state, ended.reason_code) == (State.CANCELLED, "approval_forged")


def test_an_approval_of_one_campaign_is_none_of_another(office: Office) -> None:
    """A replay: the row of one that was approved is copied onto a second, alike but for its id."""
    first = office.opens()
    office.approves("bob")
    assert office.yard.run(first).state is State.COMPLETE
    office.sits("alice")
    second = office.opens()
    old = office.yard.desk.rows(
        "SELECT plan, nonce, requested_by, expires_at, request_signature, approved_by,"
        " approval_signature FROM approval WHERE campaign_id = :id",
        id=first,
    )[0]
    office.yard.desk.run("DELETE FROM approval WHERE campaign_id = :id", id=first)
    names = ("plan", "nonce", "requested_by", "expires_at", "request_signature", "approved_by",
             "approval_signature")  # fmt: skip
    office.edits(**dict(zip(names, old, strict=True)))
    office.yard.tick(3)
    assert office.yard.desk.get(second).reason_code == "approval_forged"


def test_one_that_was_put_into_the_ledger_past_the_desk_waits(office: Office) -> None:
    campaign = office.yard.start(Kind.REENCRYPT)
    office.yard.tick(5)
    waiting = office.yard.desk.get(campaign)
    assert (waiting.state, waiting.reason_code) == (State.AWAITING_APPROVAL, "approval_wanted")
    found = status.read(office.ledger, campaign, keeps_previous=True)
    assert found is not None
    assert found.wait.next_command == f"rewrap cancel {campaign}"


@pytest.mark.parametrize("approved", [False, True])
def test_what_comes_too_late_counts_for_nothing(office: Office, *, approved: bool) -> None:
    campaign = office.opens()
    if approved:
        office.approves("bob")
    # Nobody waits a minute: what was signed stays as it is, and the ledger's clock is another.
    past = office.newest().expires_at
    office.monkeypatch.setattr(approvals, "in_seconds", lambda _c, _s: past)
    office.yard.tick(2)
    ended = office.yard.desk.get(campaign)
    assert (ended.state, ended.reason_code) == (State.CANCELLED, "approval_expired")


def test_an_expired_request_cannot_be_approved(office: Office) -> None:
    office.opens()
    asked = office.asked()
    office.edits(expires_at=asked.expires_at.replace(year=2020))
    office.sits("bob")
    error = office.refused(approve, str(asked.id), "--yes")
    assert error.reason_code == "approval_not_pending"


def test_an_edited_request_is_not_signed(office: Office) -> None:
    office.opens()
    office.edits(**_plan(office))
    office.sits("bob")
    error = office.refused(approve, str(office.asked().id), "--yes")
    assert error.reason_code == "approval_forged"
    assert office.newest().approved_by == ""


def test_breaking_the_glass_is_loud_and_on_record(
    office: Office, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    office.yard.plant(2)
    campaign = office.opens(reason="the key is leaking, bob is on a plane")
    assert "BREAK GLASS: alice" in capsys.readouterr().err
    with caplog.at_level(logging.CRITICAL):
        assert office.yard.run(campaign).state is State.COMPLETE
    assert "bob is on a plane" in caplog.text
    (event,) = office.trail()
    assert (event["outcome"], event["reason"][:11]) == ("break_glass", "the key is ")


def test_nobody_breaks_a_glass_that_the_configuration_has_locked(office: Office) -> None:
    campaign = office.opens(reason="an emergency")
    office.yard.approvals = office.rules(break_glass=False)  # whatever the desk thought
    office.yard.tick(3)
    assert office.yard.desk.get(campaign).reason_code == "approval_forged"
    with pytest.raises(DeskError) as refused:
        office.opens(reason="an emergency")
    assert refused.value.reason_code == "break_glass_forbidden"


def test_a_deed_at_the_desk_is_refused_until_approved_and_then_good_for_once(
    office: Office,
) -> None:
    plan = {"store": "s", "after_serial": 3}

    def permitted() -> approving.Permit:
        return approving.permit(office.desk, Action.CUTOVER_ON, plan, "")

    for _ in range(2):  # asking twice is asking once
        with pytest.raises(DeskError) as refused:
            permitted()
        assert refused.value.reason_code == "approval_wanted"
        assert f"rewrap approve {office.asked().id}" in refused.value.next_command
    office.approves("bob")
    office.sits("alice")
    with pytest.raises(DeskError):
        approving.permit(office.desk, Action.CUTOVER_ON, plan | {"after_serial": 4}, "")
    one, other = permitted(), permitted()
    with office.ledger.begin() as connection:
        one.use(connection)
    with pytest.raises(DeskError) as refused, office.ledger.begin() as connection:
        other.use(connection)
    assert refused.value.reason_code == "approval_used"
    with pytest.raises(DeskError) as refused:
        permitted()
    assert refused.value.reason_code == "approval_wanted"


def test_after_a_broken_glass_that_led_to_nothing_a_second_person_can_still_approve(
    office: Office,
) -> None:
    plan = {"store": "s"}
    approving.permit(office.desk, Action.RESTORE, plan, "an emergency")  # and then cut off
    with pytest.raises(DeskError) as refused:
        approving.permit(office.desk, Action.RESTORE, plan, "")
    assert refused.value.reason_code == "approval_wanted"
    office.approves("bob")
    office.sits("alice")
    assert approving.permit(office.desk, Action.RESTORE, plan, "").approval is not None


def test_quarantined_blobs_are_taken_up_again_by_two_people_only(office: Office) -> None:
    office.yard.world.edit(office.yard.plant(3, ("wrapped",))[0], wrapped_dek="AAAA")
    campaign = office.yard.start(Kind.MIGRATE)
    assert office.yard.run(campaign).state is State.COMPLETE_WITH_EXCEPTIONS
    error = office.refused(retry, str(campaign), "--quarantined")
    assert (error.exit_code, error.reason_code) == (REFUSED, "approval_wanted")
    assert office.yard.desk.get(campaign).state is State.COMPLETE_WITH_EXCEPTIONS
    office.approves("carol")
    office.sits("alice")
    done = office.types(retry, str(campaign), "--quarantined")
    assert (done.exit_code, "1 blobs are pending" in done.output) == (0, True), done.output


def test_commands_that_need_nobody_ask_nobody(office: Office) -> None:
    office.rules(required=())
    office.monkeypatch.delenv(KEY_FILE)
    assert approving.permit(office.desk, Action.RETIRE, {}, "") is NO_PERMIT
    with pytest.raises(DeskError) as refused:
        approving.permit(office.desk, Action.RETIRE, {}, "an emergency")
    assert refused.value.reason_code == "no_approval_wanted"
    office.opens()


def test_the_certificate_holds_both_signatures(office: Office) -> None:
    office.yard.plant(2)
    campaign = office.opens()
    office.approves("bob")
    office.yard.run(campaign)
    (found,) = certifying.record_of(office.desk, campaign)["approvals"]
    assert (found["requested_by"], found["approved_by"]) == ("alice", "bob")
    assert (found["counts"], found["used"], found["break_glass"]) == (True, True, None)
    # Verified as an auditor would who has the people's public keys from elsewhere.
    statement = {
        "account": found["account"],
        "action": "reencrypt",
        "campaign": campaign,
        "expires_at": found["expires_at"],
        "format": "rewrap-approval-v1",
        "nonce": found["nonce"],
        "person": "bob",
        "plan": json.loads(found["plan"]),
        "reason": "",
        "requested_by": "alice",
        "role": "approval",
    }
    message = json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()
    bob = PublicKey.parse(office.desk.settings.approvals.people["bob"])
    signature = base64.b64decode(found["approval_signature"])
    assert bob.verifies(signature, b"rewrap approval v1", message)
    office.edits(approved_by="carol")
    (found,) = certifying.record_of(office.desk, campaign)["approvals"]
    assert not found["counts"]


def test_a_list_of_what_waits(office: Office) -> None:
    assert "nothing waits" in office.types(approve).output
    campaign = office.opens()
    assert "asked for by alice" in office.types(approve).output
    (document,) = json.loads(office.types(approve, "--json").output)
    assert (document["campaign"], document["plan"]["kind"]) == (campaign, "reencrypt")
    for words in (("7",), ("0",), ("x",), ("1", "--json"), ("99999999999",)):
        failed = office.types(approve, *words, "--yes")
        assert failed.exit_code != 0


def test_an_unknown_campaign_or_table_is_told_before_anybody_is_asked(office: Office) -> None:
    assert office.refused(undo, "9", "--yes").reason_code == "no_such_campaign"
    assert office.refused(retry, "9", "--quarantined").reason_code == "no_such_campaign"
    assert office.refused(cutover, "on", "--yes").reason_code == "control_not_configured"
    with office.ledger.begin() as connection:
        assert approvals.pending(connection) == []
