"""What every command of the operator's desk needs: the settings, the ledger, one way to refuse."""

import os
import pwd
import socket
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec

from embedded.postgres import Postgres
from embedded.redis import Redis
from keywrap.config import open_key
from keywrap.keyring import UnlistedKeyError
from keywrap.keys import BadKeyIdError, KeyVersion
from keywrap.kms import KeyProvider
from ledger import campaigns, schema
from ledger.campaigns import Campaign
from ledger.connection import Ledger, LedgerUnavailableError
from workers.settings import Settings, load

DONE, EXCEPTIONS, USAGE, UNREACHABLE, REFUSED = 0, 1, 2, 3, 4
"""Exit codes (DESIGN section 10)."""

DATABASE = "rewrap"


class DeskError(Exception):
    """A command that cannot go on; it has changed nothing more than it has said.

    Args:
        message: what is wrong, and what was left untouched.
        exit_code: see the exit codes above.
        reason_code: a short stable code.
        next_command: what to type next.
    """

    def __init__(
        self, message: str, *, exit_code: int, reason_code: str, next_command: str = ""
    ) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.reason_code = reason_code
        self.next_command = next_command


@dataclass
class Desk:
    """The settings and connections of one command.

    Attributes:
        config: the path of the configuration, as it was given.
        as_json: whether to print one JSON document and nothing else.
    """

    config: str | None
    as_json: bool = False

    @cached_property
    def settings(self) -> Settings:
        """The settings, with the embedded services of a running `rewrap up` filled in.

        Raises:
            ConfigError: the configuration is missing or wrong.
        """
        settings = load(self.config)
        state = Path(settings.state_dir)
        if not settings.ledger.url and (postgres := Postgres.running(state / "postgres")):
            ledger = msgspec.structs.replace(settings.ledger, url=postgres.url_of(DATABASE))
            settings = msgspec.structs.replace(settings, ledger=ledger)
        if not settings.broker.url and (redis := Redis.running(state / "redis")):
            broker = msgspec.structs.replace(settings.broker, url=redis.url)
            settings = msgspec.structs.replace(settings, broker=broker)
        return settings

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger.

        Raises:
            DeskError: no PostgreSQL answers, or it holds no ledger of this version.
        """
        if not self.settings.ledger.url:
            raise DeskError(
                "no ledger is configured and no `rewrap up` is running here; nothing was changed",
                exit_code=UNREACHABLE,
                reason_code="ledger_not_running",
                next_command="rewrap up",
            )
        try:
            ledger = Ledger(self.settings.ledger.url)
            current = schema.is_current(ledger)
        except LedgerUnavailableError as error:
            raise DeskError(
                f"PostgreSQL does not answer: {error}; nothing was changed",
                exit_code=UNREACHABLE,
                reason_code="ledger_unavailable",
                next_command="check [ledger] url or REWRAP_LEDGER_URL, then run it again",
            ) from error
        except schema.LedgerNewerError as error:
            raise DeskError(
                str(error),
                exit_code=UNREACHABLE,
                reason_code=error.reason_code,
                next_command=error.next_command,
            ) from error
        if not current:
            raise DeskError(
                "the database does not hold the ledger of this version; nothing was changed",
                exit_code=UNREACHABLE,
                reason_code="ledger_not_migrated",
                next_command="rewrap scheduler (it applies the migrations)",
            )
        return ledger

    def campaign(self, campaign_id: int) -> Campaign:
        """Return a campaign of the ledger.

        Raises:
            DeskError: there is none of that id.
        """
        with self.ledger.begin() as connection:
            campaign = campaigns.get(connection, campaign_id)
        if campaign is None:
            raise no_campaign(campaign_id)
        return campaign

    def listed_campaign(self, campaign_id: int) -> Campaign:
        """Return a campaign whose inventory and outcomes are in the ledger.

        Raises:
            DeskError: there is none of that id, or its lists were dropped.
        """
        campaign = self.campaign(campaign_id)
        if campaign.lists_dropped_at is not None:
            raise DeskError(
                f"the lists of campaign {campaign_id} were dropped at "
                f"{campaign.lists_dropped_at:%Y-%m-%d %H:%M} UTC; its counts are still there",
                exit_code=REFUSED,
                reason_code="lists_dropped",
                next_command=f"rewrap status {campaign_id}",
            )
        return campaign

    def kek(self, key: str | None) -> KeyProvider:
        """Return the provider of a listed KEK that campaigns may move to.

        Args:
            key: URI of the KEK without version; None for the primary KEK.

        Raises:
            DeskError: none is given and none is primary, it is not listed, or it is legacy.
            ConfigError: its secret is missing.
        """
        keys = self.settings.keywrap.keys
        wanted = key or keys.primary
        if not wanted:
            raise _bad_key("no key is given and [keys] names no primary", "--to KEY")
        try:
            if KeyVersion.parse(wanted).version:
                raise _bad_key(f"{wanted} names a version: give the key alone", "--to KEY")
            if KeyVersion.parse(wanted).is_legacy:
                raise _bad_key(f"{wanted} is a legacy key: it only unwraps", "--to KEY")
            return open_key(self.settings.keywrap, KeyVersion.parse(wanted).key, os.environ)
        except (BadKeyIdError, UnlistedKeyError) as error:
            listed = ", ".join(keys.uris())
            raise _bad_key(f"{error}; listed are: {listed}", "--to KEY") from error


def no_campaign(campaign_id: int | None) -> DeskError:
    """Say that there is no campaign of that id."""
    return DeskError(
        f"there is no campaign {campaign_id}; nothing was changed",
        exit_code=USAGE,
        reason_code="no_such_campaign",
        next_command="rewrap status",
    )


def _bad_key(message: str, next_command: str) -> DeskError:
    return DeskError(
        f"{message}; nothing was changed",
        exit_code=USAGE,
        reason_code="key_not_usable",
        next_command=next_command,
    )


def operator() -> str:
    """Name the person at this terminal, as the ledger records who asked."""
    # Not from the environment, which anyone may set.
    return f"{pwd.getpwuid(os.getuid()).pw_name}@{socket.gethostname()}"
