"""`rewrap demo`: the whole story on embedded services, as an operator would type it."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from embedded.launching import end_with_parent
from embedded.openbao import OpenBao
from keywrap.config import open_keys, open_reader
from keywrap.keyring import KeyRing
from keywrap.keys import KeyVersion
from keywrap.providers.env import EnvKeyProvider
from keywrap.reading import SidecarReader
from keywrap.testing.legacy import LegacyBlobs
from scheduler.desk import DONE, EXCEPTIONS, REFUSED, UNREACHABLE, DeskError
from workers.settings import load

_ROOT = Path(__file__).parent.parent.parent
_KEK = "blob-kek"
_UP_WITHIN_S = 60.0
_CONFIG = """\
[store]
url = "{store}"
blob_suffix = ".blob"
sidecar_suffix = ".blob.meta"
legacy_default = "env:BLOB_KEY"
legacy_content = "records-v1"

[keys]
primary = "hcvault://transit/{kek}"

[keys.env.BLOB_KEY]
encoding = "hex"
scheme = "direct"

[keys.env.BLOB_WRAP_KEY]
encoding = "base64"
scheme = "aes-gcm"

[keys.vault."transit/{kek}"]
address = "{address}"
token_env = "BAO_TOKEN"

[workers]
lease_s = 10
"""


@dataclass
class Phase:
    """One line of the summary."""

    name: str
    blobs: int
    seconds: float
    note: str = ""


@dataclass
class Story:
    """The demo's store, keys and environment, and what has happened so far."""

    directory: Path
    environment: Mapping[str, str] = field(repr=False)
    reader: SidecarReader
    keys: KeyRing
    legacy: LegacyBlobs
    blob_ids: list[str]
    phases: list[Phase] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def say(self, arguments: str, *, expect: int = DONE) -> str:
        """Type a command as an operator would, and show what it prints."""
        click.secho(f"\n$ rewrap {arguments}", bold=True)
        started = time.monotonic()
        ran = self._rewrap(arguments, quiet=False)
        if ran.returncode != expect:
            self.faults.append(f"`rewrap {arguments}` exited {ran.returncode}, not {expect}")
        elapsed = time.monotonic() - started
        return f"{elapsed:.1f}"

    def ask(self, arguments: str) -> Any:  # noqa: ANN401 - a JSON document
        """Return the JSON document that a command prints, or None where it fails."""
        ran = self._rewrap(f"{arguments} --json", quiet=True)
        return json.loads(ran.stdout) if ran.returncode == DONE else None

    def _rewrap(self, arguments: str, *, quiet: bool) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - our own command line
            [sys.executable, "-m", "scheduler", *arguments.split()],
            env=dict(self.environment),
            stdout=subprocess.PIPE if quiet else None,
            stderr=subprocess.DEVNULL if quiet else None,
            text=True,
            check=False,
        )


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
        _make_blobs(story)
        with _up(story) as url:
            click.echo(url)
            _migrate(story)
            _rotate(story)
        return _summary(story)
    finally:
        bao.stop()


def _prepare(place: Path, bao: OpenBao, count: int) -> Story:
    (place / "blobs").mkdir()
    config = place / "rewrap.toml"
    store = (place / "blobs").as_uri()
    config.write_text(_CONFIG.format(store=store, kek=_KEK, address=bao.address), encoding="utf-8")
    environment = {
        **os.environ,
        "PYTHONPATH": str(_ROOT),
        "REWRAP_CONFIG": str(config),
        "BLOB_KEY": secrets.token_hex(32),
        "BLOB_WRAP_KEY": secrets.token_urlsafe(24),  # 24 bytes, whose base64 has no padding
        "BAO_TOKEN": bao.token,
    }
    environment["BLOB_WRAP_KEY"] = environment["BLOB_WRAP_KEY"].replace("-", "+").replace("_", "/")
    settings = load(str(config), environment)
    keys, reader = open_keys(settings.keywrap, environment), open_reader(settings.keywrap)
    direct, wrapping = keys.provider("env:BLOB_KEY"), keys.provider("env:BLOB_WRAP_KEY")
    if not isinstance(direct, EnvKeyProvider) or not isinstance(wrapping, EnvKeyProvider):
        raise TypeError("the demo's legacy keys are kept in the environment")
    legacy = LegacyBlobs(reader, direct, wrapping, seed=secrets.token_hex(8))
    return Story(place, environment, reader, keys, legacy, legacy.ids(count))


def _make_blobs(story: Story) -> None:
    started = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        made = story.legacy.make(story.blob_ids, pool)
        for _ in track(made, "making legacy blobs", total=len(story.blob_ids)):
            pass
    story.phases.append(Phase("make", len(story.blob_ids), time.monotonic() - started))


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


def _migrate(story: Story) -> None:
    story.say("inventory")
    story.say("start migrate --yes --wait")
    _note(story, "migrate")
    _check(story, "decrypt all")


def _rotate(story: Story) -> None:
    story.say("rotate-kek --yes --wait")
    _note(story, "rotate")
    _check(story, "decrypt all again")
    story.say(f"verify --sample {min(500, len(story.blob_ids))}")
    story.say("inventory")
    census = story.ask("inventory")
    if census is None:
        story.faults.append("`rewrap inventory --json` failed, so nothing is known about its keys")
        return
    target = story.keys.primary.current_version() if story.keys.primary else KeyVersion("")
    left = sum(
        line["blobs"]
        for line in census["by_key"]
        if KeyVersion(line["key"], line["version"]) != target
    )
    if left:
        story.faults.append(f"{left} blobs are not under {target}")
    else:
        click.echo(f"no live wrap needs any key but {target}")


def _note(story: Story, kind: str) -> None:
    document = next((d for d in story.ask("status") or [] if d["kind"] == kind), None)
    if document is None:
        story.faults.append(f"there is no {kind} campaign")
        return
    counts = document["counts"]
    decided = sum(n for name, n in counts.items() if name not in {"scanned", "pending"})
    if document["state"] != "complete" or decided != counts["scanned"]:
        story.faults.append(f"{kind} ended {document['state']} with {counts}")
    if counts["rewrapped"] != len(story.blob_ids):
        story.faults.append(f"{kind} rewrapped {counts['rewrapped']} of {len(story.blob_ids)}")
    rate = document["rate_per_s"] or 0.0
    seconds = counts["scanned"] / rate if rate else 0.0
    note = f"{document['kms_requests']} KMS requests"
    story.phases.append(Phase(kind, counts["rewrapped"], seconds, note))


def _check(story: Story, name: str) -> None:
    started = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        wrong = story.legacy.wrong(story.blob_ids, story.keys, pool)
    story.phases.append(Phase(name, len(story.blob_ids), time.monotonic() - started))
    if wrong:
        story.faults.append(f"{name}: {len(wrong)} blobs are not their originals")
    else:
        click.echo(f"{name}: {len(story.blob_ids):,} blobs, each is its original")


def _summary(story: Story) -> int:
    table = Table(title="\nrewrap demo", box=None)
    table.add_column("phase")
    for heading in ("blobs", "seconds", "blobs/s"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for phase in story.phases:
        rate = f"{phase.blobs / phase.seconds:,.0f}" if phase.seconds else ""
        row = (phase.name, f"{phase.blobs:,}", f"{phase.seconds:.1f}", rate, phase.note)
        table.add_row(*row)
    Console().print(table)
    for fault in story.faults:
        click.secho(f"wrong: {fault}", fg="red")
    if story.faults:
        return EXCEPTIONS
    click.secho("every blob decrypts to its original, and the counts balance", fg="green")
    return DONE
