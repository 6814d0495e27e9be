"""The metrics of one worker: made and served by its main process, written by its pool."""

import atexit
import logging
import os
import shutil
import tempfile
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.multiprocess import MultiProcessCollector

from keywrap.keys import KeyVersion
from tasks.metering import UNMETERED, Meter
from workers.exposition import serve
from workers.meters import WorkerMeter, take_slot, use_files
from workers.settings import Settings

logger = logging.getLogger(__name__)

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"

_meter: WorkerMeter | None = None
_server: WSGIServer | None = None


def begin(settings: Settings) -> None:
    """Make and serve the metrics of this worker; call it in its main process, before the fork.

    Args:
        settings: the settings.
    """
    global _meter, _server
    if not settings.metrics.of_workers:
        return
    try:
        folder = tempfile.mkdtemp(prefix="rewrap-metrics-")
    except OSError as error:
        text = "no metrics: their folder cannot be made: %s"
        logger.error(text, error, extra={"event": "metrics_off"})  # noqa: TRY400
        return
    atexit.register(_remove, folder, os.getpid())
    os.environ[_FOLDER] = folder
    use_files()
    _meter = WorkerMeter()
    _meter.expect(sorted({KeyVersion(uri).provider for uri in settings.keywrap.keys.uris()}))
    registry = CollectorRegistry()
    MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]
    ProcessCollector(registry=registry)
    _server = serve(settings.metrics.address, settings.metrics.of_workers, registry)


def join(slot: int) -> Meter:
    """Return what counts in a process of the pool; call it after the fork.

    Args:
        slot: its place in the pool.
    """
    global _server
    if _meter is None:
        return UNMETERED
    if _server is not None:
        _server.socket.close()  # the port is the main process's alone, and free when that dies
        _server = None
    take_slot(f"slot{slot}")
    try:
        _meter.open_files()
    except OSError as error:
        text = "no metrics of this process: %s"
        logger.error(text, error, extra={"event": "metrics_off"})  # noqa: TRY400
        return UNMETERED
    return _meter


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # and not a process of the pool that ends
        shutil.rmtree(folder, ignore_errors=True)
