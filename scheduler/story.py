"""The demo's story: what was typed, what came out, and whether all of it is right."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from keywrap.keyring import KeyRing
from keywrap.keys import KeyVersion
from keywrap.testing.legacy import LegacyBlobs
from scheduler.desk import DONE, EXCEPTIONS

_THREADS = 8


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
    keys: KeyRing
    legacy: LegacyBlobs
    blob_ids: list[str]
    phases: list[Phase] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def say(self, arguments: str) -> None:
        """Type a command as an operator would, and show what it prints."""
        click.secho(f"\n$ rewrap {arguments}", bold=True)
        code = self._rewrap(arguments, quiet=False).returncode
        if code != DONE:
            self.faults.append(f"`rewrap {arguments}` exited {code}")

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

    def make_blobs(self) -> None:
        """Make the legacy blobs."""
        started = time.monotonic()
        with ThreadPoolExecutor(_THREADS) as pool:
            made = self.legacy.make(self.blob_ids, pool)
            for _ in track(made, "making legacy blobs", total=len(self.blob_ids)):
                pass
        self.phases.append(Phase("make", len(self.blob_ids), time.monotonic() - started))

    def newest(self, kind: str) -> int:
        """Return the id of the newest campaign of a kind; 0 where there is none."""
        document = self._newest(kind)
        return int(document["campaign"]) if document else 0

    def _newest(self, kind: str) -> dict[str, Any] | None:
        return next((d for d in self.ask("status") or [] if d["kind"] == kind), None)

    def primary(self) -> KeyVersion | str:
        """Return the version that new wraps are made under now."""
        return "" if self.keys.primary is None else self.keys.primary.current_version()

    def note(self, kind: str) -> None:
        """Note how the newest campaign of a kind ended; one that is not whole is a fault."""
        document = self._newest(kind)
        if document is None:
            self.faults.append(f"there is no {kind} campaign")
            return
        counts = document["counts"]
        decided = sum(n for name, n in counts.items() if name not in {"scanned", "pending"})
        if document["state"] != "complete" or decided != counts["scanned"]:
            self.faults.append(f"{kind} ended {document['state']} with {counts}")
        if counts["rewrapped"] != len(self.blob_ids):
            self.faults.append(f"{kind} rewrapped {counts['rewrapped']} of {len(self.blob_ids)}")
        rate = document["rate_per_s"] or 0.0
        seconds = counts["scanned"] / rate if rate else 0.0
        note = f"{document['kms_requests']} KMS requests"
        self.phases.append(Phase(kind, counts["rewrapped"], seconds, note))

    def check(self, name: str) -> None:
        """Decrypt every blob; one that is not its original is a fault."""
        started = time.monotonic()
        with ThreadPoolExecutor(_THREADS) as pool:
            wrong = self.legacy.wrong(self.blob_ids, self.keys, pool)
        self.phases.append(Phase(name, len(self.blob_ids), time.monotonic() - started))
        if wrong:
            self.faults.append(f"{name}: {len(wrong)} blobs are not their originals")
        else:
            click.echo(f"{name}: {len(self.blob_ids):,} blobs, each is its original")

    def check_census(self, target: KeyVersion) -> None:
        """See that no live wrap needs another key than the target."""
        census = self.ask("inventory")
        if census is None:
            self.faults.append("`rewrap inventory --json` failed: its keys are not known")
            return
        left = sum(
            line["blobs"]
            for line in census["by_key"]
            if KeyVersion(line["key"], line["version"]) != target
        )
        if left:
            self.faults.append(f"{left} blobs are not under {target}")
        else:
            click.echo(f"no live wrap needs any key but {target}")

    def summary(self) -> int:
        """Print the phases, and what was wrong; return the exit code."""
        table = Table(title="\nrewrap demo", box=None)
        table.add_column("phase")
        for heading in ("blobs", "seconds", "blobs/s"):
            table.add_column(heading, justify="right")
        table.add_column("")
        for phase in self.phases:
            rate = f"{phase.blobs / phase.seconds:,.0f}" if phase.seconds else ""
            row = (phase.name, f"{phase.blobs:,}", f"{phase.seconds:.1f}", rate, phase.note)
            table.add_row(*row)
        Console().print(table)
        for fault in self.faults:
            click.secho(f"wrong: {fault}", fg="red")
        if self.faults:
            return EXCEPTIONS
        click.secho("every blob decrypts to its original, and the counts balance", fg="green")
        return DONE
