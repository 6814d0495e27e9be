"""Who acts in the explorer's scenes: production code, each on a line of its own."""

from collections.abc import Callable, Sequence

from keywrap.blobs import BusyBlobError
from keywrap.keys import KeyVersion
from keywrap.kms import KmsError, ProofFailedError
from keywrap.moves import Goal, Prove, Report, Selection
from keywrap.reading import GoneError, QuarantineError
from keywrap.reencrypting import Reencrypter
from keywrap.rewrapping import Rewrapper
from keywrap.scan import scan
from keywrap.stores import StoreError
from keywrap.unwinding import Sealer, Undoer
from ledger.findings import CensusLine
from scheduler.retiring import needs
from tests.explorer.replay import Ended, Line
from tests.explorer.search import Actor, Scene, State, plaintext_of
from tests.explorer.world import LAYOUT, LEGACY_CONTENT, POOL, Tools, version

OLD, NEW = version(1), version(2)
_KNOWN = (KmsError, StoreError, ProofFailedError)
_Ready = Callable[[State, Scene], bool]


def rotated(state: State, _scene: Scene) -> bool:
    """Whether the KEK has its new version."""
    return state.world.newest == NEW_NUMBER


NEW_NUMBER = 2


def forward(
    name: str,
    blob_ids: Sequence[str],
    *,
    selection: Selection = Selection.MANAGED,
    prove: Prove = Prove.ALL,
    rewraps: bool = False,
) -> Actor:
    """A worker that moves blobs to the new version."""
    goal = Goal(NEW, selection, prove)
    return Actor(name, _engine(Rewrapper, blob_ids, goal, rewraps=rewraps), ready=rotated)


def undo(name: str, blob_ids: Sequence[str]) -> Actor:
    """A worker that puts the old wraps back; requested before any retirement begins."""
    run = _engine(Undoer, blob_ids, Goal(NEW, Selection.MANAGED, Prove.ALL))
    return Actor(name, run, ready=_before_retirement)


def seal(name: str, blob_ids: Sequence[str]) -> Actor:
    """A worker that strips the old wraps."""
    return Actor(name, _engine(Sealer, blob_ids, Goal(NEW, Selection.MANAGED, Prove.ALL)))


def reencrypt(name: str, blob_ids: Sequence[str]) -> Actor:
    """A worker that gives blobs new data keys and contents."""
    goal = Goal(NEW, Selection.ALL, Prove.ALL, mark=b"a campaign's mark")
    return Actor(name, _engine(Reencrypter, blob_ids, goal))


def _engine(
    kind: type[Rewrapper], blob_ids: Sequence[str], goal: Goal, *, rewraps: bool = False
) -> Callable[[Line], object]:
    def run(line: Line) -> object:
        tools = Tools.over(line, rewraps=rewraps)
        return _told(kind(tools.reader, tools.keys, LEGACY_CONTENT, POOL).rewrap(blob_ids, goal))

    return run


def _told(report: Report) -> tuple[tuple[str, str], ...]:
    told = tuple((result.blob_id, str(result.outcome)) for result in report.results)
    if report.interruption is None:
        return told
    # What the campaign stops for, a person looks at; anything else is tried again.
    stops = isinstance(report.interruption, ProofFailedError)
    return (*told, ("stopped" if stops else "interrupted", type(report.interruption).__name__))


def writer(name: str, blob_id: str) -> Actor:
    """An application that writes a blob anew."""

    def run(line: Line) -> str:
        Tools.over(line).blobs.put(blob_id, plaintext_of(name))
        return "written"

    return Actor(name, run, kind="writer", lives=1, knows=(*_KNOWN, BusyBlobError, QuarantineError))


def reader(name: str, blob_id: str) -> Actor:
    """An application that reads a blob, while others work on it."""

    def run(line: Line) -> bytes:
        return Tools.over(line).blobs.get(blob_id)

    return Actor(name, run, kind="reader", lives=1, knows=_KNOWN)


def rotation() -> Actor:
    """Whoever gives the KEK its new version."""
    return Actor("operator", lambda line: line.ask("rotate"), kind="operator")


def retirement() -> Actor:
    """Retiring the old version, in the order of `scheduler.retiring`, with its own gate.

    Its waits outlast whatever was on its way: `drain` is answered when everybody is at rest.
    """

    def run(line: Line) -> str:
        tools = Tools.over(line)
        if not is_clean(tools):
            return "refused"
        line.ask("disable", 1)
        line.ask("drain")
        if not is_clean(tools):
            line.ask("enable", 1)
            return "refused after the drain"
        line.ask("retire")
        return "retired"

    return Actor("retirement", run, kind="operator", ready=rotated)


def is_clean(tools: Tools) -> bool:
    """Whether a scan of the store finds nothing that needs the old version."""
    lines = [line for listed in _blobs(tools) for line in _census(tools, listed)]
    return not any(needs(lines, {OLD}))


def _blobs(tools: Tools) -> list[str]:
    return sorted(listed.blob_id for listed in scan(tools.reader.store, LAYOUT))


def _census(tools: Tools, blob_id: str) -> list[CensusLine]:
    try:
        seen = tools.reader.read(blob_id)
    except GoneError:
        return []
    except QuarantineError as error:
        return [_line(None, problem=error.reason_code, blobs=1)]
    live = [_line(seen.wrapped.key_version, blobs=1)]
    kept = seen.sidecar.previous
    return live if kept is None else [*live, _line(kept.key_version, previous=1)]


def _line(
    of: KeyVersion | None, *, problem: str = "", blobs: int = 0, previous: int = 0
) -> CensusLine:
    provider, key, number = (of.provider, of.key, of.version) if of else ("", "", "")
    return CensusLine(provider, key, number, problem, blobs, previous)


def _before_retirement(state: State, scene: Scene) -> bool:
    """Whether campaigns towards the old version may still be opened."""
    if not any(actor.name == "retirement" for actor in scene.actors):
        return True
    mind = state.minds[scene.place("retirement")]
    return not mind.answers or isinstance(mind.next, Ended)
