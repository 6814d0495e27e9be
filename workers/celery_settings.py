"""The settings of Celery, each for a reason that was measured.

Postgres leases drive the work and the broker carries hints, so a message that is lost, late or
delivered twice costs nothing but time. That decides most of what follows.
"""

from kombu.utils.scheduling import round_robin_cycle

from ledger.queues import QUEUE, is_urgent


class UrgentFirst(round_robin_cycle):
    """The order in which a worker looks into its queues: urgent ones first, the others in turn."""

    def consume(self, n: int) -> list[str]:
        """Return the first `n` queues to look into."""
        first: list[str] = super().consume(n)  # type: ignore[no-untyped-call]
        return sorted(first, key=lambda queue: not is_urgent(queue))


SETTINGS: dict[str, object] = {
    # JSON only: a pickle in a message runs code.
    "accept_content": ["json"],
    "task_serializer": "json",
    "result_serializer": "json",
    "event_serializer": "json",
    # No result backend: outcomes are in the ledger, and nothing waits for a message.
    "task_ignore_result": True,
    # Early acknowledgement: the lease brings a shard back, not the broker. A quick redelivery
    # would meet a live lease and be dropped anyway.
    "task_acks_late": False,
    "worker_prefetch_multiplier": 1,
    "task_default_queue": QUEUE,
    "task_create_missing_queues": True,
    # The scheduler repeats an offer by itself.
    "task_publish_retry": False,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_transport_options": {
        # Urgent queues first; the others in turn.
        "queue_order_strategy": "workers.celery_settings:UrgentFirst",
        "visibility_timeout": 600,
        "socket_timeout": 10,
        "socket_connect_timeout": 3,
        "socket_keepalive": True,
        "health_check_interval": 25,
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
    },
    # For Flower.
    "worker_send_task_events": True,
    "task_send_sent_event": False,
    "task_track_started": True,
    # A new process now and then, between tasks: a leak or a hang does not last.
    "worker_max_tasks_per_child": 500,
    "worker_max_memory_per_child": 500_000,  # kB
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
    "worker_enable_remote_control": True,
}
