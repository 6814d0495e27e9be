"""The metrics of one worker: made and served by its main process, written by its pool."""

import atexit
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
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
_ROOM_BYTES = 256 * 1024
"""Above what a file comes to with every label that there is."""

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
    providers = sorted({KeyVersion(uri).provider for uri in settings.keywrap.keys.uris()})
    try:
        folder = _make_folder()
        _meter = _made(providers)
    except OSError as error:
        text = "no metrics: their files cannot be made: %s"
        logger.error(text, error, extra={"event": "metrics_off"})  # noqa: TRY400
        return
    registry = CollectorRegistry()
    MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]
    ProcessCollector(registry=registry)
    _server = serve(settings.metrics.address, settings.metrics.of_workers, registry)


def _make_folder() -> str:
    folder = tempfile.mkdtemp(prefix="rewrap-metrics-")
    atexit.register(_remove, folder, os.getpid())
    os.environ[_FOLDER] = folder
    return folder


def _made(providers: list[str]) -> WorkerMeter:
    use_files()
    meter = WorkerMeter()
    meter.expect(providers)
    return meter


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
    name = f"slot{slot}"
    take_slot(name)
    try:
        _meter.open_files()
        _reserve(Path(os.environ[_FOLDER]).glob(f"*_{name}.db"))
    except OSError as error:
        text = "no metrics of this process: %s"
        logger.error(text, error, extra={"event": "metrics_off"})  # noqa: TRY400
        return UNMETERED
    return _meter


def _reserve(files: Iterable[Path]) -> None:
    """Reserve the room that files will need: one that is full later would kill whoever counts.

    Raises:
        OSError: there is not so much room.
    """
    if not hasattr(os, "posix_fallocate"):  # as on macOS
        return
    for file in files:
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, _ROOM_BYTES)


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # and not a process of the pool that ends
        shutil.rmtree(folder, ignore_errors=True)
