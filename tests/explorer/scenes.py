"""The scenes: what is explored, and with how much going wrong."""

import base64
import json
from collections.abc import Iterator
from typing import Any

from keywrap.contents import content_format
from keywrap.datakey import DataKey
from keywrap.keys import WrappedKey
from keywrap.moves import Prove, Selection
from tests.explorer import actors, rules
from tests.explorer.replay import drawn_from
from tests.explorer.search import Budget, Scene
from tests.explorer.world import DIRECT, LAYOUT, LEGACY, World, sealed, text_of


def planted(world: World, blob_id: str, kind: str) -> World:
    """Add a blob as whoever wrote it before us.

    Args:
        world: where.
        blob_id: the blob.
        kind: `managed` (under version 1), `sealed` (under version 2), `kept` (under version 2, with
            the wrap of version 1 beside it), `legacy` (wrapped by a key of the environment, bound
            to nothing) or `bare` (encrypted with that key itself, without a sidecar).
    """
    plaintext = f"what {blob_id} was".encode()
    with drawn_from(f"planting {blob_id}"):
        data_key = DIRECT_KEY if kind == "bare" else DataKey.generate()
        content = content_format("gcm-v1").seal(data_key, plaintext)
        record = _record(world, blob_id, kind, data_key)
    world = world.with_object(LAYOUT.content_name(blob_id), content)
    if record is not None:
        world = world.with_object(LAYOUT.sidecar_name(blob_id), json.dumps(record).encode())
    plaintexts = {**dict(world.plaintexts), blob_id: plaintext}
    return World(world.objects, world.newest, plaintexts=tuple(sorted(plaintexts.items())))


DIRECT_KEY = DIRECT.unwrap(WrappedKey(actors.KeyVersion(DIRECT.key), b""), {})


def _record(world: World, blob_id: str, kind: str, data_key: DataKey) -> dict[str, Any] | None:
    if kind == "bare":
        return None
    record: dict[str, Any] = {"dek_version": 1, "content": "gcm-v1", "owner": "an application"}
    if kind == "legacy":
        return record | _wrap(LEGACY.wrap(data_key, {}))
    context = {"blob_id": blob_id}

    def of(number: int) -> dict[str, str]:
        nonce = bytes([number]) * 12
        return _wrap(sealed(world, number, nonce, data_key.reveal(), text_of(context)))

    record |= of(1 if kind == "managed" else 2) | {"context": context}
    if kind == "kept":
        record["previous"] = of(1)
    return record


def _wrap(wrapped: WrappedKey) -> dict[str, str]:
    text = base64.b64encode(wrapped.ciphertext).decode()
    return {"key_id": str(wrapped.key_version), "wrapped_dek": text}


def _world(newest: int, **blobs: str) -> World:
    world = World((), newest)
    for blob_id, kind in blobs.items():
        world = planted(world, blob_id, kind)
    return world


def swapping(world: World) -> Iterator[tuple[str, World]]:
    """What somebody with write access to the store may do to two blobs' sidecars."""
    a, b = (LAYOUT.sidecar_name(blob_id) for blob_id in ("a", "b"))
    objects = dict(world.objects)
    if a in objects and b in objects and objects[a] != objects[b]:
        yield "swaps the sidecars", world.with_object(a, objects[b]).with_object(b, objects[a])
        yield "copies b's sidecar to a", world.with_object(a, objects[b])
    for name in (a, b):
        if name in objects:
            record = json.loads(objects[name])
            yield f"spoils {name}", _with_record(world, name, record | {"wrapped_dek": _OTHER})
            if "previous" in record:
                before = {**record["previous"], "wrapped_dek": _OTHER}
                spoilt = _with_record(world, name, record | {"previous": before})
                yield f"spoils the wrap before in {name}", spoilt


def _with_record(world: World, name: str, record: dict[str, Any]) -> World:
    return world.with_object(name, json.dumps(record).encode())


_OTHER = base64.b64encode(bytes(60)).decode()


def rolling_back(first: World) -> Any:
    """Put an old sidecar back in the place of a newer one."""

    def attacks(world: World) -> Iterator[tuple[str, World]]:
        yield from swapping(world)
        for name, data in first.objects:
            if name.endswith(".sidecar.json") and dict(world.objects).get(name) != data:
                yield f"puts the first {name} back", world.with_object(name, data)

    return attacks


