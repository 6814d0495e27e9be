"""What must never happen, judged at every event of a search."""

from functools import lru_cache

from keywrap.sidecar import Sidecar
from tests.explorer.actors import NEW, OLD
from tests.explorer.replay import UNEXPECTED, Ended
from tests.explorer.search import Event, Scene, State, ViolationError, plaintext_of
from tests.explorer.world import World, aside

EXTRA = "owner"
"""A field of every sidecar that is not ours."""

_FORWARD = "forward"


def keeps_every_promise(scene: Scene, event: Event) -> None:
    """Judge an event in a world in which nobody attacks."""
    if event.after != event.before:
        _every_blob_opens(event.after)
        _nothing_retired_is_needed(event.after)
    _judge_write(event)
    _judge_end(scene, event)


def launders_nothing(scene: Scene, event: Event) -> None:
    """Judge an event in a world with an attacker: what workers write opens to the blob's own."""
    if event.actor and event.after.objects != event.before.objects:
        _judge_write(event)
        _opens(event.after, _blob_of(event))
    _judge_end(scene, event)


def _judge_write(event: Event) -> None:
    """Judge a sidecar that was written."""
    if not event.actor or event.after.objects == event.before.objects:
        return
    request = event.request
    if request is None or not str(request.args[0]).endswith(".sidecar.json"):
        return
    blob_id = _blob_of(event)
    old, new = (world.sidecar(blob_id) for world in (event.before, event.after))
    if new is None:
        raise ViolationError(f"{event.actor} removed the sidecar of {blob_id}")
    now = Sidecar.parse(new)
    if old is not None:
        _judge_change(Sidecar.parse(old), now)
    if event.actor.startswith(_FORWARD):
        _judge_rewrap(blob_id, now)


def _judge_change(then: Sidecar, now: Sidecar) -> None:
    is_new = (now.ciphertext, now.key_version) != (then.ciphertext, then.key_version)
    if is_new and now.dek_version != then.dek_version + 1:
        raise ViolationError("the wrap changed, and `dek_version` did not grow by one")
    if EXTRA in then.extra and EXTRA not in now.extra:
        raise ViolationError("a field that is not ours was lost")


def _judge_rewrap(blob_id: str, now: Sidecar) -> None:
    if now.key_version != NEW:
        raise ViolationError(f"a worker wrote a wrap of {now.key_version}, not of the target")
    if now.context != {"blob_id": blob_id}:
        raise ViolationError(f"a worker bound {blob_id}'s wrap to {now.context}")
    if now.previous is None:
        raise ViolationError("a worker does not keep the wrap before")


def _judge_end(scene: Scene, event: Event) -> None:
    """Judge what an actor says of itself."""
    if event.ended is None:
        return
    if event.ended.error.startswith(UNEXPECTED):
        raise ViolationError(f"{event.actor} ended in an error: {event.ended.error}")
    got = event.ended.result
    if event.actor.startswith("reader") and got is not None and got not in _ever(scene):
        raise ViolationError(f"a reader got {got!r}")
    if not isinstance(event.ended.result, tuple):
        return
    for blob_id, outcome in event.ended.result:
        if outcome == "rewrapped" and (event.actor, blob_id) not in event.after.wrote:
            raise ViolationError(f"{event.actor} says that it rewrapped {blob_id}, and it did not")


def _ever(scene: Scene) -> set[bytes]:
    """Return what a reader may get: what was there, and what any writer writes."""
    written = {plaintext_of(actor.name) for actor in scene.actors if actor.kind == "writer"}
    return written | {plaintext for _, plaintext in scene.world.plaintexts}


def _blob_of(event: Event) -> str:
    assert event.request is not None
    return str(event.request.args[0]).removesuffix(".sidecar.json")


def _every_blob_opens(world: World) -> None:
    for blob_id, _ in world.plaintexts:
        _opens(world, blob_id)


def _opens(world: World, blob_id: str) -> None:
    plaintext = dict(world.plaintexts)[blob_id]
    disabled = world.disabled if world.retired else frozenset[int]()  # reversible until then
    got = _got(world.objects, world.newest, disabled, blob_id)
    if got != plaintext:
        raise ViolationError(f"a reader of {blob_id} gets {got!r}, not {plaintext!r}")


@lru_cache(maxsize=100_000)
def _got(
    objects: tuple[tuple[str, bytes], ...], newest: int, disabled: frozenset[int], blob_id: str
) -> object:
    try:
        return aside(World(objects, newest, disabled)).blobs.get(blob_id)
    except Exception as error:  # noqa: BLE001 - whatever it is, the blob does not open
        return f"{type(error).__name__}: {error}"


def _nothing_retired_is_needed(world: World) -> None:
    if not world.retired:
        return
    for name, data in world.objects:
        if name.endswith(".sidecar.json"):
            sidecar = Sidecar.parse(data)
            wraps = [sidecar.key_version, sidecar.previous and sidecar.previous.key_version]
            if OLD in wraps:
                raise ViolationError(f"{OLD} was retired, and {name} needs it")


def ends_at_the_target(state: State) -> None:
    """Judge where everybody has come to rest: what was said to be moved is at the target."""
    for mind in state.minds:
        assert isinstance(mind.next, Ended)
        if not isinstance(mind.next.result, tuple):
            continue
        for blob_id, outcome in mind.next.result:
            if outcome in {"rewrapped", "current"}:
                sidecar = state.world.sidecar(blob_id)
                if sidecar is None or Sidecar.parse(sidecar).key_version != NEW:
                    raise ViolationError(f"{blob_id} is called {outcome}, and is not at the target")
