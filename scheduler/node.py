"""One node: what `rewrap up` starts, and with which environment."""

import os
import secrets
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from embedded import locks
from embedded.places import free_port, port_is_free, write_private
from embedded.postgres import Postgres
from embedded.redis import Redis
from scheduler.desk import DATABASE, REFUSED, DeskError
from scheduler.supervisor import Server, Service
from workers import secretvariables
from workers.exposition import CannotListenError, next_free
from workers.logs import is_json
from workers.settings import Settings

_ROOT = Path(__file__).parent.parent
_OPERATOR = "operator"


class Node:
    """The processes of one node, and the embedded servers where none is configured.

    Args:
        config: the path of the configuration.
        settings: what it says.
        workers: how many worker processes to start.

    Raises:
        DeskError: another `rewrap up` runs in the same state directory.
        EmbeddedError: an embedded server does not start.
    """

    def __init__(self, config: str, settings: Settings, workers: int) -> None:
        self._state = Path(settings.state_dir)
        self._state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = self._lock_state()
        self.servers: list[Server] = []
        self._owned: list[Postgres | Redis] = []  # whoever started them first may stop them
        ledger, broker = settings.ledger, settings.broker
        if not ledger.url:
            postgres = self._start_postgres()
            ledger = msgspec.structs.replace(ledger, url=postgres.url_of(DATABASE))
            self._owned.append(postgres)
            self.servers.append(self._start_postgres)
        if not broker.url:
            redis = self._start_redis()
            broker = msgspec.structs.replace(broker, url=redis.url)
            self._owned.append(redis)
            self.servers.append(self._start_redis)
        flower = settings.flower
        if flower.port and not port_is_free(flower.port):
            flower = msgspec.structs.replace(flower, port=free_port())
        self.settings = msgspec.structs.replace(
            settings, ledger=ledger, broker=broker, flower=flower
        )
        self.sign_in = os.environ.get("REWRAP_FLOWER_BASIC_AUTH") or self._sign_in()
        self._config = str(Path(config).resolve())
        self._workers = workers
        self.metrics_ports = self._choose_metrics_ports()

    def _choose_metrics_ports(self) -> dict[str, int]:
        """Choose where each process serves its metrics; a port that is taken is not chosen."""
        metrics = self.settings.metrics
        chosen: dict[str, int] = {}
        names = ["scheduler", *_worker_names(self._workers)]
        for name in names:
            first = metrics.port if name == "scheduler" else metrics.of_workers
            if first:
                taken = frozenset(chosen.values())
                with suppress(CannotListenError):  # the process itself says so in its log
                    chosen[name] = next_free(metrics.address, first, taken)
        return chosen

    def _lock_state(self) -> int:
        lock = locks.take(self._state / "up.lock")
        if lock is None:
            raise DeskError(
                f"another `rewrap up` runs in {self._state}; nothing was started",
                exit_code=REFUSED,
                reason_code="already_up",
                next_command="rewrap status",
            )
        return lock

    def _start_postgres(self) -> Postgres:
        return Postgres.start(self._state / "postgres", supervised=True)

    def _start_redis(self) -> Redis:
        return Redis.start(self._state / "redis", supervised=True)

    def _sign_in(self) -> str:
        file = self.sign_in_file
        if not (file.exists() and file.stat().st_size):
            write_private(file, f"{_OPERATOR}:{secrets.token_urlsafe(18)}")
        return file.read_text(encoding="ascii")

    @property
    def sign_in_file(self) -> Path:
        """Where Flower's sign-in stands, if it was made here."""
        return self._state / "flower-sign-in"

    def services(self) -> list[Service]:
        """Return the processes to keep alive, in the order in which they start and end."""
        logs = self._state / "logs"
        logs.mkdir(mode=0o700, exist_ok=True)
        everything = self._environment(os.environ)
        keyless, hookless, flower = environments(everything, self.settings)
        flower |= {"REWRAP_FLOWER_BASIC_AUTH": self.sign_in}

        def service(name: str, command: str, environment: Mapping[str, str]) -> Service:
            argv = [sys.executable, "-m", "scheduler", *command.split()]
            return Service(name, argv, environment, logs / f"{name}.log")

        workers = [
            service(name, f"worker --name {name} --processes 1", self._listening(name, hookless))
            for name in _worker_names(self._workers)
        ]
        scheduler = service("scheduler", "scheduler", self._listening("scheduler", keyless))
        pages = [service("flower", "flower", flower)] if self.settings.flower.port else []
        return [scheduler, *workers, *pages]

    def _listening(self, name: str, environment: Mapping[str, str]) -> dict[str, str]:
        """Say where a process serves its metrics."""
        variable = "REWRAP_METRICS_PORT" if name == "scheduler" else "REWRAP_METRICS_WORKER_PORT"
        port = self.metrics_ports.get(name)
        return {**environment, variable: str(port)} if port else dict(environment)

    def _environment(self, base: Mapping[str, str]) -> dict[str, str]:
        return {
            **base,
            "PYTHONPATH": str(_ROOT),
            "REWRAP_CONFIG": self._config,
            "REWRAP_LEDGER_URL": self.settings.ledger.url,
            "REWRAP_BROKER_URL": self.settings.broker.url,
            "REWRAP_FLOWER_PORT": str(self.settings.flower.port),
            # Their logs are files, which the person reads who sits at this terminal, if one does.
            "REWRAP_LOG_FORMAT": "json" if is_json(self.settings.log) else "text",
        }

    def stop_servers(self) -> None:
        """Stop the embedded servers that this node started."""
        for server in reversed(self._owned):
            server.stop()


def _worker_names(workers: int) -> list[str]:
    return [f"worker-{n}" for n in range(1, workers + 1)]


def environments(
    environment: Mapping[str, str], settings: Settings
) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Return what of an environment the scheduler gets, what workers, and what Flower.

    Only workers open wraps: nobody else gets the keys. Only the scheduler tells webhooks.
    """
    keys, hooks = secretvariables.names(settings), secretvariables.of_webhooks(settings)
    stores = secretvariables.of_stores(settings)

    def without(secret: set[str]) -> dict[str, str]:
        return {name: value for name, value in environment.items() if name not in secret}

    return without(keys), without(hooks), without(keys | hooks | stores)
