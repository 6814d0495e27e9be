"""The search: every order in which actors can be answered, with faults and kills in between."""

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from tests.explorer.replay import Answer, Ended, Request, think
from tests.explorer.world import AWAY, UNANSWERED, World, answered, sealed
from tests.explorer.world import version as version_of

SIDECAR = ".sidecar.json"
WRITES = frozenset({"create", "replace"})
_KEK = frozenset({"wrap", "unwrap", "rewrap", "newest"})


class Mind(NamedTuple):
    """An actor between two requests.

    Attributes:
        life: how often it was started anew.
        answers: what it has been answered in this life.
        next: what it asks next, or how it ended.
    """

    life: int
    answers: tuple[Answer, ...]
    next: Request | Ended


class Budget(NamedTuple):
    """How much may still go wrong.

    Attributes:
        lost: writes that are made, but whose writer is told that nobody answered.
        unsent: writes that are not made, and whose writer is told the same.
        away: requests that the key service does not answer.
        corrupt: wraps that are sound, and of another data key.
        stale: wraps under the version before the newest.
        kills: SIGKILLs.
        attacks: what an attacker with write access to the store may do.
    """

    lost: int = 0
    unsent: int = 0
    away: int = 0
    corrupt: int = 0
    stale: int = 0
    kills: int = 0
    attacks: int = 0


class State(NamedTuple):
    """Everything that what happens next depends on."""

    world: World
    minds: tuple[Mind, ...]
    budget: Budget


@dataclass(frozen=True)
class Event:
    """One step of a trace.

    Attributes:
        actor: who; empty for the attacker.
        what: what happened.
        before: the world before it.
        after: the world after it.
        request: what was asked, where something was.
        ended: how the actor ended, where it did.
    """

    actor: str
    what: str
    before: World
    after: World
    request: Request | None = None
    ended: Ended | None = None


@dataclass(frozen=True)
class Actor:
    """Somebody who acts.

    Attributes:
        name: who, and whose randomness it has.
        run: what it does, on a line to the world.
        ready: whether it may begin, as things stand.
        kind: what is asked of its writes: `worker`, `writer` or `operator`.
        lives: how often it may be started: a killed worker's shard is taken up again.
        knows: errors that may come out of it.
    """

    name: str
    run: Callable[..., object]
    kind: str = "worker"
    ready: Callable[[State, "Scene"], bool] = lambda _state, _scene: True
    lives: int = 2
    knows: tuple[type, ...] = ()


@dataclass(frozen=True)
class Scene:
    """What is explored.

    Attributes:
        name: what it is called.
        world: how it begins.
        actors: who acts.
        budget: how much may go wrong.
        judge: raises `ViolationError` where an event must not have happened.
        attacks: what an attacker may make of a world.
        at_rest: likewise, where nothing more can happen.
    """

    name: str
    world: World
    actors: tuple[Actor, ...]
    budget: Budget
    judge: Callable[["Scene", Event], None]
    attacks: Callable[[World], Iterator[tuple[str, World]]] = lambda _world: iter(())
    at_rest: Callable[[State], None] = lambda _state: None

    def place(self, name: str) -> int:
        """Return the place of an actor."""
        return next(place for place, actor in enumerate(self.actors) if actor.name == name)


class ViolationError(Exception):
    """Something happened that must never happen."""

    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        steps = "".join(f"\n  {number:2}. {step}" for number, step in enumerate(self.trace, 1))
        return f"{self.args[0]}{steps}"


@dataclass
class Found:
    """What a search has come to.

    Attributes:
        states: how many different ones were seen.
        transitions: how many steps between them.
        ends: how actors ended: name, and result or error.
        is_whole: whether nothing is left to explore.
    """

    states: int = 0
    transitions: int = 0
    ends: Counter[tuple[str, str]] = field(default_factory=Counter)
    is_whole: bool = False


