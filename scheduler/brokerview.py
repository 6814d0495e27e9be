"""What the broker says, as gauges for Prometheus: messages that wait, and the pace of KEKs."""

from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from redis import Redis
from redis.exceptions import RedisError

from ledger.queues import urgent
from scheduler.gauges import gauge
from workers import pacing
from workers.composition import queues_of
from workers.settings import Settings


class BrokerView:
    """Reads the broker, where it is a Redis that can be asked.

    Args:
        settings: the settings.
    """

    def __init__(self, settings: Settings) -> None:
        self._pace = settings.pace
        self._queues = [
            name for queue in sorted(queues_of(settings)) for name in (queue, urgent(queue))
        ]
        try:
            self._client: Redis | None = pacing.connect(settings.broker.url)
        except ValueError:
            self._client = None  # whatever it is, it is no Redis

    def families(self) -> list[Metric]:
        """Read it now; where it does not answer only that is said."""
        up = gauge("broker_up", "1 where the broker answered when it was asked last.")
        queues = gauge("queue_messages", "Messages that no worker has taken yet.", "queue")
        allowed = gauge(
            "pace_allowed_per_second", "Requests a second that a KEK is asked for at most.", "key"
        )
        used = gauge("pace_used_per_second", "Requests a second that a KEK was asked for.", "key")
        throttled = CounterMetricFamily(
            "rewrap_pace_throttled",
            "Answers of a KEK's service that asked for fewer requests.",
            labels=["key"],
        )
        if self._client is None:
            return []
        try:
            for queue in self._queues:
                queues.add_metric([queue], float(self._client.llen(queue)))
            for key in self._pace.keys:
                read = pacing.read(self._client, self._pace, key, None)
                allowed.add_metric([key], read["allowed_per_s"] or 0.0)
                used.add_metric([key], read["used_per_s"])
                throttled.add_metric([key], read["throttled"])
        except (RedisError, OSError):
            up.add_metric([], 0)
            return [up]
        up.add_metric([], 1)
        return [up, queues, allowed, used, throttled]
