"""A ledger, a webhook, and schedulers that raise alerts."""

from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from ledger.connection import Ledger
from ledger.states import Kind, State
from scheduler.alerting import Alerting
from scheduler.commands.alerts import alerts as command
from scheduler.headkeeper import HeadKeeper
from tests.desks import desk_of
from tests.hooks import Receiver
from tests.rotations import STORE, desk_at

REFUSES = "the token may not do this"


class Office:
    """A ledger, a configuration with one webhook, and schedulers that raise alerts.

    Attributes:
        desk: short words for the ledger.
    """

    def __init__(self, ledger: Ledger, folder: Path, hook: Receiver) -> None:
        self.ledger, self.desk, self.hook, self.folder = ledger, desk_of(ledger), hook, folder
        (folder / "hook.url").write_text(f"{hook.url}\n")
        self.beat()

    def beat(self) -> None:
        self.desk.run(
            "INSERT INTO heartbeat VALUES ('scheduler', clock_timestamp())"
            " ON CONFLICT (name) DO UPDATE SET at = clock_timestamp()"
        )

    def config(self, more: str = "", rules: str = "", webhook: str = "") -> str:
        store = STORE.format(store=(self.folder / "blobs").as_uri())
        webhook = webhook or 'min_severity = "info"'
        return (
            f"{store}\n{more}\n[alerts]\n{rules}\n"
            f'[alerts.webhooks.ops]\nurl_file = "hook.url"\n{webhook}\n'
        )

    def scheduler(self, quiet_s: float = 0.0, **config: str) -> Alerting:
        """Return what a scheduler that has just been started has."""
        settings = desk_at(self.folder, self.ledger, self.config(**config)).settings
        return Alerting(settings, self.ledger, HeadKeeper(settings, self.ledger), quiet_s)

    def turn(self, scheduler: Alerting) -> list[dict[str, Any]]:
        """Let a scheduler look and send; return what came at the webhook since the last turn."""
        before = len(self.hook.got)
        scheduler.look()
        scheduler.send()
        return self.hook.got[before:]

    def block(self, campaign: int, reason: str = REFUSES) -> None:
        self.desk.run(
            "UPDATE campaign SET state = 'blocked', reason_code = 'permission_denied',"
            " reason = :why WHERE id = :id",
            why=reason,
            id=campaign,
        )

    def let_it_be_due(self) -> None:
        self.desk.run("UPDATE alert_delivery SET next_at = clock_timestamp()")

    def types(self, *words: str, **config: str) -> Result:
        desk = desk_at(self.folder, self.ledger, self.config(**config))
        return CliRunner().invoke(command, list(words), obj=desk)


def kinds(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(one["event"], one["kind"]) for one in messages]


def complete(office: Office, state: State = State.COMPLETE, kind: Kind = Kind.VERIFY) -> int:
    campaign = office.desk.campaign(kind)
    office.desk.run(
        "UPDATE campaign SET state = :state, finished_at = clock_timestamp() WHERE id = :id",
        state=state,
        id=campaign,
    )
    return campaign
