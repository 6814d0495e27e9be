"""Raising alerts and telling webhooks, beside the ticks: a webhook that hangs holds up none.

One thread looks at the ledger; each webhook has a thread of its own that sends what waits for it.
A message is written to the ledger in the transaction that raises its alert, and is sent until it is
taken: at least once, and twice only where a process dies between the answer and noting it, or the
answer is lost.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress

from redis.exceptions import RedisError

from keywrap.config import ConfigError
from ledger import alerts
from ledger.alerts import Condition, Delivery
from ledger.connection import (
    Connection,
    Ledger,
    LedgerNotReadyError,
    LedgerSlowError,
    LedgerUnavailableError,
)
from scheduler import conditions
from scheduler.alert_messages import BUILDERS
from scheduler.beside import STOP_WITHIN_S
from scheduler.chainwatch import ChainWatch
from scheduler.headkeeper import HeadKeeper
from scheduler.webhooks import Answer, Poster
from workers import pacing
from workers.alerts_table import AlertKind, Severity, Webhook
from workers.settings import Settings

logger = logging.getLogger(__name__)

_LOCK = 0x7277_0015
"""Advisory lock: one scheduler looks at a time."""

_LOOK_EVERY_S = 10.0
_LOOK_LONGEST_S = 60.0
_SEND_EVERY_S = 1.0
_QUIET_S = 60.0
_HOLD_S = 60.0
_GIVEN_UP_AFTER_S = 86_400.0
_THROTTLED_FOR_S = 300.0

_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.CRITICAL}


class Alerting:
    """Raises alerts, and tells webhooks.

    Args:
        settings: the settings.
        ledger: the ledger.
        head: what signs where the audit chain ends.
        quiet_s: seconds for which a condition must be gone to count as ended.
    """

    def __init__(
        self, settings: Settings, ledger: Ledger, head: HeadKeeper, quiet_s: float = _QUIET_S
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._quiet_s = quiet_s
        self._witness = Witness(settings, ledger, head)
        self._ended = threading.Event()
        hooks = settings.alerts.webhooks
        self._senders = {name: Sender(settings, ledger, name) for name in hooks}
        self._threads = [self._thread("alerts", self.look, _LOOK_EVERY_S, _LOOK_LONGEST_S)]
        self._threads += [
            self._thread(f"webhook-{name}", sender.send_all, _SEND_EVERY_S)
            for name, sender in self._senders.items()
        ]

    def start(self) -> None:
        """Start looking and sending; a webhook that cannot be used is told now."""
        for name, hook in self._settings.alerts.webhooks.items():
            try:
                hook.url()
            except ConfigError as error:
                logger.error(  # noqa: TRY400 - a person's to mend
                    "webhook %s: %s", name, error, extra={"event": "webhook_unusable"}
                )
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop; a webhook that hangs is not waited for."""
        self._ended.set()
        until = time.monotonic() + STOP_WITHIN_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _thread(
        self, name: str, turn: Callable[[], object], every_s: float, longest_s: float = 0.0
    ) -> threading.Thread:
        def keep() -> None:
            pause_s = every_s
            while not self._ended.wait(pause_s):
                began = time.monotonic()
                pause_s = every_s
                try:
                    turn()
                    # Of a ledger that is slow to read no more than a tenth of the time is taken.
                    eased_s = 9 * (time.monotonic() - began)
                    pause_s = max(every_s, min(eased_s, longest_s))
                except LedgerSlowError as error:
                    logger.warning("%s: %s", name, error, extra={"event": "ledger_slow"})
                except (LedgerUnavailableError, LedgerNotReadyError):
                    continue  # the ticks say it
                except Exception:
                    # Whatever it is: who hears no alert takes it that all is well.
                    logger.exception("%s: trying again", name, extra={"event": "alerts_failed"})

        return threading.Thread(target=keep, name=name, daemon=True)

    def look(self) -> bool:
        """Raise and resolve what is due; return whether this scheduler was the one to look."""
        with self._ledger.exclusively(_LOCK) as ours:
            if not ours:
                return False
            found = conditions.found(self._ledger, self._settings, self._witness)
            with self._ledger.begin() as connection:
                raised, resolved = alerts.settle(
                    connection, found, self._receivers, self._quiet_s, self._witness.unknown()
                )
        for alert in raised:
            says = alert.condition
            level = _LEVELS[says.severity]
            logger.log(level, "alert: %s", says.text, extra={"event": "alert_raised"})
        for alert in resolved:
            logger.info("resolved: %s", alert.condition.text, extra={"event": "alert_resolved"})
        return True

    def _receivers(self, condition: Condition) -> Collection[str]:
        kind, severity = AlertKind(condition.kind), Severity(condition.severity)
        hooks = self._settings.alerts.webhooks
        return [name for name, hook in hooks.items() if hook.wants(kind, severity)]

    def send(self) -> int:
        """Send what is due now, to all webhooks; return how many messages were tried."""
        return sum(sender.send_all() for sender in self._senders.values())


