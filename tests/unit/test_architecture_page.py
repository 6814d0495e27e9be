"""What the pages of the architecture and of a campaign draw is what the code does."""

import re
from pathlib import Path

from ledger.states import RESUMABLE, TRANSITIONS, State

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
CAMPAIGN = (ROOT / "docs" / "campaign.md").read_text(encoding="utf-8")
WORK = RESUMABLE - {State.PLANNED}


def states(name: str) -> frozenset[State]:
    return WORK if name == "work" else frozenset({State(name)})


def test_the_diagram_has_every_step_of_a_campaign_and_no_other() -> None:
    diagram = CAMPAIGN.partition("stateDiagram-v2")[2].partition("```")[0]
    arrows = re.findall(r"^ +(\w+) --> (\w+)$", diagram, re.MULTILINE)

    drawn = {(a, b) for one, two in arrows for a in states(one) for b in states(two)}

    assert drawn == {(a, b) for a, targets in TRANSITIONS.items() for b in targets}


def test_the_states_drawn_as_work_are_those_of_the_code() -> None:
    inside = CAMPAIGN.partition("state work {")[2].partition("}")[0]

    assert {State(name) for name in re.findall(r"\w+", inside)} == WORK


def test_every_room_and_table_that_is_named_is_there() -> None:
    rooms = re.findall(r"^\| `(\w+)/` \|", PAGE, re.MULTILINE)

    assert len(rooms) > 5
    assert [room for room in rooms if not (ROOT / room).is_dir()] == []
