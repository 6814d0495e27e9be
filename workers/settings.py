"""The settings of the service: `rewrap.toml`, and the environment over it.

Secrets come from the environment or from files, never from the TOML. No environment variable
changes a rule of safety: what keys are listed, what is taken for legacy, what is proved.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from keywrap.backups.bundle import BackupError, require_recipient
from keywrap.config import TABLES, ConfigError, KeywrapConfig, read_file
from keywrap.sweeping import MIN_GRACE_S
from keywrap.tables.store import StoreConfig, check_store
from ledger.queues import QUEUE
from workers.alerts_table import Alerts, read_alerts
from workers.approvals_table import Approvals, read_approvals
from workers.audit_table import Audit, read_audit
from workers.log_table import Log
from workers.metrics_table import Metrics
from workers.pace_table import Pace, read_pace
from workers.windows import Windows, read_windows

DEFAULT_PATH = "rewrap.toml"
_STATE_DIR = ".rewrap-state"

Seconds = Annotated[float, Meta(gt=0, le=3600)]
QueueName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}\Z")]
"""As the tables of keys name queues. On a command line commas part them."""


class Postgres(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the ledger is.

    Attributes:
        url: `postgresql://user:password@host/database`; empty: the embedded PostgreSQL of
            `rewrap up`.
    """

    url: str = ""


class Broker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the broker is.

    Attributes:
        url: `redis://` or `rediss://`; empty: the embedded Redis of `rewrap up`.
    """

    url: str = ""


class Workers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a worker works.

    Attributes:
        processes: processes of one `rewrap worker`; 0 for one a core.
        threads: threads for store requests in each process.
        lease_s: length of a lease, in seconds: what a worker that dies costs at most.
        batch: blobs that go through the steps at once.
        queues: the queues whose shards it takes: those of the hosts that hold certain keys, such
            as DPAPI's, and the default one, `rewrap`, for everything else.
    """

    processes: Annotated[int, Meta(ge=0, le=256)] = 0
    threads: Annotated[int, Meta(ge=1, le=512)] = 4
    lease_s: Annotated[float, Meta(ge=1, le=3600)] = 30.0
    batch: Annotated[int, Meta(ge=1, le=10_000)] = 500
    queues: Annotated[tuple[QueueName, ...], Meta(min_length=1, max_length=100)] = (QUEUE,)


