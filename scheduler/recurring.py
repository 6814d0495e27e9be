"""Opening the campaigns of schedules when they are due, beside the ticks: it asks key services.

Times of cron are wall times of a zone. Over daylight saving they go as Debian's cron has it
(library `cronsim`): a time that is left out comes right after the gap, one that comes twice counts
once. What was missed while no scheduler ran is made good by one campaign, and said.
"""

import logging
from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import click
from cronsim import CronSim, CronSimError

from keywrap.config import ConfigError
from keywrap.kms import KmsError
from keywrap.stores import StoreError
from ledger import campaigns, progress, schedules
from ledger.campaigns import Request, RequestRefusedError
from ledger.connection import Ledger, LedgerNotReadyError, LedgerUnavailableError
from ledger.schedules import Schedule
from ledger.states import REWRAPPING, Kind
from scheduler.backing import backs_up
from scheduler.beside import Beside
from scheduler.desk import Desk, DeskError
from scheduler.proofs import Proof, ProveType
from scheduler.proposals import propose
from workers.settings import Settings

logger = logging.getLogger(__name__)

_LOCK = 0x7277_0005
"""Advisory lock: one scheduler opens what is due."""

_FIELDS = 5
_LOOK_EVERY_S = 1.0
_AGAIN_S = 60.0
_MOST_MISSED = 1000


class CronError(ValueError):
    """Something is no time of cron, or never comes."""


def following(cron: str, zone: str, after: datetime) -> datetime:
    """Return the first time of a cron expression after an instant, in UTC.

    Raises:
        CronError: it is no expression of five fields, or that time never comes.
    """
    if len(cron.split()) != _FIELDS:  # the library also takes seconds
        raise CronError(f"{cron!r} is no cron expression: expected five fields")
    try:
        return next(CronSim(cron, after.astimezone(ZoneInfo(zone)))).astimezone(UTC)
    except CronSimError as error:
        raise CronError(f"{cron!r} is no cron expression: {error}") from None
    except StopIteration:
        raise CronError(f"{cron!r} never comes") from None


def missed_until(schedule: Schedule, now: datetime) -> int:
    """Count the times after the one that is due that have gone by as well; at most 1,000."""
    count, at = 0, schedule.next_at or now
    while count < _MOST_MISSED and (at := following(schedule.cron, schedule.zone, at)) <= now:
        count += 1
    return count


def request_of(desk: Desk, schedule: Schedule) -> Request:
    """Return the request for a schedule's campaign, with the KEK's version of now.

    Raises:
        DeskError, ConfigError: the configuration does not allow it.
        KmsError: the KEK's version cannot be read.
    """
    by = f"schedule {schedule.name}"
    if schedule.kind in REWRAPPING:
        proposal = propose(
            desk, schedule.kind, schedule.prefix, schedule.key, proof_of(schedule.prove)
        )
        proposal = replace(
            proposal,
            backs_up=backs_up(desk, escrow=schedule.escrow),
            escrow=schedule.escrow,
            run_window=schedule.run_window,
        )
        return replace(proposal.request(), requested_by=by)
    is_backup = schedule.kind is Kind.BACKUP
    return Request(
        schedule.kind,
        by,
        prefix=schedule.prefix,
        sample_size=schedule.sample_size,
        store=desk.settings.keywrap.store.place,
        backs_up=is_backup and backs_up(desk, escrow=True),
        escrow=schedule.escrow,
        run_window=schedule.run_window,
    )


def proof_of(text: str) -> Proof | None:
    """Read how wraps are proved, as `--prove` has it; None where nothing is said."""
    return ProveType()(text) if text else None


class Recurring(Beside):
    """Opens what is due, beside the ticks.

    Args:
        settings: the settings.
        ledger: the ledger.
    """

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        super().__init__("schedules", _LOOK_EVERY_S)
        self._ledger = ledger
        self._desk = Desk(None)
        self._desk.settings, self._desk.ledger = settings, ledger

    def look(self) -> int:
        """Open what is due; return how many campaigns were opened."""
        with self._ledger.exclusively(_LOCK) as ours:
            if not ours:
                return 0
            with self._ledger.begin() as connection:
                found = schedules.due(connection)
            return sum(self._take_or_say(schedule) for schedule in found)

    def _take_or_say(self, schedule: Schedule) -> bool:
        try:
            return self._take(schedule)
        except (LedgerUnavailableError, LedgerNotReadyError):
            raise
        except Exception:  # one schedule that nobody foresaw must not hold up all others
            logger.exception("schedule %s", schedule.name, extra={"event": "schedule_failed"})
            why = "it could not be opened; the scheduler's log says why"
            with self._ledger.begin() as connection:
                schedules.failed(connection, schedule, _AGAIN_S, "internal_error", why)
            return False

    def _take(self, schedule: Schedule) -> bool:
        with self._ledger.begin() as connection:
            now = progress.now(connection)
            is_running = schedules.is_running(connection, schedule)
        next_at = following(schedule.cron, schedule.zone, now)
        if is_running:
            why = f"campaign {schedule.last_campaign}, of the time before, is not finished"
            self._skip(schedule, next_at, "still_running", why)
            return False
        missed = schedule.missed + missed_until(schedule, now)
        try:
            request = request_of(self._desk, schedule)
            return self._open(schedule, request, next_at, missed)
        except RequestRefusedError as error:
            self._skip(schedule, next_at, error.reason_code, str(error))
        except (KmsError, StoreError, DeskError, ConfigError, click.BadParameter) as error:
            self._fail(schedule, error)
        return False

    def _open(self, schedule: Schedule, request: Request, next_at: datetime, missed: int) -> bool:
        with self._ledger.begin() as connection:
            campaign_id = campaigns.request(connection, request)
            if not schedules.opened(connection, schedule, campaign_id, next_at, missed):
                connection.rollback()  # it was paused, removed or opened meanwhile
                return False
        late = f", {missed} times were missed" if missed else ""
        logger.info(
            "schedule %s: campaign %d (%s)%s",
            schedule.name,
            campaign_id,
            request.kind,
            late,
            extra={"event": "schedule_opened"},
        )
        return True

    def _skip(self, schedule: Schedule, next_at: datetime, reason_code: str, why: str) -> None:
        with self._ledger.begin() as connection:
            if schedules.skipped(connection, schedule, next_at, reason_code, why):
                logger.warning(
                    "schedule %s: skipped: %s",
                    schedule.name,
                    why,
                    extra={"event": "schedule_skipped"},
                )

    def _fail(self, schedule: Schedule, error: Exception) -> None:
        code = str(getattr(error, "reason_code", "configuration"))
        with self._ledger.begin() as connection:
            schedules.failed(connection, schedule, _AGAIN_S, code, str(error))
        if schedule.reason_code != code:  # once, and not each minute
            logger.error(
                "schedule %s: %s; trying again",
                schedule.name,
                error,
                extra={"event": "schedule_failed"},
            )
