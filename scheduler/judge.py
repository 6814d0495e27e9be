"""Judging what people ask for in Flower, beside the ticks: by the rules of the command line.

Flower only writes a request down. Here it is decided, in the transaction that answers it: whoever
asks twice, or is cut off, finds one answer, and nothing was done twice.
"""

import logging
from collections.abc import Callable, Collection

import click
import msgspec

from ledger import campaigns, requests, wishes
from ledger.campaigns import Campaign, Request
from ledger.connection import Connection, Ledger, LedgerNotReadyError, LedgerUnavailableError
from ledger.requests import Action, Asked
from ledger.states import State
from scheduler import words
from scheduler.beside import Beside
from scheduler.desk import REFUSED, UNREACHABLE, Desk, DeskError, no_campaign
from scheduler.starts import Start, request_of
from workers.plaintext import plain
from workers.settings import Settings

logger = logging.getLogger(__name__)

_LOCKS = {Action.START: 0x7277_0006}
_LOCK = 0x7277_0007
"""Advisory locks: one scheduler judges starts, and one judges everything else."""

_LOOK_EVERY_S = 0.25
_START = msgspec.json.Decoder(Start)
_GOOD_FOR_S = 300.0
"""What was asked for longer ago is not done any more: who asked has gone on to something else."""

_WISHES: dict[Action, Callable[[Connection, Campaign], State]] = {
    Action.PAUSE: wishes.pause,
    Action.RESUME: wishes.resume,
    Action.CANCEL: wishes.cancel,
}


class Judge(Beside):
    """Answers requests of some kinds.

    Args:
        settings: the settings of the scheduler, which decide; Flower's own do not.
        ledger: the ledger.
        actions: which kinds: starts ask key services, and nothing else is to wait for those.
    """

    def __init__(self, settings: Settings, ledger: Ledger, actions: Collection[Action]) -> None:
        super().__init__("requests", _LOOK_EVERY_S)
        self._ledger = ledger
        self._desk = Desk(None)
        self._desk.settings, self._desk.ledger = settings, ledger
        self._actions = actions
        self._lock = next((_LOCKS[a] for a in actions if a in _LOCKS), _LOCK)

    def look(self) -> int:
        """Answer what waits; return how much that was."""
        with self._ledger.begin() as connection:
            found = requests.waiting(connection, self._actions)
        if not found:
            return 0
        with self._ledger.exclusively(self._lock) as ours:
            if not ours:
                return 0
            for asked in found:
                self._answer(asked)
        return len(found)

    def _answer(self, asked: Asked) -> None:
        try:
            self._require_allowed(asked)
            if asked.action is Action.START:
                self._open(asked)
            else:
                self._ask(asked, _WISHES[asked.action])
        except (LedgerUnavailableError, LedgerNotReadyError):
            raise  # it waits, and is asked again
        except words.KNOWN as error:
            _, reason_code, step = words.of(error)
            self._refuse(asked, reason_code, str(error), step)
        except click.ClickException as error:
            self._refuse(asked, "usage", error.format_message(), "rewrap start --help")
        except msgspec.ValidationError as error:
            self._refuse(asked, "usage", str(error), "rewrap start --help")
        except Exception:  # one request that nobody foresaw must not hold up all others
            logger.exception("request %s", asked.key, extra={"event": "request_failed"})
            why = "it could not be judged; the scheduler's log says why"
            self._refuse(asked, "internal_error", why, "rewrap status")

    def _require_allowed(self, asked: Asked) -> None:
        if not self._desk.settings.flower.actions:
            raise DeskError(
                "[flower] actions = false: the configuration of the scheduler takes nothing from "
                "Flower; nothing was changed",
                exit_code=REFUSED,
                reason_code="actions_off",
                next_command="rewrap --help",
            )
        with self._ledger.begin() as connection:
            age_s = requests.age_s(connection, asked)
        if age_s > _GOOD_FOR_S:
            raise DeskError(
                f"no scheduler looked at it for {age_s:,.0f} s; nothing was changed",
                exit_code=UNREACHABLE,
                reason_code="request_expired",
                next_command="ask again",
            )

    def _open(self, asked: Asked) -> None:
        start = _START.decode(asked.details)
        request: Request = request_of(self._desk, start, asked.requested_by)
        self._require_allowed(asked)  # a key service may have been asked for long
        with self._ledger.begin() as connection:
            campaign_id = campaigns.request(connection, request)
            self._note(connection, asked, campaign_id, State.PLANNED)

    def _ask(self, asked: Asked, wish: Callable[[Connection, Campaign], State]) -> None:
        with self._ledger.begin() as connection:
            campaign = campaigns.get(connection, asked.campaign_id or 0)
            if campaign is None:
                raise no_campaign(asked.campaign_id)
            self._note(connection, asked, campaign.id, wish(connection, campaign))

    def _note(self, connection: Connection, asked: Asked, campaign_id: int, state: State) -> None:
        if not requests.done(connection, asked.key, campaign_id, state):
            connection.rollback()  # another scheduler has answered meanwhile
            return
        logger.info(
            "%s: %s campaign %d: %s",
            plain(asked.requested_by),
            asked.action,
            campaign_id,
            state,
            extra={"event": "request_done", "campaign": campaign_id},
        )

    def _refuse(self, asked: Asked, reason_code: str, reason: str, next_command: str) -> None:
        with self._ledger.begin() as connection:
            requests.refuse(connection, asked.key, reason_code, reason, next_command)
        logger.warning(
            "%s: %s refused: %s",
            plain(asked.requested_by),
            asked.action,
            reason,
            extra={"event": "request_refused"},
        )


def judges(settings: Settings, ledger: Ledger) -> list[Judge]:
    """Return what answers all requests of Flower: what asks no key service waits for none."""
    return [Judge(settings, ledger, {Action.START}), Judge(settings, ledger, set(_WISHES))]
