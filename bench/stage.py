"""The stage that all sides play on: one store, one OpenBao, one PostgreSQL, one Redis."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import Progress

from embedded import OpenBao, Postgres, Redis
from embedded.launching import end_with_parent
from keywrap.config import open_keys, open_reader
from keywrap.keyring import KeyRing
from keywrap.keys import KeyVersion
from keywrap.layout import RESERVED
from keywrap.providers.env import EnvKeyProvider
from keywrap.reading import SidecarReader
from keywrap.testing.legacy import LegacyBlobs
from scheduler.story import CONFIGURATION
from workers.settings import Settings, load

ROOT = Path(__file__).parent.parent
KEK = "bench-kek"
THREADS = 8

_TMPFS = Path("/dev/shm")  # noqa: S108 - made into a private directory below
_ROOM_BYTES = 1536 * 1024 * 1024
_GRACE_S = 30.0


class BenchError(Exception):
    """The benchmark cannot go on, or a side did not do what it is measured for."""


@dataclass(frozen=True)
class Stage:
    """Where everything is, and the blobs to start from.

    Attributes:
        directory: private to this run, removed at its end.
        environment: for our processes and those of the naive way; it holds the keys.
        settings: what the configuration says.
        reader: reads the store's sidecars.
        keys: the listed KEKs.
        target: the KEK version to wrap under.
        legacy: makes the blobs, and checks them.
        pool: threads of the benchmark itself.
    """

    directory: Path
    environment: Mapping[str, str] = field(repr=False)
    settings: Settings
    reader: SidecarReader
    keys: KeyRing
    target: KeyVersion
    legacy: LegacyBlobs
    pool: Executor

    @property
    def _store(self) -> Path:
        return self.directory / "blobs"

    @property
    def _originals(self) -> Path:
        return self.directory / "originals"

    def make(self, blob_ids: Sequence[str], progress: Progress) -> None:
        """Make the blobs once; every side starts from a copy."""
        made = self.legacy.make(blob_ids, self.pool)
        for _ in progress.track(made, len(blob_ids), description="making blobs"):
            pass
        shutil.copytree(self._store, self._originals)

    def set(self, blob_ids: Sequence[str]) -> None:
        """Put fresh copies of these blobs, and of no others, into the store."""
        # The folder itself and the mark in it stay: a store without them is taken for another.
        for entry in self._store.iterdir():
            if entry.name != RESERVED.rstrip("/"):
                entry.unlink()
        layout = self.reader.layout
        for blob_id in blob_ids:
            for name in (layout.content_name(blob_id), layout.sidecar_name(blob_id)):
                if (self._originals / name).exists():
                    shutil.copyfile(self._originals / name, self._store / name)

    def check(self, blob_ids: Sequence[str], side: str) -> None:
        """Open every blob and compare it with its original.

        Raises:
            BenchError: a blob is not its original, or not under the target.
        """
        wrong = self.legacy.wrong(blob_ids, self.keys, self.pool)
        seen = self.pool.map(self.reader.read, blob_ids)
        left = sum(not s.wrapped.key_version.satisfies(self.target) for s in seen)
        if wrong or left:
            raise BenchError(
                f"{side}: of {len(blob_ids)} blobs {len(wrong)} are not their originals and"
                f" {left} are not under {self.target}"
            )

    @contextmanager
    def process(self, name: str, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
        """Keep `python -m …` running for the length of the block; its log is `NAME.log`."""
        with (self.directory / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches the benchmark only
                preexec_fn=end_with_parent(signal.SIGTERM),  # noqa: PLW1509 - system calls only
            )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def log_of(self, name: str) -> str:
        """Return the end of a process's log."""
        return (self.directory / f"{name}.log").read_text(encoding="utf-8")[-2000:]


def place_of_store() -> Path:
    """Choose where the blobs lie: in memory, so that no disk hides what the designs cost."""
    if os.access(_TMPFS, os.W_OK) and shutil.disk_usage(_TMPFS).free >= _ROOM_BYTES:
        return _TMPFS
    return place_of_ledger()


def place_of_ledger() -> Path:
    """Choose where PostgreSQL keeps its data: where its fsync means something."""
    return Path(tempfile.gettempdir())


def kind_of(folder: Path) -> str:
    """Name the file system that a folder is on, as far as this system tells."""
    deepest, kind = -1, "file system unknown"
    mounts = Path("/proc/self/mounts")
    for line in mounts.read_text(encoding="utf-8").splitlines() if mounts.exists() else ():
        _, mounted_on, found, *_ = line.split()
        if folder.resolve().is_relative_to(mounted_on) and len(mounted_on) > deepest:
            deepest, kind = len(mounted_on), found
    return kind


@contextmanager
def stage(store_parent: Path, ledger_parent: Path) -> Iterator[Stage]:
    """Start the servers in new directories; stop them and remove all of it at the end."""
    with (
        _directory(store_parent) as directory,
        _directory(ledger_parent) as served,
        _servers(served) as (bao, urls),
        ThreadPoolExecutor(THREADS) as pool,
    ):
        yield _staged(directory, bao, urls, pool)


@contextmanager
def _directory(parent: Path) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="rewrap-bench-", dir=parent))
    directory.chmod(0o711)  # PostgreSQL's own account must pass through, when we are root
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _servers(directory: Path) -> Iterator[tuple[OpenBao, dict[str, str]]]:
    started: list[OpenBao | Postgres | Redis] = []
    try:
        bao = OpenBao.start(directory / "openbao", supervised=True)
        started.append(bao)
        # As `rewrap up` starts it: fsync and synchronous_commit are on.
        postgres = Postgres.start(directory / "postgres", supervised=True)
        started.append(postgres)
        redis = Redis.start(directory / "redis", supervised=True)
        started.append(redis)
        bao.create_transit_key(KEK)
        yield (
            bao,
            {
                "REWRAP_LEDGER_URL": postgres.url_of("rewrap"),
                "REWRAP_BROKER_URL": redis.url,
                "NAIVE_DATABASE_URL": postgres.url_of("naive"),
                "NAIVE_BROKER_URL": redis.url.replace("virtual_host=0", "virtual_host=1"),
            },
        )
    finally:
        for server in reversed(started):
            server.stop()


def _staged(directory: Path, bao: OpenBao, urls: Mapping[str, str], pool: Executor) -> Stage:
    (directory / "blobs").mkdir()
    config = directory / "rewrap.toml"
    store = (directory / "blobs").as_uri()
    config.write_text(
        CONFIGURATION.format(store=store, kek=KEK, address=bao.address), encoding="utf-8"
    )
    environment = {
        **os.environ,
        **urls,
        "PYTHONPATH": str(ROOT),
        "REWRAP_CONFIG": str(config),
        "BLOB_KEY": secrets.token_hex(32),
        "BLOB_WRAP_KEY": secrets.token_hex(32),
        "BAO_TOKEN": bao.token,
    }
    settings = load(str(config), environment)
    keys, reader = open_keys(settings.keywrap, environment), open_reader(settings.keywrap)
    direct, wrapping = keys.provider("env:BLOB_KEY"), keys.provider("env:BLOB_WRAP_KEY")
    if not (
        isinstance(direct, EnvKeyProvider) and isinstance(wrapping, EnvKeyProvider) and keys.primary
    ):
        raise BenchError("the benchmark's configuration is not what it was written to be")
    legacy = LegacyBlobs(reader, direct, wrapping, seed=secrets.token_hex(8))
    target = keys.primary.current_version()
    return Stage(directory, environment, settings, reader, keys, target, legacy, pool)
