"""Random lives of an installation: real ledger, real files, real scheduler and workers.

`REWRAP_STATEFUL=N` tries N lives; `make soak` does. The last tests are of the machine itself: what
it has to find.
"""

import json
import os
from pathlib import Path

import click
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from ledger.connection import Ledger
from tests.stateful.bugs import BUGS, Bug
from tests.stateful.machine import TROUBLES, installation

LIVES = int(os.environ.get("REWRAP_STATEFUL", "0"))
"""How many are tried; 0: as few as in `make test`, and always the same."""

SETTINGS = settings(
    max_examples=LIVES or 15,
    stateful_step_count=30,
    derandomize=not LIVES,
    database=None,
    print_blob=True,
    phases=[Phase.generate, *([Phase.shrink] if LIVES else [])],  # to shrink one takes minutes
    suppress_health_check=list(HealthCheck),
)

MUST_COME_ABOUT = TROUBLES | {"moved", "put", "arrived", "rotated", "wished"}
MUST_COME_ABOUT |= {"lost message", "repeated message", "migrate complete"}


def test_nothing_that_happens_in_any_order_loses_a_blob_or_tells_a_lie(
    ledger: Ledger, tmp_path: Path
) -> None:
    machine = installation(ledger, tmp_path)
    run_state_machine_as_test(machine, settings=SETTINGS)
    click.echo(json.dumps(dict(sorted(machine.tally.items()))))  # `make soak` shows it
    assert {what for what in MUST_COME_ABOUT if not machine.tally[what]} == set()


@pytest.mark.parametrize("bug", BUGS if LIVES else BUGS[:2], ids=lambda bug: bug.name)
def test_a_bug_that_is_planted_is_found(
    bug: Bug, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bug.plant(monkeypatch)
    quickly = settings(
        SETTINGS,
        phases=[Phase.generate],
        max_examples=100,
        derandomize=True,
        report_multiple_bugs=False,
    )
    with pytest.raises(Exception, match=bug.shows):
        run_state_machine_as_test(installation(ledger, tmp_path), settings=quickly)
