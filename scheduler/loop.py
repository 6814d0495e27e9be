"""The scheduler's process: ticks until it is told to stop."""

import logging

from celery import Celery
from kombu.exceptions import OperationalError

from ledger import schema
from ledger.connection import LedgerNotReadyError, LedgerUnavailableError
from ledger.shards import Offer
from scheduler.alerting import Alerting
from scheduler.beside import Beside
from scheduler.dispatch import Dispatcher, Send
from scheduler.headkeeper import HeadKeeper
from scheduler.judge import judges
from scheduler.measuring import Watcher
from scheduler.recurring import Recurring
from scheduler.rules import Rules
from scheduler.stopping import Stop
from tasks.celery_tasks import NAMES
from workers import tracing
from workers.app import make_app
from workers.broker import BrokerUnavailableError
from workers.composition import ledger_of
from workers.settings import Settings

logger = logging.getLogger(__name__)

_AGAIN_S = 2.0
_LOOKING_S = 60.0
"""The longest that a statement of what only looks, for metrics and alerts, may take: a table that
somebody holds is not waited for without end."""


def sender(app: Celery) -> Send:
    """Make what sends the messages of offers; docs/decisions/messages-do-not-expire.md."""

    def send(offer: Offer) -> None:
        try:
            app.send_task(
                NAMES[offer.kind],
                args=(str(offer.shard_id),),
                queue=offer.queue,
                argsrepr=f"campaign {offer.campaign_id} shard {offer.shard_no}",
            )
        except (OperationalError, OSError) as error:
            raise BrokerUnavailableError(str(error)) from error

    return send


def run(settings: Settings) -> None:
    """Apply the migrations that are missing, then tick until SIGTERM or SIGINT.

    Raises:
        ConfigError: no ledger is configured.
        SigningKeyError: the key that signs the head of the audit chain cannot be used.
        LedgerUnavailableError: PostgreSQL does not answer at the start.
    """
    stop = Stop()
    stop.on_signals()
    tracing.configure("scheduler")
    ledger = ledger_of(settings)
    schema.upgrade(ledger)
    app = make_app(settings.broker.url)
    head = HeadKeeper(settings, ledger)
    looking = ledger_of(settings, _LOOKING_S)
    watcher = Watcher(settings, looking, head)
    alerting = Alerting(settings, looking, head)
    # Each in a thread of its own: what they ask may hang, and no tick waits for it.
    recurring, asked = Recurring(settings, ledger), judges(settings, ledger)
    besides: tuple[Beside | Alerting, ...] = (head, recurring, *asked, watcher, alerting)
    for each in besides:
        each.start()
    dispatcher = Dispatcher(ledger, settings.scheduler, sender(app), Rules.of(settings))
    logger.info("scheduler ready", extra={"event": "scheduler_ready"})
    while not stop.is_set():
        pause_s = settings.scheduler.tick_s
        try:
            with watcher.tick():
                moved = dispatcher.tick()
            if moved:
                pause_s = settings.scheduler.tick_s / 5  # something moved: look again soon
        except (LedgerUnavailableError, LedgerNotReadyError) as error:
            logger.warning("ledger: %s; trying again", error, extra={"event": "ledger_away"})
            pause_s = _AGAIN_S
        stop.wait(pause_s)
    for each in reversed(besides):
        each.stop()
    looking.close()
    ledger.close()
    tracing.shut_down()
