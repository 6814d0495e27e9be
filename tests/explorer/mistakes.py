"""The mistakes that `tests.explorer.bugs` plants: methods, written as somebody in a hurry would."""

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from keywrap.blobs import EncryptedBlobs
from keywrap.contents import NEW_CONTENT
from keywrap.contentwriting import write_content
from keywrap.datakey import DataKey
from keywrap.moves import Goal, Move, Outcome
from keywrap.reading import Seen, SidecarReader
from keywrap.reencrypting import Reencrypter
from keywrap.rewrapping import Rewrapper
from keywrap.sidecar import Sidecar
from keywrap.stores import AlreadyExistsError, ChangedError, Stored, StoreUnavailableError
from tests.explorer import actors
from tests.explorer.replay import Line
from tests.explorer.search import Actor, Scene
from tests.explorer.world import Tools

_REPLACE_ONE = Rewrapper._replace_one
_REWRAPPED = Sidecar.rewrapped


def nothing(_self: object, _moves: Sequence[Move], _goal: Goal) -> None:
    """Skip a step."""


def _name(rewrapper: Rewrapper, move: Move) -> str:
    return rewrapper.reader.layout.sidecar_name(move.blob_id)


# At the write


def reads_the_tag_anew(self: Rewrapper, move: Move, goal: Goal) -> None:
    assert move.seen is not None
    move.seen = replace(move.seen, stored=self.reader.store.read(_name(self, move)))
    _REPLACE_ONE(self, move, goal)


def forces_after_a_conflict(self: Rewrapper, move: Move, goal: Goal) -> None:
    data, name, store = self.record(move, goal), _name(self, move), self.reader.store
    assert move.seen is not None
    try:
        if move.seen.stored is None:
            store.create(name, data)
        else:
            store.replace(name, data, move.seen.stored)
    except (ChangedError, AlreadyExistsError):
        store.replace(name, data, store.read(name))
    move.end(Outcome.REWRAPPED)


def takes_it_back(
    self: Rewrapper, move: Move, name: str, meant: bytes, cause: StoreUnavailableError
) -> None:
    assert move.seen is not None
    if move.seen.stored is not None:
        self.reader.store.replace(name, move.seen.stored.data, Stored(meant, ""))
    raise cause


def believes_in_it(_self: Rewrapper, move: Move, *_: object) -> None:
    move.end(Outcome.REWRAPPED)


def creates_over_it(self: Rewrapper, move: Move, goal: Goal) -> None:
    name, store = _name(self, move), self.reader.store
    assert move.seen is not None
    if move.seen.stored is not None:
        _REPLACE_ONE(self, move, goal)
        return
    store.delete(name)
    store.create(name, self.record(move, goal))
    move.end(Outcome.REWRAPPED)


# Before it


def writes_before_it_proves(self: Rewrapper, last: Any) -> Sequence[Any]:
    return self.read, self.open, self.match, self.wrap, last, self.prove


def takes_any_version(
    _self: Rewrapper, moves: Sequence[Move], wraps: Sequence[Any], _goal: Goal
) -> None:
    for move, wrapped in zip(moves, wraps, strict=True):
        move.new = wrapped


