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
from keywrap.config import open_keys, open_reader
from keywrap.providers.env import EnvKeyProvider
from keywrap.testing.legacy import LegacyBlobs
from scheduler.desk import REFUSED, UNREACHABLE, DeskError
from scheduler.story import CONFIGURATION, Story
from workers.settings import load

_ROOT = Path(__file__).parent.parent.parent
_KEK = "blob-kek"
_UP_WITHIN_S = 60.0
_SAMPLE = 500


@click.command()
@click.option("--blobs", default=5000, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    metavar="D",
    help="Where to keep it all [default: a temporary directory, removed at the end].",
)
def demo(blobs: int, directory: Path | None) -> int:
    """Run the whole story on embedded PostgreSQL, Redis and OpenBao.

    Makes legacy blobs, migrates them to OpenBao Transit through Celery workers, rotates the KEK,
    rewraps again, and decrypts every blob. Exits 0 only if every blob is its original.

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
        return _play(place.resolve(), blobs)
    finally:
        if directory is None:
            shutil.rmtree(place, ignore_errors=True)


def _play(place: Path, count: int) -> int:
    bao = OpenBao.start(place / "openbao", supervised=True)
    try:
        bao.create_transit_key(_KEK)
        story = _prepare(place, bao, count)
        story.make_blobs()
        with _up(story) as url:
            click.echo(url)
            _tell(story)
        return story.summary()
    finally:
        bao.stop()


def _tell(story: Story) -> None:
    story.say("inventory")
    story.say("start migrate --yes --wait")
    story.note("migrate")
    story.check("decrypt all")
    story.say("rotate-kek --yes --wait")
    story.note("rotate")
    story.check("decrypt all again")
    story.say(f"verify --sample {min(_SAMPLE, len(story.blob_ids))}")
    story.say("inventory")
    if story.keys.primary is not None:
        story.check_census(story.keys.primary.current_version())


def _prepare(place: Path, bao: OpenBao, count: int) -> Story:
    (place / "blobs").mkdir()
    config = place / "rewrap.toml"
    store = (place / "blobs").as_uri()
    config.write_text(
        CONFIGURATION.format(store=store, kek=_KEK, address=bao.address), encoding="utf-8"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(_ROOT),
        "REWRAP_CONFIG": str(config),
        "BLOB_KEY": secrets.token_hex(32),
        "BLOB_WRAP_KEY": secrets.token_hex(24),
        "BAO_TOKEN": bao.token,
    }
    settings = load(str(config), environment)
    keys, reader = open_keys(settings.keywrap, environment), open_reader(settings.keywrap)
    direct, wrapping = keys.provider("env:BLOB_KEY"), keys.provider("env:BLOB_WRAP_KEY")
    if not isinstance(direct, EnvKeyProvider) or not isinstance(wrapping, EnvKeyProvider):
        raise TypeError("the demo's legacy keys are kept in the environment")
    legacy = LegacyBlobs(reader, direct, wrapping, seed=secrets.token_hex(8))
    return Story(place, environment, keys, legacy, legacy.ids(count))


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
    while story.ask("status") is None:
        if process.poll() is not None or time.monotonic() > until:
            raise DeskError(
                f"`rewrap up` did not start: {log.read_text(encoding='utf-8')[-2000:]}",
                exit_code=UNREACHABLE,
                reason_code="not_up",
            )
        time.sleep(0.5)