class Search:
    """Explores a scene, nearest states first, so that a trace that it prints is a shortest one."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._thoughts: dict[tuple[str, int, tuple[Answer, ...]], Request | Ended] = {}
        self._answers: dict[tuple[World, Request], tuple[World, Answer]] = {}

    def run(self, most: int) -> Found:
        """Explore up to `most` states.

        Raises:
            ViolationError: with the shortest trace to it.
        """
        scene, found = self._scene, Found()
        minds = tuple(self._reborn(actor, 0) for actor in scene.actors)
        first = State(scene.world, minds, scene.budget)
        came_from: dict[int, tuple[int, str]] = {}
        seen = {hash(first)}
        waiting = deque([first])
        while waiting and found.states < most:
            state = waiting.popleft()
            found.states += 1
            here = hash(state)
            is_end = True
            try:
                for event, after in self._following(state):
                    is_end = False
                    found.transitions += 1
                    there = hash(after)
                    if there not in seen:
                        came_from[there] = here, _said(event)
                        seen.add(there)
                        waiting.append(after)
                    if event.ended is not None:
                        found.ends[event.actor, event.ended.error or str(event.ended.result)] += 1
                    try:
                        scene.judge(scene, event)
                    except ViolationError as violation:
                        violation.trace = (*_trace(came_from, here), _said(event))
                        raise
                if is_end:
                    scene.at_rest(state)
            except ViolationError as violation:
                violation.trace = violation.trace or _trace(came_from, here)
                raise
        found.is_whole = not waiting
        return found

    def _reborn(self, actor: Actor, life: int) -> Mind:
        return Mind(life, (), self._think(actor, life, ()))

    def _think(self, actor: Actor, life: int, answers: tuple[Answer, ...]) -> Request | Ended:
        key = actor.name, life, answers
        if key not in self._thoughts:
            name = f"{actor.name}/{life}"
            self._thoughts[key] = think(actor.run, name, answers, actor.knows)
        return self._thoughts[key]

    def _answered(self, world: World, request: Request) -> tuple[World, Answer]:
        key = world, request
        if key not in self._answers:
            self._answers[key] = answered(world, request)
        return self._answers[key]

    def _following(self, state: State) -> Iterator[tuple[Event, State]]:
        for place, (actor, mind) in enumerate(zip(self._scene.actors, state.minds, strict=True)):
            if isinstance(mind.next, Ended):
                continue
            if not mind.answers and not actor.ready(state, self._scene):
                continue
            if mind.next.kind == "drain" and not at_rest_but(state, place):
                continue
            yield from self._steps(state, place, actor, mind, mind.next)
        if state.budget.attacks:
            budget = state.budget._replace(attacks=state.budget.attacks - 1)
            for what, world in self._scene.attacks(state.world):
                event = Event("", f"attacker: {what}", state.world, world)
                yield event, state._replace(world=world, budget=budget)

    def _steps(
        self, state: State, place: int, actor: Actor, mind: Mind, request: Request
    ) -> Iterator[tuple[Event, State]]:
        for what, world, answer, budget in self._replies(state, actor, request):
            after = _noted(state.world, world, actor, request)
            thought = self._think(actor, mind.life, (*mind.answers, answer))
            new = Mind(mind.life, (*mind.answers, answer), thought)
            ended = thought if isinstance(thought, Ended) else None
            if ended is not None and _is_cut_off(ended) and mind.life + 1 < actor.lives:
                new = self._reborn(actor, mind.life + 1)  # its shard is taken up again
            event = Event(actor.name, what, state.world, after, request, ended)
            yield (
                event,
                state._replace(world=after, minds=_with(state.minds, place, new), budget=budget),
            )
        if mind.answers and state.budget.kills and actor.kind != "operator":
            budget = state.budget._replace(kills=state.budget.kills - 1)
            dead = Mind(mind.life, mind.answers, Ended(None, "killed"))
            new = self._reborn(actor, mind.life + 1) if mind.life + 1 < actor.lives else dead
            event = Event(actor.name, "is killed", state.world, state.world)
            yield event, state._replace(minds=_with(state.minds, place, new), budget=budget)

    def _replies(
        self, state: State, actor: Actor, request: Request
    ) -> Iterator[tuple[str, World, Answer, Budget]]:
        world, budget, kind = state.world, state.budget, request.kind
        done, answer = self._answered(world, request)
        yield kind, done, answer, budget
        if kind in WRITES and budget.lost and answer.error is None:
            left = budget._replace(lost=budget.lost - 1)
            yield f"{kind}, and its reply is lost", done, UNANSWERED, left
        if kind in WRITES and budget.unsent:
            left = budget._replace(unsent=budget.unsent - 1)
            yield f"{kind}, which does not arrive", world, UNANSWERED, left
        if kind in _KEK and budget.away:
            yield f"{kind}, not answered", world, AWAY, budget._replace(away=budget.away - 1)
        if kind in {"wrap", "rewrap"} and answer.error is None and budget.corrupt:
            other = hashlib.sha256(b"another data key").digest()
            nonce, _, context = request.args
            wrong = Answer(sealed(world, world.newest, nonce, other, context))
            left = budget._replace(corrupt=budget.corrupt - 1)
            yield f"{kind}, which comes back of another data key", world, wrong, left
        # An application that is told an old version leaves a straggler: the fresh scan's business.
        if kind == "wrap" and budget.stale and world.newest > 1 and actor.kind == "worker":
            old = Answer(sealed(world, world.newest - 1, *request.args))
            left = budget._replace(stale=budget.stale - 1)
            yield f"{kind}, under {version_of(world.newest - 1)}", world, old, left


def at_rest_but(state: State, place: int) -> bool:
    """Whether nobody but one actor is in the midst of something."""
    return all(
        isinstance(mind.next, Ended) or not mind.answers
        for other, mind in enumerate(state.minds)
        if other != place
    )


def _is_cut_off(ended: Ended) -> bool:
    """Whether somebody has to go on with what an actor did not finish."""
    return isinstance(ended.result, dict | tuple) and "interrupted" in str(ended.result)


def _noted(before: World, after: World, actor: Actor, request: Request) -> World:
    """Note in the world who has committed a sidecar, and what a reader must get since."""
    if request.kind not in WRITES or not request.args[0].endswith(SIDECAR):
        return after
    if after.objects == before.objects:
        return after  # refused, or not made
    blob_id = request.args[0].removesuffix(SIDECAR)
    plaintexts = dict(after.plaintexts)
    if actor.kind == "writer":
        plaintexts[blob_id] = plaintext_of(actor.name)
    return replace(
        after,
        wrote=after.wrote | {(actor.name, blob_id)},
        plaintexts=tuple(sorted(plaintexts.items())),
    )


def plaintext_of(writer: str) -> bytes:
    """Return what a writer writes."""
    return f"as {writer} wrote it".encode()


def _with(minds: tuple[Mind, ...], place: int, mind: Mind) -> tuple[Mind, ...]:
    return (*minds[:place], mind, *minds[place + 1 :])


def _said(event: Event) -> str:
    what = f"{event.actor} {event.what}".strip()
    if event.request is not None and event.request.args and isinstance(event.request.args[0], str):
        what += f" {event.request.args[0]}"
    if event.ended is not None:
        what += f"; it ends: {event.ended.error or event.ended.result}"
    return what


def _trace(came_from: dict[int, tuple[int, str]], state: int) -> tuple[str, ...]:
    steps = []
    while state in came_from:
        state, step = came_from[state]
        steps.append(step)
    return tuple(reversed(steps))