def believes_the_sidecars_context(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(self: SidecarReader, blob_id: str) -> Seen:
        stored = self._stored(blob_id)
        sidecar = Sidecar.parse(stored.data) if stored else Sidecar()
        return Seen(stored, sidecar, sidecar.wrapped(self.legacy_default))

    def context(self: Move) -> dict[str, str]:
        said = self.seen.sidecar.context if self.seen else None
        return dict(said or {"blob_id": self.blob_id})

    monkeypatch.setattr(SidecarReader, "read", read)
    monkeypatch.setattr(Move, "context", property(context))


# The record


def counts_nothing(self: Sidecar, *args: Any, **kwargs: Any) -> Sidecar:
    return replace(_REWRAPPED(self, *args, **kwargs), dek_version=self.dek_version)


def keeps_ours_only(self: Sidecar, *args: Any, **kwargs: Any) -> Sidecar:
    return replace(_REWRAPPED(self, *args, **kwargs), extra={})


def keeps_no_wrap(self: Move, *, keep_previous: bool) -> bytes:  # noqa: ARG001 - as it is called
    assert self.seen is not None
    assert self.new is not None
    return self.seen.sidecar.rewrapped(self.new, self.context, None).to_bytes()


# Applications


def overwrites_the_content(self: EncryptedBlobs, blob_id: str, source: io.BytesIO) -> None:
    store, name = self.reader.store, self.reader.layout.content_name(blob_id)
    data_key = DataKey.generate()
    wrapped = self._wraps.wrap(blob_id, data_key)
    store.delete(name)
    write_content(store, name, data_key, source)
    seen = self.reader.read(blob_id)
    moved = seen.sidecar.rewrapped(wrapped, {"blob_id": blob_id}, previous=None)
    data = replace(moved, content=NEW_CONTENT, object=None).to_bytes()
    assert seen.stored is not None
    store.replace(self.reader.layout.sidecar_name(blob_id), data, seen.stored)


def commits_what_is_old(
    self: EncryptedBlobs, blob_id: str, generation: str, _key: DataKey, wrapped: Any, _watch: Any
) -> None:
    name, store = self.reader.layout.sidecar_name(blob_id), self.reader.store
    seen = self.reader.read(blob_id)
    moved = seen.sidecar.rewrapped(wrapped, {"blob_id": blob_id}, previous=None)
    data = replace(moved, content=NEW_CONTENT, object=generation).to_bytes()
    while True:
        try:
            store.replace(name, data, store.read(name))
        except ChangedError:
            continue
        return


# Re-encryption


def commits_before_it_writes(self: Reencrypter, last: Any) -> Sequence[Any]:
    return self.read, self.open, self.match, self.wrap, self.prove, last, self.encrypt


def throws_the_new_content_away(
    self: Rewrapper, move: Move, _name: str, _meant: bytes, cause: StoreUnavailableError
) -> None:
    self.reader.store.delete(self.reader.layout.content_name(move.blob_id, move.generation))
    raise cause


def removes_the_old_content(monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Reencrypter._copy

    def and_removes(self: Reencrypter, move: Move) -> None:
        copy(self, move)
        assert move.seen is not None
        self.reader.store.delete(self._name(move, move.seen.sidecar.object))

    monkeypatch.setattr(Reencrypter, "_copy", and_removes)


# Retirement: the order of its steps


def with_retirement(run: Callable[[Line], str]) -> Callable[[Scene], Scene]:
    def changed(scene: Scene) -> Scene:
        new = Actor("retirement", run, kind="operator", ready=actors.rotated)
        old = scene.place("retirement")
        return replace(scene, actors=(*scene.actors[:old], new, *scene.actors[old + 1 :]))

    return changed


def scans_once(line: Line) -> str:
    if not actors.is_clean(Tools.over(line)):
        return "refused"
    line.ask("disable", 1)
    line.ask("drain")
    line.ask("retire")
    return "retired"


def does_not_wait(line: Line) -> str:
    for _ in range(2):
        if not actors.is_clean(Tools.over(line)):
            return "refused"
    line.ask("disable", 1)
    line.ask("retire")
    return "retired"


def looks_nowhere(line: Line) -> str:
    line.ask("disable", 1)
    line.ask("drain")
    line.ask("retire")
    return "retired"


def order_alone(_monkeypatch: pytest.MonkeyPatch) -> None:
    """Change nothing but the order of the steps."""


def overlooks_previous(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = actors.needs

    def live_only(*args: Any) -> tuple[int, int, int]:
        live, _, unread = needs(*args)
        return live, 0, unread

    monkeypatch.setattr(actors, "needs", live_only)


def opens_nothing(kind: type[Rewrapper]) -> Callable[[pytest.MonkeyPatch], None]:
    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(kind, "open", nothing, raising=False)
        monkeypatch.setattr(kind, "match", nothing, raising=False)

    return plant
