"""The scheduler's metrics: its ticks, and what a thread beside them reads of ledger and broker.

A scrape reads nothing: it gets what was read last. So it costs the ledger the same whether nobody
asks, or ten do, and it answers while PostgreSQL is away.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ledger import findings, measures
from ledger.connection import (
    Ledger,
    LedgerNotReadyError,
    LedgerSlowError,
    LedgerUnavailableError,
)
from scheduler import status
from scheduler.beside import Beside
from scheduler.brokerview import BrokerView
from scheduler.chainwatch import ChainWatch
from scheduler.gauges import Census, Seen, Snapshot
from scheduler.headkeeper import HeadKeeper
from workers.exposition import serve
from workers.settings import Settings

logger = logging.getLogger(__name__)

_EVERY_S = 5.0
_MOST_S = 60.0
_SHARE = 0.1
"""Of the time at most so much is spent on reading for metrics: with many shards, less often."""

_CENSUS_S = 3600.0
"""It is read once for each inventory, and reads all of it."""

_MOST_CAMPAIGNS = 50
_TICK_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)


class Watcher(Beside, Collector):
    """Makes and serves the metrics of a scheduler.

    Args:
        settings: the settings; where they name no port it does nothing.
        ledger: the ledger.
        head: signs the head of the audit chain.
    """

    def __init__(self, settings: Settings, ledger: Ledger, head: HeadKeeper) -> None:
        super().__init__("metrics")
        self._settings = settings
        self._ledger = ledger
        self._head = head
        self._broker = BrokerView(settings)
        self._chain = ChainWatch(ledger)
        self._moved: dict[int, tuple[object, float]] = {}
        self._census: tuple[int, Census] | None = None
        self._snapshot: list[Metric] = []
        self._ledger_is_up = False
        self._is_broken = False
        self.registry = CollectorRegistry()
        self._tick_s = Histogram(
            "rewrap_scheduler_tick_seconds",
            "How long a tick took.",
            registry=self.registry,
            buckets=_TICK_S,
        )
        self._ticked_at = Gauge(
            "rewrap_scheduler_last_tick_timestamp_seconds",
            "When this scheduler ticked last, or found that another one ticks.",
            registry=self.registry,
        )
        self._read_s = Gauge(
            "rewrap_ledger_read_seconds",
            "How long the last reading of the ledger for these metrics took.",
            registry=self.registry,
        )
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    @contextmanager
    def tick(self) -> Iterator[None]:
        """Time one tick; only one that comes to its end counts."""
        began = time.perf_counter()
        yield
        self._tick_s.observe(time.perf_counter() - began)
        self._ticked_at.set_to_current_time()

    def start(self) -> None:
        """Start serving."""
        metrics = self._settings.metrics
        if metrics.port:
            # Series that tell nothing.
            disable_created_metrics()  # type: ignore[no-untyped-call]
            serve(metrics.address, metrics.port, self.registry)
            super().start()

    def collect(self) -> Iterator[Metric]:
        """Yield what was read last."""
        yield GaugeMetricFamily(
            "rewrap_ledger_up",
            "1 where the ledger was read when it was tried last; if not, the rest is old.",
            value=float(self._ledger_is_up),
        )
        yield from self._snapshot
        yield from self._head_families()

    def _head_families(self) -> list[GaugeMetricFamily]:
        trouble = GaugeMetricFamily(
            "rewrap_audit_head_trouble",
            "1 where the head of the audit chain cannot be signed, by the reason.",
            labels=["reason"],
        )
        if self._head.trouble_code:
            trouble.add_metric([self._head.trouble_code], 1)
        signed = GaugeMetricFamily(
            "rewrap_audit_head_signed_timestamp_seconds",
            "When this scheduler last signed the head of the audit chain, or found it signed.",
            labels=[],
        )
        if self._head.signed_at:
            signed.add_metric([], self._head.signed_at)
        return [trouble, signed]

    def _keep(self) -> None:
        pause_s = 0.0
        while not self._ended.wait(pause_s):
            began = time.monotonic()
            self.look()
            took_s = time.monotonic() - began
            self._read_s.set(took_s)
            pause_s = min(max(_EVERY_S, took_s / _SHARE), _MOST_S)

    def look(self) -> None:
        """Read ledger and broker once; what cannot be read keeps its last value, and is said."""
        try:
            self._snapshot = [*self._read().families(), *self._broker.families()]
            self._ledger_is_up, self._is_broken = True, False
        except LedgerSlowError as error:
            if self._ledger_is_up:
                logger.warning("metrics: %s", error, extra={"event": "ledger_slow"})
            self._ledger_is_up = False
        except (LedgerUnavailableError, LedgerNotReadyError):
            self._ledger_is_up = False  # the ticks say why
        except Exception:
            if not self._is_broken:  # said once: it is tried again every few seconds
                text = "metrics: the ledger could not be read"
                logger.exception(text, extra={"event": "metrics_failed"})
            self._ledger_is_up, self._is_broken = False, True

    def _read(self) -> Snapshot:
        with self._ledger.begin() as connection:
            ids = measures.open_ids(connection)
            trail = measures.trail(connection)
            waiting = measures.waiting(connection)
            newest = measures.newest_full_inventory(connection, self._settings.keywrap.store.place)
        census = self._read_census(*newest) if newest else None
        campaigns = [seen for i in ids[:_MOST_CAMPAIGNS] if (seen := self._read_campaign(i))]
        self._moved = {i: moved for i, moved in self._moved.items() if i in ids}
        return Snapshot(campaigns, len(ids), waiting, trail, self._chain.look(), census)

    def _read_campaign(self, campaign_id: int) -> Seen | None:
        found = status.read(
            self._ledger,
            campaign_id,
            keeps_previous=self._settings.keywrap.store.keep_previous,
            windows=self._settings.windows,
        )
        if found is None or found.campaign.is_finished:
            return None
        done = found.progress
        now = (found.campaign.state, done.decided, done.scanned, frozenset(done.shards.items()))
        known = self._moved.get(campaign_id)
        if known is None:
            with self._ledger.begin() as connection:
                at = measures.last_moved(connection, campaign_id) or found.campaign.created_at
            moved_at = at.timestamp()
        elif known[0] == now:
            moved_at = known[1]
        else:
            moved_at = time.time()
        self._moved[campaign_id] = now, moved_at
        return Seen(found, moved_at)

    def _read_census(self, number: int, finished_at: datetime) -> Census:
        """Count an inventory's findings: once, since that reads all of them."""
        if self._census is None or self._census[0] != number:
            with self._ledger.reading(_CENSUS_S) as connection:
                lines = findings.census(connection, number)
            self._census = number, Census(finished_at, lines)
        return self._census[1]
