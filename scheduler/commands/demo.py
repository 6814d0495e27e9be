"""`rewrap demo`: the whole story on embedded services, as an operator would type it."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from embedded.launching import end_with_parent
from embedded.openbao import OpenBao
from scheduler import staging
from scheduler.desk import REFUSED, UNREACHABLE, USAGE, DeskError
from scheduler.staging import Place
from scheduler.story import Story

_ROOT = Path(__file__).parent.parent.parent
_KEK = "blob-kek"
_UP_WITHIN_S = 60.0
_SAMPLE = 500
_SHORT_WAITS = "\n[retire]\ndrain_s = 2\nsoak_s = 2\n"
"""In earnest these are a quarter of an hour and a day."""


@click.command()
@click.option(
    "--blobs",
    default=5000,
    show_default=True,
    type=click.IntRange(min=1),
    help="How many blobs the old application leaves.",
)
@click.option(
    "--store",
    default="file",
    show_default=True,
    type=click.Choice(["file", "s3"]),
    help="Where the blobs lie: a folder, or S3 (in memory, if no endpoint is given).",
)
@click.option(
    "--s3-endpoint",
    "endpoint",
    default="",
    metavar="URL",
    help="An S3-compatible service; credentials come from AWS_ACCESS_KEY_ID and its secret.",
)
@click.option(
    "--s3-bucket",
    "bucket",
    default="rewrap-demo",
    show_default=True,
    help="The bucket; it must be there. A new prefix in it is used, and left.",
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    metavar="D",
    help="Where to keep it all [default: a temporary directory, removed at the end].",
)
def demo(blobs: int, directory: Path | None, store: str, endpoint: str, bucket: str) -> int:
    """Run the whole story on embedded PostgreSQL, Redis and OpenBao.

    Makes legacy blobs, under keys in the environment and DPAPI's, migrates them to OpenBao Transit
    through Celery workers, rotates the KEK, rewraps again, seals, retires the old version, and
    decrypts every blob. Exits 0 only if every blob is its original.

    Example: rewrap demo --blobs 5000
    """
    if directory is not None and directory.exists() and any(directory.iterdir()):
        raise DeskError(
            f"{directory} is not empty and was left as it is",
            exit_code=REFUSED,
            reason_code="not_empty",
            next_command=f"rewrap demo --dir {directory}-2",
        )
    place = directory or Path(tempfile.mkdtemp(prefix="rewrap-demo-"))
    place.mkdir(parents=True, exist_ok=True)
    try:
        with _store(store, place.resolve(), endpoint, bucket) as lies:
            return _play(place.resolve(), lies, blobs)
    finally:
        if directory is None:
            shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _store(kind: str, place: Path, endpoint: str, bucket: str) -> Iterator[Place]:
    """Say where the blobs lie: in a folder, in S3 in memory, or in a service that is there."""
    if kind == "file":
        yield staging.files(place / "blobs")
    elif endpoint:
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        if missing := [name for name in names if not os.environ.get(name)]:
            raise DeskError(
                f"{' and '.join(missing)} must be set for {endpoint}; nothing was changed",
                exit_code=USAGE,
                reason_code="no_credentials",
            )
        credentials = {name: os.environ[name] for name in names}
        yield staging.bucket(bucket, endpoint, credentials, f"demo-{secrets.token_hex(4)}")
    else:
        with staging.aws_server(bucket) as server:
            click.echo(f"S3 is in memory, at {server.address}")
            yield staging.bucket(bucket, server.address, staging.made_up_credentials())


def _play(place: Path, store: Place, count: int) -> int:
    bao = OpenBao.start(place / "openbao", supervised=True)
    try:
        environment = {"PYTHONPATH": str(_ROOT)}
        kek = staging.transit_key(bao, _KEK)
        kinds = staging.windows(place)
        vault = staging.offline_recipient(place / "backup.key") + _SHORT_WAITS
        config = place / "rewrap.toml"
        staged = staging.stage(config, store, kek, environment, more=vault, kinds=kinds)
        story = Story(
            place, staged.environment, staged.keys, staged.legacy, staged.legacy.ids(count)
        )
        story.make_blobs()
        with _up(story) as url:
            click.echo(url)
            _tell(story)
        return story.summary()
    finally:
        bao.stop()


def _tell(story: Story) -> None:
    story.say("inventory")
    story.say("plan migrate")
    story.say("start migrate --yes --wait")
    story.note("migrate")
    story.check("decrypt all")
    identity = f"--identity {story.directory / 'backup.key'}"
    story.say(f"backup verify {story.newest('migrate')} {identity}")
    old = story.primary()
    story.say("rotate-kek --yes --wait")
    story.note("rotate")
    story.check("decrypt all again")
    story.say(f"seal {story.newest('rotate')} --yes --wait")
    story.say("backup create --wait")
    story.say(f"backup verify {story.newest('backup')} {identity}")
    story.say(f"retire {old} --accept-unopenable --yes")
    story.say(f"verify --sample {min(_SAMPLE, len(story.blob_ids))}")
    story.say("inventory")
    story.check("decrypt all, the old version disabled")
    if story.keys.primary is not None:
        story.check_census(story.keys.primary.current_version())


@contextmanager
def _up(story: Story) -> Iterator[str]:
    log = story.directory / "up.log"
    click.secho("\n$ rewrap up --workers 2 &", bold=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "scheduler", "up", "--workers", "2"],
            env=dict(story.environment),
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=end_with_parent(signal.SIGTERM),  # noqa: PLW1509 - system calls only
        )
    try:
        _wait_until_up(story, process, log)
        yield log.read_text(encoding="utf-8").partition("\n")[0]
    finally:
        process.terminate()
        process.wait()


def _wait_until_up(story: Story, process: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + _UP_WITHIN_S
    while story.ask("healthz --scheduler") is None:
        if process.poll() is not None or time.monotonic() > until:
            raise DeskError(
                f"`rewrap up` did not start: {log.read_text(encoding='utf-8')[-2000:]}",
                exit_code=UNREACHABLE,
                reason_code="not_up",
            )
        time.sleep(0.5)