def scenes() -> dict[str, Scene]:
    """Return every scene, by name."""
    one, two = ("a",), ("a", "b")
    legacy, managed = _world(2, a="legacy", b="legacy"), _world(2, a="managed", b="managed")
    found = (
        Scene(
            "rotation",
            _world(2, a="managed"),
            (
                actors.forward("forward-1", one),
                actors.forward("forward-2", one),
                actors.writer("writer", "a"),
            ),
            Budget(lost=1, unsent=1, corrupt=1, stale=1, kills=1),
            rules.keeps_every_promise,
            at_rest=rules.ends_at_the_target,
        ),
        Scene(
            "rotation and retirement",
            _world(1, a="managed"),
            (
                actors.rotation(),
                actors.forward("forward", one),
                actors.undo("undo", one),
                actors.seal("seal", one),
                actors.writer("writer", "a"),
                actors.retirement(),
            ),
            Budget(lost=1, kills=1),
            rules.keeps_every_promise,
        ),
        Scene(
            "retirement",
            _world(1, a="legacy"),
            (actors.rotation(), actors.writer("writer", "a"), actors.retirement()),
            Budget(lost=1, unsent=1, kills=1, away=1),
            rules.keeps_every_promise,
        ),
        Scene(
            "rotation of two blobs",
            _world(2, a="managed", b="kept"),
            (
                actors.forward("forward-1", two),
                actors.forward("forward-2", ("b", "a")),
                actors.writer("writer", "b"),
            ),
            Budget(lost=1, kills=1, away=1),
            rules.keeps_every_promise,
            at_rest=rules.ends_at_the_target,
        ),
        Scene(
            "rotation in the key service",
            _world(1, a="managed"),
            (
                actors.rotation(),
                actors.forward("forward-1", one, prove=Prove.SAMPLE, rewraps=True),
                actors.forward("forward-2", one, prove=Prove.SAMPLE, rewraps=True),
                actors.undo("undo", one),
                actors.writer("writer", "a"),
            ),
            Budget(lost=1, unsent=1, kills=1, away=1),
            rules.keeps_every_promise,
        ),
        Scene(
            "migration of a bare blob",
            _world(2, a="bare"),
            (
                actors.forward("forward-1", one, selection=Selection.LEGACY),
                actors.forward("forward-2", one, selection=Selection.LEGACY),
                actors.writer("writer", "a"),
            ),
            Budget(lost=1, unsent=1, corrupt=1, kills=1),
            rules.keeps_every_promise,
            at_rest=rules.ends_at_the_target,
        ),
        Scene(
            "migration under attack",
            legacy,
            (
                actors.forward("forward-1", two, selection=Selection.LEGACY),
                actors.forward("forward-2", two, selection=Selection.LEGACY),
            ),
            Budget(corrupt=1, attacks=2),
            rules.launders_nothing,
            attacks=rolling_back(legacy),
        ),
        Scene(
            "rotation under attack",
            managed,
            (actors.forward("forward-1", two), actors.forward("forward-2", two)),
            Budget(corrupt=1, attacks=2),
            rules.launders_nothing,
            attacks=rolling_back(managed),
        ),
        Scene(
            "unwinding under attack",
            _world(2, a="kept", b="kept"),
            (actors.undo("undo", two), actors.seal("seal", two), actors.forward("forward", two)),
            Budget(lost=1, attacks=2),
            rules.launders_nothing,
            attacks=swapping,
        ),
        Scene(
            "re-encryption",
            _world(2, a="sealed"),
            (
                actors.reencrypt("reencrypt-1", one),
                actors.reencrypt("reencrypt-2", one),
                actors.writer("writer", "a"),
                actors.reader("reader", "a"),
            ),
            Budget(lost=1, unsent=1, corrupt=1, kills=1),
            rules.keeps_every_promise,
        ),
        Scene(
            "two writers",
            _world(2, a="sealed"),
            (
                actors.writer("writer-1", "a"),
                actors.writer("writer-2", "a"),
                actors.reencrypt("reencrypt", one),
                actors.reader("reader", "a"),
            ),
            Budget(lost=1, unsent=1, kills=2),
            rules.keeps_every_promise,
        ),
    )
    return {scene.name: scene for scene in found}
