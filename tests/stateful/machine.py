"""Whatever may happen to an installation, in any order that Hypothesis draws."""

import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from keywrap.stores import StoreUnavailableError
from keywrap.testing.legacy import KINDS
from ledger import wishes
from ledger.connection import Ledger, LedgerUnavailableError
from ledger.states import Kind
from tests.stateful import truths
from tests.stateful.stage import Stage, clear, pick, text_of
from tests.stateful.troubles import Act
from tests.worlds import crash

_NUMBER = st.integers(0, 11)
_CAMPAIGNS = (Kind.MIGRATE, Kind.ROTATE, Kind.REENCRYPT, Kind.SEAL, Kind.UNDO, Kind.VERIFY)
_WISHES: tuple[Callable[..., object], ...] = (
    wishes.pause,
    wishes.resume,
    wishes.cancel,
    partial(wishes.retry, quarantined=True),
)
_TROUBLES = (
    *("dies", "dies", "gets_no_answer", "gets_no_answer", "is_overtaken", "loses_its_lease"),
    *("meets_a_writer", "meets_a_writer", "is_paused", "is_cancelled", "sees_a_new_key_version"),
)
TROUBLES = frozenset(_TROUBLES)
_TROUBLE, _REQUEST = st.sampled_from(_TROUBLES), st.integers(1, 24)
_SICK, _DELIVERIES = 2, 5


class Installation(RuleBasedStateMachine):
    """An installation, and all that comes over it.

    Attributes:
        ledger: an empty one.
        folder: where to make stores.
        tally: how often each thing came about in all examples.
    """

    ledger: ClassVar[Ledger]
    folder: ClassVar[Path]
    tally: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        clear(self.ledger)
        self._place = Path(mkdtemp(dir=self.folder))
        self.stage = Stage(self.ledger, self._place)
        self.stage.at_end = truths.end_is_true
        self.growth = truths.Growth()
        self._writes = 0

    @rule(number=_NUMBER, size=st.sampled_from((0, 1, 900)), is_new=st.booleans())
    def application_writes(self, number: int, size: int, *, is_new: bool) -> None:
        blob_id = pick(list(self.stage.expected), number)
        self._write(f"new-{self._writes:06d}" if is_new else blob_id, size)

    def _write(self, blob_id: str, size: int = 100) -> None:
        self._writes += 1
        self.stage.put(blob_id, text_of(self._writes, size))

    @rule(kind=st.sampled_from((*KINDS, "")), number=st.integers(0, 400))
    def legacy_blob_arrives(self, kind: str, number: int) -> None:
        """Let a legacy application write a new blob, or somebody one that nobody can read."""
        if kind:
            self.stage.arrive(kind)
        elif len(self.stage.sick) < _SICK:
            self.stage.fall_sick(number)

    @rule(kind=st.sampled_from(_CAMPAIGNS), rounds=st.integers(0, 9))
    def start(self, kind: Kind, rounds: int) -> None:
        self.stage.open_campaign(kind)
        self.stage.work_along(rounds)

    @rule(wish=st.sampled_from(_WISHES))
    def operator_wishes(self, wish: Callable[..., object]) -> None:
        self.stage.wish(wish)

    @rule(what=st.sampled_from(("key", "key", "time", "time", "clock", "ledger")))
    def something_changes(self, what: str) -> None:
        match what:
            case "key":
                self.stage.rotate_kek()
            case "time":
                self.stage.let_time_pass()
            case "clock":
                self.stage.clock_s = -1e6 if self.stage.clock_s > 0 else self.stage.clock_s + 1e6
            case _:
                self.stage.lose_ledger()

    @rule(rounds=st.integers(1, 4))
    def work_along(self, rounds: int) -> None:
        self.stage.work_along(rounds)

    @rule(number=_NUMBER, is_lost=st.booleans())
    def message_is_lost_or_repeated(self, number: int, *, is_lost: bool) -> None:
        if is_lost and self._ready(number):
            self.stage.messages.pop(number % len(self.stage.messages))
            self.stage.tally["lost message"] += 1
        elif self.stage.sent and not is_lost:
            self.stage.messages.append(pick(self.stage.sent[-12:], number))
            self.stage.tally["repeated message"] += 1

    @rule(number=_NUMBER, request=_REQUEST, after=st.booleans(), trouble=_TROUBLE)
    def worker_meets(self, number: int, request: int, trouble: str, *, after: bool) -> None:
        """Let a worker take messages, and something happen at its n-th request."""
        act = partial(self._act, trouble, getattr(self, trouble))
        self.stage.trouble.plan(request, after=after, act=act)
        for _ in range(_DELIVERIES):
            if self.stage.trouble.is_planned and self._ready(number):
                self.stage.deliver(self.stage.messages.pop(number % len(self.stage.messages)))
        self.stage.trouble.clear()

    @rule(number=_NUMBER, request=_REQUEST, after=st.booleans(), trouble=_TROUBLE)
    def another_worker_meets(self, number: int, request: int, trouble: str, *, after: bool) -> None:
        """Be drawn as often again."""
        self.worker_meets(number, request, trouble, after=after)  # type: ignore[call-arg]

    def _ready(self, number: int) -> bool:
        """See that there is a message, if need be of a new campaign."""
        for kind in (None, pick(_CAMPAIGNS[:3], number)):
            if kind is not None:
                self.stage.open_campaign(kind)
            for _ in range(2):
                if self.stage.messages:
                    return True
                self.stage.tick()
        return bool(self.stage.messages)

    def _act(self, trouble: str, act: Act, name: str) -> None:
        self.stage.tally[trouble] += 1
        act(name)

    # Troubles: what happens to a worker, told the object that it asks for

    def dies(self, _name: str) -> None:
        crash()

    def gets_no_answer(self, name: str) -> None:
        if name:
            raise StoreUnavailableError("no answer", name=name)
        raise LedgerUnavailableError("no answer")

    def is_overtaken(self, _name: str) -> None:
        """Freeze until others have done the shard, and come back."""
        self.stage.let_time_pass()
        self.stage.work_along(3)

    def loses_its_lease(self, _name: str) -> None:
        self.stage.let_time_pass()
        self.stage.tick()

    def meets_a_writer(self, name: str) -> None:
        """Be at a blob that an application writes just then."""
        blob_id = name.removesuffix(".sidecar.json").partition(".~")[0]
        if blob_id in self.stage.expected:
            self._write(blob_id)
        else:  # it asks for something else: at the next request, then
            again = partial(self._act, "meets_a_writer", self.meets_a_writer)
            self.stage.trouble.plan(1, after=False, act=again)

    def is_paused(self, _name: str) -> None:
        self.stage.wish(wishes.pause)

    def is_cancelled(self, _name: str) -> None:
        self.stage.wish(wishes.cancel)

    def sees_a_new_key_version(self, _name: str) -> None:
        self.stage.rotate_kek()

    # What must hold

    @invariant()
    def all_is_well(self) -> None:
        self.stage.now += 1
        self.stage.look()
        truths.every_blob_opens(self.stage)
        self.growth.look(self.stage)
        truths.counts_balance(self.stage)
        truths.outcomes_are_true(self.stage)

    def teardown(self) -> None:
        try:
            self.stage.come_to_rest()
            self.all_is_well()
        finally:
            self.tally.update(self.stage.tally)
            shutil.rmtree(self._place)


def installation(ledger: Ledger, folder: Path) -> Any:
    """Return the machine over a ledger, with a tally of its own."""
    attributes = {"ledger": ledger, "folder": folder, "tally": Counter()}
    return type("Installation", (Installation,), attributes)
