"""The curl lines of docs/flower.md do what the page says."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ledger import campaigns
from ledger.connection import Ledger
from ledger.states import Kind, State
from scheduler.desk import Desk as OperatorsDesk
from scheduler.judge import judges
from tests.desks import desk_of
from tests.flowers import Flower
from tests.sites import ROOT, run


@pytest.mark.skipif(not shutil.which("curl"), reason="NO EXAMPLES RUN: no curl here")
def test_the_examples_of_the_documentation_start_and_pause_a_campaign(
    tmp_path: Path, ledger: Ledger, ledger_url: str, redis_server: Any
) -> None:
    text = (ROOT / "docs" / "flower.md").read_text(encoding="utf-8")
    start, pause = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    desk = desk_of(ledger)
    with Flower(tmp_path, ledger_url, redis_server.url, "actions = true").running() as flower:
        made = run(["create-kek", "local:blob-kek"], flower.environment, tmp_path)
        assert made.code == 0, made
        running = judges(OperatorsDesk(str(flower.config)).settings, ledger)
        for judge in running:
            judge.start()
        try:
            said = typed(flower, start)
            assert (said["verdict"], said["requested_by"]) == ("done", "flower: ann")
            opened = desk.get(said["campaign"])
            assert (opened.kind, opened.requested_by) == (Kind.ROTATE, "flower: ann")
            desk.force(opened.id, State.RUNNING)
            said = typed(flower, pause.replace("/7/", f"/{opened.id}/"))
            assert (said["verdict"], said["state"]) == ("done", "pausing")
        finally:
            for judge in running:
                judge.stop()
    with ledger.begin() as connection:
        assert len(campaigns.recent(connection)) == 1


def typed(flower: Flower, line: str) -> Any:
    """Type a line of the documentation; return the document that it prints."""
    here = line.replace("http://127.0.0.1:5555", flower.origin)
    assert here != line
    done = subprocess.run(
        ["sh", "-c", here],
        env=flower.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
