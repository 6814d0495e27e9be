"""The tick: takes back what lapsed, advances every campaign, and hands shards out.

Any number of schedulers may run: an advisory lock of PostgreSQL lets one tick at a time. All is
decided from the ledger. The broker gets hints after the commit, so wiping it loses no work.
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from structlog.contextvars import bound_contextvars

from ledger import (
    audit,
    blocking,
    campaigns,
    exhaustion,
    listed,
    progress,
    queues,
    rotations,
    shards,
)
from ledger.campaigns import Campaign
from ledger.connection import Connection, Ledger, LedgerBusyError
from ledger.shards import Offer
from ledger.states import REWRAPPING, ShardKind, State
from scheduler import windows
from scheduler.advance import advance
from scheduler.rules import DEFAULT_RULES, Rules
from tasks import traces
from workers.broker import BrokerUnavailableError
from workers.settings import Scheduler
from workers.windows import ALWAYS

logger = logging.getLogger(__name__)

TICK_LOCK = 0x7277_0003

_OFFERS_IN: dict[State, tuple[ShardKind, ...]] = {
    # Not what is to be rewrapped: it waits for the backup and the canary.
    State.INVENTORY: (ShardKind.INVENTORY, ShardKind.VERIFY),
    State.BACKUP: (ShardKind.BACKUP, ShardKind.MANIFEST),
    State.CANARY: (ShardKind.VERIFY,),
    State.RUNNING: tuple(ShardKind),
    # What a fresh scan brought back waits for RUNNING: another fresh scan must come after it.
    State.VERIFYING: (ShardKind.STRAGGLERS, ShardKind.VERIFY),
}

Send = Callable[[Offer], None]
"""Sends the message of one offer. Raises `BrokerUnavailableError` where it cannot."""


class Dispatcher:
    """Ticks.

    Args:
        ledger: the ledger.
        settings: how to hand shards out.
        send: sends the message of one offer.
        rules: what decides about campaigns.
    """

    def __init__(
        self, ledger: Ledger, settings: Scheduler, send: Send, rules: Rules = DEFAULT_RULES
    ) -> None:
        self._ledger = ledger
        self._settings = settings
        self._send = send
        self._rules = replace(rules, scan_parts=settings.scan_parts)
        self._broker_is_away = False
        self._told: dict[int, tuple[State, str | None, float]] = {}

    def tick(self) -> bool:
        """Do all that is due now.

        Returns:
            Whether a campaign stepped or shards went out, so that another tick is worth while.

        Raises:
            LedgerUnavailableError: PostgreSQL does not answer; the next tick goes on.
        """
        with self._ledger.exclusively(TICK_LOCK) as ours:
            return self._tick() if ours else False

    def _tick(self) -> bool:
        with self._ledger.begin() as connection:
            progress.beat(connection)
            shards.take_back(connection)
            for campaign_id in exhaustion.give_up(connection, self._settings.max_attempts):
                campaigns.step(
                    connection,
                    campaign_id,
                    State.STOPPED,
                    reason_code="scan_keeps_failing",
                    reason="the workers of a scan died or failed again and again; see their log",
                )
            rotations.close_finished(connection)
            opened = campaigns.open_campaigns(connection)
        with self._ledger.begin() as connection:
            audit.chain_new(connection)
        with suppress(LedgerBusyError), self._ledger.begin() as connection:
            listed.drop_finished(connection)
        stepped, offers = False, []
        for campaign in opened:
            with bound_contextvars(campaign=campaign.id):
                with self._ledger.begin() as connection:  # one's trouble is not another's
                    stepped |= advance(connection, campaign, self._rules)
                with self._ledger.begin() as connection:
                    offers += self._offer(connection, campaign)
        self._publish(offers)
        return stepped or bool(offers)

    def _offer(self, connection: Connection, campaign: Campaign) -> list[Offer]:
        now = campaigns.get(connection, campaign.id)
        if now is None:
            return []
        self._tell(now)
        if not self._is_open(connection, now):
            return []
        window, state = self._settings.window, now.state
        if state is State.RUNNING and now.kind in REWRAPPING:
            done = progress.finished(connection, now.id, ShardKind.REWRAP)
            window = min(window, 2 * max(1, done))  # the ramp: twice as many after each round
        if state is State.BLOCKED:
            # One shard of each queue tries: a queue may be without hosts. Progress unblocks it.
            window = int(blocking.probe_due(connection, now.id))
            state = now.resume_state or state
        kinds = _OFFERS_IN.get(state, ())
        if window == 0 or not kinds:
            return []
        offers = shards.offer(connection, now.id, window, self._settings.claim_s, kinds)
        if not now.urgent:
            return offers
        return [replace(offer, queue=queues.urgent(offer.queue)) for offer in offers]

    def _tell(self, now: Campaign) -> None:
        """Log a campaign's state where it is another one than before."""
        told, seen_at = self._told.get(now.id), time.time()
        if told and told[:2] == (now.state, now.reason_code):
            return
        if told:
            traces.step(now, told[0], told[2], seen_at)
        self._told[now.id] = now.state, now.reason_code, seen_at
        if now.is_finished:
            del self._told[now.id]  # no tick looks at it again
            traces.finished(now)
        logger.info(
            "campaign %d (%s) is %s%s",
            now.id,
            now.kind,
            now.state,
            f": {now.reason_code}: {now.reason}" if now.reason_code else "",
            extra={"event": "campaign_state"},
        )

    def _is_open(self, connection: Connection, campaign: Campaign) -> bool:
        """Whether a campaign may run now, by the database's clock.

        A shard that is in work when a window closes is worked to its end.
        """
        calendar = windows.of(campaign, self._rules.windows)
        return calendar is ALWAYS or calendar.is_open(progress.now(connection))

    def _publish(self, offers: Sequence[Offer]) -> None:
        try:
            for offer in offers:
                self._send(offer)
        except BrokerUnavailableError as error:
            if not self._broker_is_away:
                logger.warning(
                    "broker: %s; offers lapse and are made again",
                    error,
                    extra={"event": "broker_away"},
                )
            self._broker_is_away = True
        else:
            if offers and self._broker_is_away:
                logger.info("broker: back", extra={"event": "broker_back"})
                self._broker_is_away = False
