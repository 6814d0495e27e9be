"""`rewrap up`, `scheduler`, `worker` and `flower`: the processes."""

import logging
import os
import sys
from pathlib import Path

import click

from keywrap.config import open_keys, open_reader
from ledger.queues import urgent
from scheduler import loop
from scheduler.desk import UNREACHABLE, USAGE, Desk, DeskError
from scheduler.node import Node
from scheduler.stopping import Stop
from scheduler.supervisor import supervise
from workers import broker, logs
from workers.composition import compose, strange_queues
from workers.settings import DEFAULT_PATH, Settings, load

_FLOWER_SETTINGS = Path(sys.modules["workers.celery_settings"].__file__ or "").with_name(
    "flower_settings.py"
)

logger = logging.getLogger(__name__)


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
    stop = Stop()
    stop.on_signals()
    desk = _in_directory(desk, directory)
    settings = load(desk.config)  # without what the desk takes from an `up` that runs
    config = desk.config or os.environ.get("REWRAP_CONFIG") or DEFAULT_PATH
    # A wrong key or store is told here, not in a log, and before anything is started or made.
    open_keys(settings.keywrap, os.environ, queues=settings.workers.queues)
    open_reader(settings.keywrap)
    logs.configure(settings, os.environ, "up")
    node = Node(config, settings, workers or os.cpu_count() or 1)
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
    loop.run(_served(desk, "scheduler"))


@click.command()
@click.option("--name", default="worker", show_default=True, help="What Flower calls it.")
@click.option("--processes", type=click.IntRange(min=1), help="[default: one a core]")
@click.option(
    "--queues",
    metavar="Q,Q",
    help="Take shards of these queues only.  [default: `queues` in [workers]]",
)
@click.pass_obj
def worker(desk: Desk, name: str, processes: int | None, queues: str | None) -> None:
    """Run a Celery worker. SIGTERM hands its shards back and ends it.

    Blobs whose key is on certain hosts only wait in the queue that the key's table names, for a
    worker there that takes it.

    Examples: rewrap worker --processes 4
    rewrap worker --queues rewrap,dpapi-hostA
    """
    if queues is not None:
        os.environ["REWRAP_WORKERS_QUEUES"] = queues  # for the processes of its pool, too
    settings = _served(desk, "worker")
    compose(settings, lambda: False)  # wrong keys or stores are told now, not by the first task
    # Not refused: shards of a campaign may still wait in a queue that was renamed since.
    for queue in strange_queues(settings):
        logger.warning(
            "no table of [keys] names the queue %r: is it mistyped?",
            queue,
            extra={"event": "queue_unknown"},
        )
    processes = processes or settings.workers.processes or os.cpu_count() or 1
    configured = settings.workers.queues
    served = ",".join([*map(urgent, configured), *configured])
    logger.info("worker %s serves %s", name, served, extra={"event": "worker_starting"})
    _exec(
        settings,
        ["worker", f"--concurrency={processes}", f"--queues={served}", "--loglevel=INFO"],
        ["--without-gossip", "--without-mingle", f"--hostname={name}@%h"],
    )


@click.command()
@click.pass_obj
def flower(desk: Desk) -> None:
    """Run Flower, read-only and behind a sign-in (REWRAP_FLOWER_BASIC_AUTH=user:password)."""
    settings = _served(desk, "flower")
    if ":" not in os.environ.get("REWRAP_FLOWER_BASIC_AUTH", ""):
        raise DeskError(
            "Flower does not start without a sign-in",
            exit_code=USAGE,
            reason_code="no_sign_in",
            next_command="set REWRAP_FLOWER_BASIC_AUTH=user:password, then: rewrap flower",
        )
    listen = settings.flower
    place = f"http://{listen.address}:{listen.port}"
    logger.info("Flower at %s", place, extra={"event": "flower_starting"})
    _exec(
        settings,
        ["flower", f"--conf={_FLOWER_SETTINGS}"],
        [f"--address={listen.address}", f"--port={listen.port}"],
    )


def _served(desk: Desk, service: str) -> Settings:
    """Return the settings of a process that needs both ledger and broker, and let it log."""
    settings = desk.settings
    logs.configure(settings, os.environ, service)
    for name, url in (("ledger", settings.ledger.url), ("broker", settings.broker.url)):
        if not url:
            raise DeskError(
                f"no {name} is configured: set [{name}] url or REWRAP_{name.upper()}_URL",
                exit_code=UNREACHABLE,
                reason_code=f"no_{name}",
                next_command="rewrap up (it brings its own)",
            )
    try:
        if warning := broker.greet(settings.broker.url):
            logger.warning(warning, extra={"event": "broker_warning"})
    except broker.BrokerUnavailableError as error:
        raise DeskError(
            f"the broker does not answer: {error}",
            exit_code=UNREACHABLE,
            reason_code="broker_unavailable",
            next_command="check [broker] url or REWRAP_BROKER_URL, then run it again",
        ) from error
    return settings


def _exec(settings: Settings, command: list[str], options: list[str]) -> None:
    """Become Celery: signals and exit codes are then its own."""
    os.environ["REWRAP_BROKER_URL"] = settings.broker.url
    os.environ["REWRAP_LEDGER_URL"] = settings.ledger.url
    # Celery drops the current directory from the path after it has loaded the app.
    os.environ["PYTHONPATH"] = str(_FLOWER_SETTINGS.parent.parent)
    # Quiet: Celery's banner is no log line.
    argv = [sys.executable, "-m", "workers", "--quiet", "--app=workers.app", *command, *options]
    os.execv(sys.executable, argv)  # noqa: S606 - our own command line
