"""The Celery app, and the life of a worker process."""

import logging
import os
from multiprocessing.sharedctypes import RawValue
from typing import Any

from billiard import current_process
from celery import Celery
from celery.apps import worker as celery_worker
from celery.signals import (
    setup_logging,
    task_postrun,
    task_prerun,
    worker_init,
    worker_process_init,
    worker_process_shutdown,
    worker_shutdown,
    worker_shutting_down,
)
from celery.worker.control import inspect_command
from structlog.contextvars import bind_contextvars, clear_contextvars

from tasks import runtime
from workers import counting, fingerprints, logs, tracing
from workers.celery_settings import SETTINGS
from workers.composition import compose
from workers.settings import load

logger = logging.getLogger(__name__)

# Shared with the pool's processes, which are forked later. Raw: a process that is killed while it
# reads can then leave no lock behind.
_stopping = RawValue("b", 0)
_fingerprints: dict[str, str] = {}


def make_app(broker_url: str) -> Celery:
    """Make the app.

    Args:
        broker_url: where the broker is, as kombu takes it.
    """
    celery = Celery("rewrap", broker=broker_url, include=["tasks.celery_tasks"])
    celery.conf.update(SETTINGS)
    return celery


app = make_app(os.environ.get("REWRAP_BROKER_URL", ""))


@worker_init.connect
def _count(**_: Any) -> None:  # noqa: ANN401
    _log()  # Celery sets logging up later
    celery_worker.safe_say = _say_nothing
    settings = load()
    _fingerprints.update(fingerprints.of(settings.keywrap))
    counting.begin(settings)


@inspect_command(name=fingerprints.COMMAND)
def _tell_fingerprints(_: object) -> dict[str, str]:
    return _fingerprints


def _say_nothing(*_: object) -> None:
    """Stand in for what Celery writes at a signal, past its log: lines that are no JSON."""


@worker_shutdown.connect
def _note_end(**_: Any) -> None:  # noqa: ANN401
    logger.info("worker ends", extra={"event": "worker_ending"})


@worker_process_init.connect
def _begin(**_: Any) -> None:  # noqa: ANN401 - as Celery calls it
    tracing.configure("worker")
    meter = counting.join(current_process().index)
    runtime.install(lambda: compose(load(), lambda: bool(_stopping.value), meter=meter))


@worker_process_shutdown.connect
def _end(**_: Any) -> None:  # noqa: ANN401
    tracing.shut_down()


@worker_shutting_down.connect
def _hand_shards_back(**_: Any) -> None:  # noqa: ANN401
    _stopping.value = 1


@setup_logging.connect
def _log(**_: Any) -> None:  # noqa: ANN401
    logs.configure(load(), os.environ, "worker")


@task_prerun.connect
def _bind(task_id: str, **_: Any) -> None:  # noqa: ANN401
    clear_contextvars()
    bind_contextvars(task=task_id)


@task_postrun.connect
def _unbind(**_: Any) -> None:  # noqa: ANN401 - after Celery has logged how the task ended
    clear_contextvars()