class Sender:
    """Sends what waits for one webhook.

    Args:
        settings: the settings.
        ledger: the ledger.
        name: the webhook.
    """

    def __init__(self, settings: Settings, ledger: Ledger, name: str) -> None:
        self._hook = settings.alerts.webhooks[name]
        self._store = settings.keywrap.store.url
        self._ledger = ledger
        self._name = name
        self._poster = Poster()

    def send_all(self) -> int:
        """Send what is due now; return how many messages were tried."""
        count = 0
        while True:
            with self._ledger.begin() as connection:
                due = alerts.take(connection, self._name, _HOLD_S)
            if due is None:
                return count
            count += 1
            message = BUILDERS[self._hook.format](due.alert, due.event, self._store)
            answer = deliver(self._poster, self._hook, message, f"{due.alert.id}-{due.event}")
            with self._ledger.begin() as connection:
                self._note(connection, due, answer)

    def _note(self, connection: Connection, due: Delivery, answer: Answer) -> None:
        if answer.is_delivered or due.age_s > _GIVEN_UP_AFTER_S:
            alerts.end(connection, due, answer.says, is_delivered=answer.is_delivered)
        else:
            alerts.again(connection, due, answer.says, answer.pause_s(due.attempts))
        if not answer.is_delivered:
            logger.error(
                "webhook %s: attempt %d to tell of alert %d: %s",
                self._name,
                due.attempts,
                due.alert.id,
                answer.says,
                extra={"event": "alert_not_delivered"},
            )


def deliver(
    poster: Poster, hook: Webhook, message: Mapping[str, object], message_id: str
) -> Answer:
    """Post a message to a webhook; that its URL cannot be read is an answer, too."""
    try:
        url = hook.url()
    except ConfigError as error:
        return Answer(is_delivered=False, says=str(error))
    return poster.post(url, message, message_id)


class Witness:
    """What is not in the ledger's rows, or takes too long to read each time.

    Args:
        settings: which KEKs are paced, and where the broker is.
        ledger: the ledger, whose audit chain is looked through, some entries at a time.
        head: what signs where that chain ends.
    """

    def __init__(self, settings: Settings, ledger: Ledger, head: HeadKeeper) -> None:
        self._settings = settings
        self._head = head
        self._counts: dict[str, int] = {}
        self._lately: dict[str, tuple[float, int]] = {}
        self._chain = ChainWatch(ledger)
        self._knows_chain = False

    def throttled(self) -> Mapping[str, int]:
        """Return how often key services have throttled in the last minutes, by KEK."""
        url, pace = self._settings.broker.url, self._settings.pace
        now = time.monotonic()
        if url and pace.keys:
            with suppress(RedisError, OSError, ValueError), pacing.connect(url) as client:
                for key in pace.keys:
                    count = int(pacing.read(client, pace, key, None)["throttled"])
                    # What was counted before this process began, or in a Redis wiped since, is old.
                    new = count - self._counts.get(key, count)
                    self._counts[key] = count
                    if new > 0:
                        self._lately[key] = now, new
        return {key: new for key, (at, new) in self._lately.items() if now - at < _THROTTLED_FOR_S}

    def broken(self) -> str:
        """Look at some more entries of the audit chain; say what is wrong with it, if anything."""
        self._knows_chain = self._chain.look() is not None
        return self._head.refused or self._chain.first

    def unknown(self) -> Collection[str]:
        """Return the keys of conditions of which is not known yet whether they last."""
        return () if self._knows_chain else (AlertKind.AUDIT_BROKEN,)
