"""`rewrap up`, `scheduler`, `worker` and `flower`: the processes."""

import logging
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

import click

from scheduler import loop
from scheduler.desk import UNREACHABLE, USAGE, Desk, DeskError
from scheduler.node import Node
from scheduler.supervisor import supervise
from workers.celery_settings import QUEUE
from workers.composition import compose
from workers.settings import DEFAULT_PATH, Settings, load

_FLOWER_SETTINGS = Path(sys.modules["workers.celery_settings"].__file__ or "").with_name(
    "flower_settings.py"
)
_LOG = "%(asctime)s %(levelname)s %(message)s"


@click.command()
@click.option("--workers", type=click.IntRange(min=1), default=None, help="Worker processes.")
@click.option("--dir", "directory", metavar="D", help="Where the embedded services keep data.")
@click.pass_obj
def up(desk: Desk, workers: int | None, directory: str | None) -> None:
    """Run everything on this node: scheduler, workers and Flower.

    PostgreSQL and Redis are embedded where the configuration names none. A process that dies is
    started again. Ctrl-C stops all of it cleanly; `rewrap up` goes on where it stopped.

    Example: rewrap up --workers 2
    """
    stop = threading.Event()

    def ask_to_stop(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)
    logging.basicConfig(level=logging.INFO, format=_LOG, stream=sys.stderr)
    desk = _in_directory(desk, directory)
    settings = load(desk.config)  # without what the desk takes from an `up` that runs
    config = desk.config or os.environ.get("REWRAP_CONFIG") or DEFAULT_PATH
    node = Node(config, settings, workers or os.cpu_count() or 1)
    compose(node.settings, lambda: False)  # a wrong key or store is told here, not in a log
    flower = node.settings.flower
    click.echo(f"Flower: http://{flower.address}:{flower.port}  sign-in: {node.sign_in_file}")
    click.echo(f"logs: {Path(settings.state_dir) / 'logs'}")
    click.echo("next: rewrap inventory   (in another terminal; Ctrl-C here stops everything)")
    try:
        supervise(node.servers, node.services(), stop)
    finally:
        node.stop_servers()
    click.echo("stopped")


def _in_directory(desk: Desk, directory: str | None) -> Desk:
    if directory is None:
        return desk
    os.environ["REWRAP_STATE_DIR"] = str(Path(directory).resolve())
    return Desk(desk.config)


@click.command()
@click.pass_obj
def scheduler(desk: Desk) -> None:
    """Run the scheduler: it applies schema migrations, then hands shards out.

    Any number may run; one ticks at a time.
    """
    logging.basicConfig(level=logging.INFO, format=_LOG, stream=sys.stderr)
    loop.run(_served(desk))


@click.command()
@click.option("--name", default="worker", show_default=True, help="What Flower calls it.")
@click.pass_obj
def worker(desk: Desk, name: str) -> None:
    """Run a Celery worker. SIGTERM hands its shards back and ends it."""
    settings = _served(desk)
    compose(settings, lambda: False)  # wrong keys or stores are told now, not by the first task
    processes = settings.workers.processes or 1
    _exec(
        settings,
        ["worker", f"--concurrency={processes}", f"--queues={QUEUE}", "--loglevel=INFO"],
        ["--without-gossip", "--without-mingle", f"--hostname={name}@%h"],
    )


@click.command()
@click.pass_obj
def flower(desk: Desk) -> None:
    """Run Flower, read-only and behind a sign-in (REWRAP_FLOWER_BASIC_AUTH=user:password)."""
    settings = _served(desk)
    if ":" not in os.environ.get("REWRAP_FLOWER_BASIC_AUTH", ""):
        raise DeskError(
            "Flower does not start without a sign-in",
            exit_code=USAGE,
            reason_code="no_sign_in",
            next_command="set REWRAP_FLOWER_BASIC_AUTH=user:password, then: rewrap flower",
        )
    listen = settings.flower
    _exec(
        settings,
        ["flower", f"--conf={_FLOWER_SETTINGS}"],
        [f"--address={listen.address}", f"--port={listen.port}"],
    )


def _served(desk: Desk) -> Settings:
    """Return the settings of a process that needs both ledger and broker."""
    settings = desk.settings
    for name, section in (("ledger", settings.ledger), ("broker", settings.broker)):
        if not section.url:
            raise DeskError(
                f"no {name} is configured: set [{name}] url or REWRAP_{name.upper()}_URL",
                exit_code=UNREACHABLE,
                reason_code=f"no_{name}",
                next_command="rewrap up (it brings its own)",
            )
    return settings


def _exec(settings: Settings, command: list[str], options: list[str]) -> None:
    """Become Celery: signals and exit codes are then its own."""
    os.environ["REWRAP_BROKER_URL"] = settings.broker.url
    os.environ["REWRAP_LEDGER_URL"] = settings.ledger.url
    # Celery drops the current directory from the path after it has loaded the app.
    os.environ["PYTHONPATH"] = str(_FLOWER_SETTINGS.parent.parent)
    argv = [sys.executable, "-m", "celery", "--app=workers.app", *command, *options]
    os.execv(sys.executable, argv)  # noqa: S606 - our own command line
