"""`rewrap up`, `scheduler`, `worker` and `flower`: the processes."""

import logging
import os
import sys
from pathlib import Path

import click

from keywrap.config import open_keys, open_reader
from ledger.queues import urgent
from scheduler.desk import UNREACHABLE, USAGE, Desk, DeskError
from scheduler.stopping import Stop
from workers import broker, logs
from workers.settings import DEFAULT_PATH, Settings, load

# Celery, the clients of Redis and HTTP: each command imports what its process needs of them.

_ROOT = Path(__file__).resolve().parent.parent.parent
_FLOWER_CONF = _ROOT / "scheduler" / "pages" / "flower_conf.py"
_METRICS_PORT = click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Serve /metrics there; 0: nowhere.  [default: as [metrics] says]",
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
    from scheduler.node import Node  # noqa: PLC0415 - see above
    from scheduler.supervisor import supervise  # noqa: PLC0415

    stop = Stop()
    stop.on_signals()
    desk = _in_directory(desk, directory)
    settings = load(desk.config)  # without what the desk takes from an `up` that runs
    config = desk.config or os.environ.get("REWRAP_CONFIG") or DEFAULT_PATH
    # A wrong key or store is told here, not in a log, and before anything is started or made.
    open_keys(settings.keywrap, os.environ, queues=settings.workers.queues)
    open_reader(settings.keywrap)
    logs.configure(settings, os.environ, "up")
    if settings.log.format != "json":
        speak(logging.getLogger("embedded"))
    node = Node(config, settings, workers or os.cpu_count() or 1)
    flower = node.settings.flower
    if flower.port:
        prefix = f"/{flower.url_prefix.strip('/')}" if flower.url_prefix else ""
        click.echo(
            f"Flower: http://{flower.address}:{flower.port}{prefix}  sign-in: {node.sign_in_file}"
        )
    for name, port in node.metrics_ports.items():
        click.echo(f"metrics of {name}: http://{settings.metrics.address}:{port}/metrics")
    click.echo(f"logs: {Path(settings.state_dir) / 'logs'}")
    click.echo("next: rewrap inventory   (in another terminal; Ctrl-C here stops everything)")
    try:
        supervise(node.servers, node.services(), stop)
    finally:
        node.stop_servers()
    click.echo("stopped")


class _Speech(logging.Handler):
    """Says a sentence to whoever typed the command, instead of logging it."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(record.getMessage())


def speak(of: logging.Logger) -> None:
    """Let what a logger tells be plain sentences, wherever standard error goes.

    What bringing a server up changes on this machine is news for the person who does it.
    """
    of.handlers[:] = [_Speech()]
    of.propagate = False


def _in_directory(desk: Desk, directory: str | None) -> Desk:
    if directory is None:
        return desk
    os.environ["REWRAP_STATE_DIR"] = str(Path(directory).resolve())
    return Desk(desk.config)


@click.command()
@_METRICS_PORT
@click.pass_obj
def scheduler(desk: Desk, metrics_port: int | None) -> None:
    """Run the scheduler: it applies schema migrations, then hands shards out.

    Any number may run; one ticks at a time. SIGTERM ends it after the tick. Exit code 3: PostgreSQL
    does not answer at the start.

    Example: rewrap scheduler --metrics-port 9310
    """
    _listen(desk, "REWRAP_METRICS_PORT", metrics_port)
    settings = _served(desk, "scheduler")
    from scheduler import loop  # noqa: PLC0415 - see above

    loop.run(settings)


def _listen(desk: Desk, variable: str, port: int | None) -> None:
    """Take the port of the command line for that of the configuration."""
    if port is None:
        return
    os.environ[variable] = str(port)
    if not port:
        return
    from workers.exposition import CannotListenError, require_free  # noqa: PLC0415 - see above

    try:
        require_free(desk.settings.metrics.address, port)
    except CannotListenError as error:
        raise DeskError(
            str(error),
            exit_code=USAGE,
            reason_code="cannot_listen",
            next_command=f"rewrap {click.get_current_context().info_name} --metrics-port PORT",
        ) from error


@click.command()
@click.option("--name", default="worker", show_default=True, help="What Flower calls it.")
@click.option("--processes", type=click.IntRange(min=1), help="[default: one a core]")
@click.option(
    "--queues",
    metavar="Q,Q",
    help="Take shards of these queues only.  [default: `queues` in [workers]]",
)
@_METRICS_PORT
@click.pass_obj
def worker(
    desk: Desk, name: str, processes: int | None, queues: str | None, metrics_port: int | None
) -> None:
    """Run a Celery worker. SIGTERM hands its shards back and ends it.

    Blobs whose key is on certain hosts only wait in the queue that the key's table names, for a
    worker there that takes it.

    Examples: rewrap worker --processes 4
    rewrap worker --queues rewrap,dpapi-hostA
    """
    if queues is not None:
        os.environ["REWRAP_WORKERS_QUEUES"] = queues  # for the processes of its pool, too
    _listen(desk, "REWRAP_METRICS_WORKER_PORT", metrics_port)
    settings = _served(desk, "worker")
    from workers.composition import compose, strange_queues  # noqa: PLC0415 - see above

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
    """Run Flower with its Campaigns pages, behind a sign-in.

    REWRAP_FLOWER_BASIC_AUTH=user:password is one; FLOWER_AUTH with FLOWER_AUTH_PROVIDER, as
    Flower's documentation has them, is another. Exit code 2: there is none.

    Example: REWRAP_FLOWER_BASIC_AUTH=user:password rewrap flower
    """
    settings = _served(desk, "flower")
    has_oauth = os.environ.get("FLOWER_AUTH") and os.environ.get("FLOWER_AUTH_PROVIDER")
    if ":" not in os.environ.get("REWRAP_FLOWER_BASIC_AUTH", "") and not has_oauth:
        raise DeskError(
            "Flower does not start without a sign-in",
            exit_code=USAGE,
            reason_code="no_sign_in",
            next_command="set REWRAP_FLOWER_BASIC_AUTH=user:password, then: rewrap flower",
        )
    listen = settings.flower
    if not listen.port:
        raise DeskError(
            "Flower does not start: `port = 0` in [flower] says that none is wanted",
            exit_code=USAGE,
            reason_code="no_port",
            next_command="REWRAP_FLOWER_PORT=5555 rewrap flower",
        )
    place = f"http://{listen.address}:{listen.port}"
    logger.info("Flower at %s", place, extra={"event": "flower_starting"})
    _exec(
        settings,
        ["flower", f"--conf={_FLOWER_CONF}"],
        [
            f"--address={listen.address}",
            f"--port={listen.port}",
            *([f"--url_prefix={listen.url_prefix}"] if listen.url_prefix else []),
        ],
    )


def _served(desk: Desk, service: str) -> Settings:
    """Return the settings of a process that needs both ledger and broker, and let it log."""
    settings = desk.settings
    if desk.config:  # for what reads the configuration in the process that this one becomes
        os.environ["REWRAP_CONFIG"] = str(Path(desk.config).resolve())
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
    os.environ["PYTHONPATH"] = str(_ROOT)
    # Quiet: Celery's banner is no log line.
    argv = [sys.executable, "-m", "workers", "--quiet", "--app=workers.app", *command, *options]
    os.execv(sys.executable, argv)  # noqa: S606 - our own command line
