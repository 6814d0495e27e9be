"""What the rounds came to: ratios of each round, their medians, a table and a JSON file."""

import json
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from bench.sides import Took
from workers.settings import Workers

BAR = 20.0
"""Issue 2: at least so many times the naive way."""

LATEST = Path(__file__).parent / "results" / "latest.json"


@dataclass(frozen=True, slots=True)
class Round:
    """One paired round: the sides right after each other, on copies of the same blobs."""

    naive: Took
    ours: Took
    floor: Took

    @property
    def rewrap_rate(self) -> float:
        """Blobs a second of our rewrap phase alone, without inventory and straggler scan."""
        return self.ours.blobs / self.ours.phases["rewrap"]


_LINES: dict[str, Callable[[Round], float]] = {
    "naive, blobs/s": lambda r: r.naive.rate,
    "ours, request to complete, blobs/s": lambda r: r.ours.rate,
    "ours, rewrap phase alone, blobs/s": lambda r: r.rewrap_rate,
    "floor, blobs/s": lambda r: r.floor.rate,
    "ours / naive": lambda r: r.ours.rate / r.naive.rate,
    "rewrap phase / naive": lambda r: r.rewrap_rate / r.naive.rate,
    "ours / floor": lambda r: r.ours.rate / r.floor.rate,
    "rewrap phase / floor": lambda r: r.rewrap_rate / r.floor.rate,
    "ours, inventory, s": lambda r: _before_rewrap(r.ours),
    "ours, rewrap, s": lambda r: r.ours.phases.get("running", 0.0),
    "ours, straggler scan, s": lambda r: r.ours.phases.get("verifying", 0.0),
}


def _before_rewrap(ours: Took) -> float:
    return ours.phases.get("planned", 0.0) + ours.phases.get("inventory", 0.0)


@dataclass(frozen=True, slots=True)
class Results:
    """All rounds, and where they were run.

    Attributes:
        place: which file systems blobs and ledger were on.
        workers: the settings of our workers and of the floor.
        rounds: what each round came to.
    """

    place: str
    workers: Workers
    rounds: Sequence[Round]

    @property
    def median_ratio(self) -> float:
        """How many times the naive way ours is, from request to `complete`."""
        return statistics.median(self._values("ours / naive"))

    def _values(self, line: str) -> list[float]:
        return [_LINES[line](r) for r in self.rounds]

    def show(self, console: Console) -> None:
        """Print the table."""
        first = self.rounds[0]
        table = Table(
            title="rates are compared, not times: "
            f"naive {first.naive.blobs:,}, ours and floor {first.ours.blobs:,} blobs a round",
            caption=f"{self.place}; fsync on; KMS requests a round:"
            f" naive {first.naive.kms_requests:,}, ours {first.ours.kms_requests:,},"
            f" floor {first.floor.kms_requests:,}",
        )
        table.add_column("")
        for number in range(1, len(self.rounds) + 1):
            table.add_column(f"round {number}", justify="right")
        table.add_column("median", justify="right", style="bold")
        for line in _LINES:
            values = self._values(line)
            table.add_row(line, *(_shown(v) for v in (*values, statistics.median(values))))
        console.print(table)

    def write(self) -> None:
        """Write everything to `bench/results/latest.json`."""
        document: dict[str, Any] = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
            "place": self.place,
            "workers": msgspec.to_builtins(self.workers),
            "bar": BAR,
            "median": {line: _rounded(statistics.median(self._values(line))) for line in _LINES},
            "rounds": [
                {side: _record(getattr(r, side)) for side in ("naive", "ours", "floor")}
                | {line: _rounded(read(r)) for line, read in _LINES.items()}
                for r in self.rounds
            ],
        }
        LATEST.parent.mkdir(exist_ok=True)
        LATEST.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _record(took: Took) -> dict[str, Any]:
    return {
        "blobs": took.blobs,
        "seconds": _rounded(took.seconds),
        "kms_requests": took.kms_requests,
        "phases": {str(name): _rounded(seconds) for name, seconds in took.phases.items()},
    }


def _rounded(value: float) -> float:
    return round(value, 3)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"  # noqa: PLR2004 - digits shown