class Scheduler(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the scheduler hands shards out.

    Attributes:
        tick_s: seconds between two ticks in which nothing happened.
        window: most shards of a campaign that are offered or in work at once.
        claim_s: seconds after which an offer that nobody took lapses.
        max_attempts: how often a shard's worker may die or fail before it is given up.
        scan_parts: parts that the store is listed in, by as many workers at once.
    """

    tick_s: Seconds = 0.2
    window: Annotated[int, Meta(ge=1, le=10_000)] = 8
    claim_s: Seconds = 10.0
    max_attempts: Annotated[int, Meta(ge=1, le=1000)] = 10
    scan_parts: Annotated[int, Meta(ge=1, le=1024)] = 4


class Gates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a campaign stops by itself. No environment variable changes these.

    Attributes:
        canary: random blobs that go through every step but the write before the first write, and
            are opened; 0 bad of 459 shows under 1% bad with 99% confidence.
        after: blobs that must be decided before a share of them counts.
        verify_queue: the queue of the tasks that prove and verify. One of its own is served by
            workers whose credentials may only open: what they say does not hang on the workers
            that made the wraps.
        quarantined_percent: the largest share of blobs that may be quarantined.
        failed_percent: the largest share that may fail.
        conflict_percent: the largest share that writers may take from it.
    """

    canary: Annotated[int, Meta(ge=0, le=100_000)] = 500
    after: Annotated[int, Meta(ge=1, le=1_000_000)] = 100
    verify_queue: QueueName = QUEUE
    quarantined_percent: Annotated[float, Meta(ge=0, le=100)] = 10.0
    failed_percent: Annotated[float, Meta(ge=0, le=100)] = 10.0
    conflict_percent: Annotated[float, Meta(ge=0, le=100)] = 50.0


class Backup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where wraps are backed up before they are replaced. No environment variable changes these.

    Attributes:
        recipients: the age recipients (`age1…`) that can open a backup; their identities are kept
            offline, and never on a machine of this service.
        required: whether nothing is moved without a backup.
        store: the place, shared by all workers, as in `[store]`; None: the folder `backups` in
            `state_dir`.
    """

    recipients: tuple[str, ...] = ()
    required: bool = True
    store: StoreConfig | None = None


class Retire(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long `rewrap retire` waits. No environment variable changes these.

    Attributes:
        drain_s: after a version is disabled, until whatever was on its way has come to rest:
            longer than a lease, than any request, and than applications cache data keys.
        soak_s: how long it stays disabled under watch before it counts as retired.
        backup_days: how fresh the verified backup must be that replaces older ones.
    """

    drain_s: Annotated[float, Meta(ge=0, le=86_400)] = 900.0
    soak_s: Annotated[float, Meta(ge=0, le=7_776_000)] = 86_400.0
    backup_days: Annotated[int, Meta(ge=1, le=365)] = 7


class Reencrypt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What becomes of old contents. No environment variable changes these.

    Attributes:
        sweep: whether `rewrap sweep` may remove them at all; workers ask their own configuration.
        grace_s: how long they stay, in seconds, after whatever took their place was written.
    """

    sweep: bool = False
    grace_s: Annotated[float, Meta(ge=MIN_GRACE_S, le=31_536_000)] = 604_800.0


class Certificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who signs certificates; only where `rewrap certificate` is typed.

    Attributes:
        private_key_file: the file that signs, an absolute path; `rewrap certificate-key` makes it.
    """

    private_key_file: str = ""


DEFAULT_GATES = Gates()


class Flower(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where Flower listens. Its sign-in comes from `REWRAP_FLOWER_BASIC_AUTH` (user:password).

    Attributes:
        address: on which address.
        port: on which port; 0: `rewrap up` starts none.
        url_prefix: the path that it is reached under, behind a proxy; empty: none.
        actions: whether campaigns may be started, paused, resumed and cancelled from its pages. No
            environment variable changes this.
    """

    address: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 5555
    url_prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]*(/[A-Za-z0-9_-]+)*\Z")] = ""
    actions: bool = False


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings.

    Attributes:
        state_dir: where the embedded services keep their data; relative to the TOML's folder.
    """

    keywrap: KeywrapConfig
    state_dir: str = _STATE_DIR
    ledger: Postgres = Postgres()
    broker: Broker = Broker()
    workers: Workers = Workers()
    scheduler: Scheduler = Scheduler()
    flower: Flower = Flower()
    audit: Audit = Audit()
    gates: Gates = DEFAULT_GATES
    backup: Backup = Backup()
    retire: Retire = Retire()
    reencrypt: Reencrypt = Reencrypt()
    certificate: Certificate = Certificate()
    approvals: Approvals = Approvals()
    windows: Windows = Windows()
    pace: Pace = Pace()
    metrics: Metrics = Metrics()
    log: Log = Log()
    alerts: Alerts = Alerts()


_Section = TypeVar("_Section", bound=msgspec.Struct)


def load(path: str | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings.

    Args:
        path: the TOML file; None for `REWRAP_CONFIG` or `rewrap.toml`.
        environ: the environment that overrides it.

    Returns:
        The settings, checked.

    Raises:
        ConfigError: there is no such file, it is not TOML, or a value in it is wrong.
    """
    file = Path(path or environ.get("REWRAP_CONFIG") or DEFAULT_PATH)
    table = read_file(file)
    state_dir = environ.get("REWRAP_STATE_DIR") or table.pop("state_dir", _STATE_DIR)
    table.pop("state_dir", None)
    if not isinstance(state_dir, str):
        raise ConfigError("state_dir", "expected a path")
    state_dir = str(file.resolve().parent / state_dir)
    keywrap = KeywrapConfig.from_table({name: table.pop(name) for name in TABLES if name in table})
    settings = Settings(
        keywrap=keywrap,
        state_dir=state_dir,
        ledger=_section("ledger", Postgres, table, environ),
        broker=_section("broker", Broker, table, environ),
        workers=_section("workers", Workers, table, environ),
        scheduler=_section("scheduler", Scheduler, table, environ),
        flower=_section("flower", Flower, table, {**environ, "REWRAP_FLOWER_ACTIONS": None}),
        audit=read_audit(table.pop("audit", {}), environ, file.resolve().parent, state_dir),
        gates=_section("gates", Gates, table, {}),
        backup=_backup(table),
        retire=_section("retire", Retire, table, {}),
        reencrypt=_section("reencrypt", Reencrypt, table, {}),
        certificate=_certificate(table),
        approvals=read_approvals(table.pop("approvals", {})),
        windows=read_windows(table.pop("windows", {})),
        pace=read_pace(table.pop("pace", {}), keywrap),
        metrics=_section("metrics", Metrics, table, environ),
        log=_section("log", Log, table, environ),
        alerts=read_alerts(table.pop("alerts", {}), file.resolve().parent),
    )
    for name in table:
        raise ConfigError(f"[{name}]", f"{file} has a section that is not known")
    return settings


def _section(
    name: str, kind: type[_Section], tables: dict[str, object], environ: Mapping[str, str | None]
) -> _Section:
    table = tables.pop(name, {})
    if not isinstance(table, dict):
        raise ConfigError(f"[{name}]", "expected a table")
    overrides = {
        field.name: _items(text) if isinstance(field.default, tuple) else text
        for field in msgspec.structs.fields(kind)
        if (text := environ.get(f"REWRAP_{name}_{field.name}".upper())) is not None
    }
    try:
        # Variables are text, so a number in one may be written as text; in the TOML it may not.
        msgspec.convert(table, kind)
        return msgspec.convert({**table, **overrides}, kind, strict=False)
    except msgspec.ValidationError as error:
        from_environment = f" (with {', '.join(overrides)} from REWRAP_…)" if overrides else ""
        raise ConfigError(f"[{name}]{from_environment}", str(error)) from None


def _certificate(tables: dict[str, object]) -> Certificate:
    certificate = _section("certificate", Certificate, tables, {})
    file = certificate.private_key_file
    if file and (not Path(file).is_absolute() or "\0" in file):
        raise ConfigError(
            "[certificate] private_key_file",
            "a relative path would mean another file in every folder",
            next_command='private_key_file = "/etc/rewrap/certificate.key"',
        )
    return certificate


def _backup(tables: dict[str, object]) -> Backup:
    backup = _section("backup", Backup, tables, {})
    for recipient in backup.recipients:
        try:
            require_recipient(recipient)
        except BackupError as error:
            raise ConfigError(
                "[backup] recipients", str(error), next_command=error.next_command
            ) from None
    if backup.store is not None:
        check_store(backup.store)
    return backup


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",")]
