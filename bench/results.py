"""What the rounds came to: ratios of each round, their medians, tables, a JSON file and a plot."""

import json
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pygal
from rich.console import Console
from rich.table import Table

from bench.scenes import Scene
from bench.sides import Took

LATEST = Path(__file__).parent / "results" / "latest.json"
PLOT = LATEST.with_suffix(".svg")


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
    "ours, rewrap, blobs/s": lambda r: r.rewrap_rate,
    "floor, blobs/s": lambda r: r.floor.rate,
    "ours, rewrap / naive": lambda r: r.rewrap_rate / r.naive.rate,
    "ours, rewrap / floor": lambda r: r.rewrap_rate / r.floor.rate,
    "ours, request to complete / naive": lambda r: r.ours.rate / r.naive.rate,
    "ours, request to complete / floor": lambda r: r.ours.rate / r.floor.rate,
    "ours, inventory, s": lambda r: _before_rewrap(r.ours),
    "ours, rewrap, s": lambda r: r.ours.phases.get("running", 0.0),
    "ours, straggler scan, s": lambda r: r.ours.phases.get("verifying", 0.0),
}


def _before_rewrap(ours: Took) -> float:
    return ours.phases.get("planned", 0.0) + ours.phases.get("inventory", 0.0)


RATIO = "ours, rewrap / naive"
"""What the bar is for. The naive way is timed from its first task to its last row, its rows in
place before; so ours is too: from the first shard to the last outcome, its inventory in place."""

_SHOWN = ("naive", "ours, request to complete", "ours, rewrap", "floor")


@dataclass(frozen=True, slots=True)
class Results:
    """The rounds of one scene.

    Attributes:
        scene: what was played.
        place: which file systems the blobs and the ledger were on.
        rounds: what each round came to.
    """

    scene: Scene
    place: str
    rounds: Sequence[Round]

    @property
    def ratio(self) -> float:
        """How many times the naive way ours is: the median of the rounds."""
        return self.median(RATIO)

    def median(self, line: str) -> float:
        """Return the median of one line of the table."""
        return statistics.median(self._values(line))

    def _values(self, line: str) -> list[float]:
        return [_LINES[line](r) for r in self.rounds]

    def show(self, console: Console) -> None:
        """Print the table."""
        first = self.rounds[0]
        table = Table(
            title=f"{self.scene.name}: {self.scene.title}; rates are compared, not times: "
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

    def document(self) -> dict[str, Any]:
        """Return all of it for the JSON file."""
        return {
            **asdict(self.scene),
            "place": self.place,
            "median": {line: _rounded(self.median(line)) for line in _LINES},
            "rounds": [
                {side: _record(getattr(r, side)) for side in ("naive", "ours", "floor")}
                | {line: _rounded(read(r)) for line, read in _LINES.items()}
                for r in self.rounds
            ],
        }


def write(played: Sequence[Results]) -> None:
    """Write every scene to `bench/results/latest.json`, and a plot of them beside it."""
    document: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "bar is for": RATIO,
        "scenes": [results.document() for results in played],
    }
    LATEST.parent.mkdir(exist_ok=True)
    LATEST.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    chart = pygal.Bar(
        title="blobs a second, median of the rounds (logarithmic)",
        logarithmic=True,
        legend_at_bottom=True,
        x_label_rotation=15,
        js=[],
    )
    chart.x_labels = [f"{results.scene.title}: {results.ratio:.0f} x naive" for results in played]
    for side in _SHOWN:
        chart.add(side, [round(results.median(f"{side}, blobs/s")) for results in played])
    chart.render_to_file(str(PLOT))


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
