"""The stage that all sides of a scene play on: one store, one KEK, one PostgreSQL, one Redis."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rich.progress import Progress

from bench.errors import BenchError
from bench.scenes import Scene
from embedded import OpenBao, Postgres, Redis
from embedded.launching import end_with_parent
from keywrap.keys import KeyVersion
from keywrap.layout import RESERVED, Layout
from keywrap.testing.aws_server import AwsServer
from scheduler import staging
from scheduler.staging import Place, Staged

ROOT = Path(__file__).parent.parent
THREADS = 8
BUCKET = "rewrap-bench"

_TMPFS = Path("/dev/shm")  # noqa: S108 - made into a private directory below
_ROOM_BYTES = 1536 * 1024 * 1024
_GRACE_S = 30.0


class Blobs(Protocol):
    """Where the blobs lie, and how every side gets fresh copies of them."""

    def keep(self) -> None:
        """Remember the blobs as they are now."""

    def set(self, blob_ids: Sequence[str], layout: Layout) -> None:
        """Put them back as they were; what a side made is gone."""


class Files:
    """Blobs in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._originals = folder.with_name("originals")

    def keep(self) -> None:
        """Copy the folder."""
        shutil.copytree(self._folder, self._originals)

    def set(self, blob_ids: Sequence[str], layout: Layout) -> None:
        """Put fresh copies of these blobs, and of no others, into the store."""
        # The folder itself and the mark in it stay: a store without them is taken for another.
        for entry in self._folder.iterdir():
            if entry.name != RESERVED.rstrip("/"):
                entry.unlink()
        for blob_id in blob_ids:
            for name in (layout.content_name(blob_id), layout.sidecar_name(blob_id)):
                if (self._originals / name).exists():
                    shutil.copyfile(self._originals / name, self._folder / name)


class Objects:
    """Blobs in the S3 in memory."""

    def __init__(self, server: AwsServer) -> None:
        self._server = server

    def keep(self) -> None:
        """Let the server remember them."""
        self._server.control(snapshot=True)

    def set(self, blob_ids: Sequence[str], layout: Layout) -> None:
        """Let the server put these blobs back, and no others; its mark stays."""
        names = {name(b) for b in blob_ids for name in (layout.content_name, layout.sidecar_name)}
        self._server.control(restore=sorted(names))


@dataclass(frozen=True)
class Stage:
    """Where everything is, and the blobs to start from.

    Attributes:
        directory: private to this run, removed at its end.
        environment: for our processes and those of the naive way; it holds the keys.
        scene: what is played.
        staged: the configuration, and what it opens.
        target: the KEK version to wrap under.
        blobs: where they lie.
        server: the S3 and the KMS in memory.
        pool: threads of the benchmark itself.
    """

    directory: Path
    environment: Mapping[str, str] = field(repr=False)
    scene: Scene
    staged: Staged
    target: KeyVersion
    blobs: Blobs
    server: AwsServer
    pool: Executor

    def make(self, blob_ids: Sequence[str], progress: Progress) -> None:
        """Make the blobs once; every side starts from a copy."""
        made = self.staged.legacy.make(blob_ids, self.pool)
        for _ in progress.track(made, len(blob_ids), description="making blobs"):
            pass
        self.blobs.keep()

    def set(self, blob_ids: Sequence[str]) -> None:
        """Put fresh copies of these blobs, and of no others, into the store."""
        self.blobs.set(blob_ids, self.staged.reader.layout)

    def check(self, blob_ids: Sequence[str], side: str) -> None:
        """Open every blob and compare it with its original.

        Raises:
            BenchError: a blob is not its original, or not under the target.
        """
        staged = self.staged
        wrong = staged.legacy.wrong(blob_ids, staged.keys, self.pool)
        seen = self.pool.map(staged.reader.read, blob_ids)
        left = sum(s.wrapped.key_version != self.target for s in seen)
        if wrong or left:
            raise BenchError(
                f"{side}: of {len(blob_ids)} blobs {len(wrong)} are not their originals and"
                f" {left} are not under {self.target}"
            )

    @contextmanager
    def latency(self) -> Iterator[None]:
        """Let answers wait as the scene says for the length of the block."""
        if not self.scene.latency_ms:
            yield
            return
        self.server.control(latency_ms=dict(self.scene.latency_ms))
        try:
            yield
        finally:
            self.server.control(latency_ms=dict.fromkeys(self.scene.latency_ms, 0.0))

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
def servers(parent: Path) -> Iterator[tuple[OpenBao, dict[str, str]]]:
    """Start OpenBao, PostgreSQL and Redis in a new directory; stop and remove them at the end.

    Yields:
        OpenBao, and the variables that name the others.
    """
    with ExitStack() as stack:
        directory = stack.enter_context(_directory(parent))
        bao = OpenBao.start(directory / "openbao", supervised=True)
        stack.callback(bao.stop)
        # As `rewrap up` starts it: fsync and synchronous_commit are on.
        postgres = Postgres.start(directory / "postgres", supervised=True)
        stack.callback(postgres.stop)
        redis = Redis.start(directory / "redis", supervised=True)
        stack.callback(redis.stop)
        yield (
            bao,
            {
                "REWRAP_LEDGER_URL": postgres.url_of("rewrap"),
                "REWRAP_BROKER_URL": redis.url,
                "NAIVE_DATABASE_URL": postgres.url_of("naive"),
                "NAIVE_BROKER_URL": redis.url.replace("virtual_host=0", "virtual_host=1"),
            },
        )


@contextmanager
def stage(
    scene: Scene, store_parent: Path, bao: OpenBao, urls: Mapping[str, str]
) -> Iterator[Stage]:
    """Set the stage of a scene; remove all of it at the end."""
    with ExitStack() as stack:
        directory = stack.enter_context(_directory(store_parent))
        pool = stack.enter_context(ThreadPoolExecutor(THREADS))
        server = stack.enter_context(staging.aws_server(BUCKET))
        blobs, store, kek = _places(scene, directory, bao, server)
        workers = f"[workers]\nthreads = {scene.threads}\n"
        variables = {**urls, "PYTHONPATH": str(ROOT)}
        staged = staging.stage(directory / "rewrap.toml", store, kek, variables, workers)
        if staged.keys.primary is None:
            raise BenchError("the benchmark's configuration names no primary")
        target = staged.keys.primary.current_version()
        yield Stage(directory, staged.environment, scene, staged, target, blobs, server, pool)


def _places(
    scene: Scene, directory: Path, bao: OpenBao, server: AwsServer
) -> tuple[Blobs, Place, Place]:
    """Choose where the blobs lie and what they move to."""
    credentials = staging.made_up_credentials()
    blobs: Blobs
    if scene.store == "s3":
        blobs, store = Objects(server), staging.bucket(BUCKET, server.address, credentials)
    else:
        store = staging.files(directory / "blobs")
        blobs = Files(directory / "blobs")
    if scene.kek == "aws":
        kek = staging.aws_key(server.address, credentials, threads=scene.kms_threads)
    elif scene.kek == "openbao":
        kek = staging.transit_key(bao, f"kek-{scene.name}")
    else:
        kek = staging.local_key(directory / "kek.json", "bench")
    return blobs, store, kek


@contextmanager
def _directory(parent: Path) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="rewrap-bench-", dir=parent))
    directory.chmod(0o711)  # PostgreSQL's own account must pass through, when we are root
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
