"""The world of the explorer: objects and one KEK, as a value; and what each request makes of it."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keywrap.blobs import EncryptedBlobs
from keywrap.datakey import DataKey
from keywrap.keyring import KeyRing
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import Context, DeniedError, RefusedError, UnavailableError
from keywrap.layout import RESERVED, Layout
from keywrap.providers.env import EnvKeyProvider
from keywrap.reading import SidecarReader
from keywrap.stores import (
    AlreadyExistsError,
    ChangedError,
    NotFoundError,
    Stored,
    StoreUnavailableError,
)
from tests.explorer.replay import Answer, Line, Request
from tests.worlds import InlineExecutor

KEK = "hcvault://explorer/blob-kek"
LAYOUT = Layout()
LEGACY_CONTENT = "gcm-v1"
LEGACY = EnvKeyProvider("OLD_KEK", DataKey(hashlib.sha256(b"legacy").digest()), "aes-gcm")
DIRECT = EnvKeyProvider("BLOB_KEY", DataKey(hashlib.sha256(b"direct").digest()), "direct")
POOL = InlineExecutor()

Objects = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True)
class World:
    """Everything outside the actors.

    Attributes:
        objects: the store's, by name.
        newest: the KEK's newest version.
        disabled: versions that open nothing now.
        plaintexts: what a reader of each blob must get: what its last writer committed.
        wrote: who has committed a sidecar: actor and blob.
        retired: whether version 1 was taken out of use for good.
    """

    objects: Objects
    newest: int = 1
    disabled: frozenset[int] = frozenset()
    plaintexts: tuple[tuple[str, bytes], ...] = ()
    wrote: frozenset[tuple[str, str]] = frozenset()
    retired: bool = False

    def with_object(self, name: str, data: bytes | None) -> "World":
        """Return the world with an object put, or taken away."""
        objects = dict(self.objects)
        objects.pop(name, None)
        if data is not None:
            objects[name] = data
        return replace(self, objects=tuple(sorted(objects.items())))

    def sidecar(self, blob_id: str) -> bytes | None:
        """Return a blob's sidecar."""
        return dict(self.objects).get(LAYOUT.sidecar_name(blob_id))


def version(number: int) -> KeyVersion:
    """Return a version of the KEK."""
    return KeyVersion(KEK, str(number))


# What requests make of the world


def answered(world: World, request: Request) -> tuple[World, Answer]:
    """Do what is asked; a function of the two, so that it need be done only once."""
    try:
        after, value = _DOES[request.kind](world, *request.args)
    except (NotFoundError, AlreadyExistsError, ChangedError) as error:
        return world, Answer(str(error), type(error))
    except (DeniedError, RefusedError) as error:
        return world, Answer(str(error), type(error), (("reason_code", error.reason_code),))
    return after, Answer(value)


def _read(world: World, name: str) -> tuple[World, Stored]:
    data = _object(world, name)
    return world, Stored(data, hashlib.sha256(data).hexdigest())


def _read_range(world: World, name: str, start: int, length: int) -> tuple[World, bytes]:
    return world, _object(world, name)[start : start + length]


def _object(world: World, name: str) -> bytes:
    for known, data in world.objects:
        if known == name:
            return data
    raise NotFoundError(f"there is no {name!r}")


def _create(world: World, name: str, data: bytes) -> tuple[World, None]:
    if any(known == name for known, _ in world.objects):
        raise AlreadyExistsError(f"{name!r} is there already")
    return world.with_object(name, data), None


def _replace(world: World, name: str, data: bytes, expected: bytes) -> tuple[World, None]:
    if dict(world.objects).get(name) != expected:
        raise ChangedError(f"{name!r} is no longer what was read")
    return world.with_object(name, data), None


def _delete(world: World, name: str) -> tuple[World, None]:
    return world.with_object(name, None), None


def _names(world: World, prefix: str) -> tuple[World, tuple[str, ...]]:
    return world, tuple(
        name for name, _ in world.objects if name.startswith(prefix) and not _is_own(name)
    )


def _is_own(name: str) -> bool:
    return name.startswith(RESERVED)


def _newest(world: World) -> tuple[World, KeyVersion]:
    return world, version(world.newest)


def _wrap(world: World, nonce: bytes, key: bytes, context: str) -> tuple[World, WrappedKey]:
    return world, sealed(world, world.newest, nonce, key, context)


def sealed(world: World, number: int, nonce: bytes, key: bytes, context: str) -> WrappedKey:
    """Wrap a data key as the service does. The nonce, else its own, is drawn by who asks."""
    if number in world.disabled:
        raise DeniedError(f"version {number} is disabled", reason_code="version_disabled")
    return WrappedKey(
        version(number), nonce + _cipher(number).encrypt(nonce, key, context.encode())
    )


def _unwrap(world: World, wrapped: WrappedKey, context: str) -> tuple[World, bytes]:
    number = wrapped.key_version.version
    if number not in {str(n) for n in range(1, world.newest + 1)}:
        raise RefusedError("the key has no such version", reason_code="wrap_version_unknown")
    if int(number) in world.disabled:
        raise DeniedError(f"version {number} is disabled", reason_code="version_disabled")
    nonce, data = wrapped.ciphertext[:12], wrapped.ciphertext[12:]
    try:
        return world, _cipher(int(number)).decrypt(nonce, data, context.encode())
    except (InvalidTag, ValueError):
        raise RefusedError("the wrap does not open", reason_code="wrap_does_not_open") from None


def _rewrap(
    world: World, nonce: bytes, wrapped: WrappedKey, context: str
) -> tuple[World, WrappedKey]:
    _, key = _unwrap(world, wrapped, context)
    return _wrap(world, nonce, key, context)


def _rotate(world: World) -> tuple[World, None]:
    return replace(world, newest=world.newest + 1), None


def _disable(world: World, number: int) -> tuple[World, None]:
    return replace(world, disabled=world.disabled | {number}), None


def _enable(world: World, number: int) -> tuple[World, None]:
    return replace(world, disabled=world.disabled - {number}), None


def _retire(world: World) -> tuple[World, None]:
    return replace(world, retired=True), None


def _drain(world: World) -> tuple[World, None]:
    return world, None


_DOES: dict[str, Callable[..., tuple[World, Any]]] = {
    "read": _read,
    "read_range": _read_range,
    "create": _create,
    "replace": _replace,
    "delete": _delete,
    "names": _names,
    "newest": _newest,
    "wrap": _wrap,
    "unwrap": _unwrap,
    "rewrap": _rewrap,
    "rotate": _rotate,
    "disable": _disable,
    "enable": _enable,
    "retire": _retire,
    "drain": _drain,
}


@cache
def _cipher(number: int) -> AESGCM:
    return AESGCM(hashlib.sha256(f"kek {number}".encode()).digest())


def _nonce() -> bytes:
    return os.urandom(12)


def text_of(context: Context) -> str:
    """Return a context as the service binds it."""
    return json.dumps(dict(context), sort_keys=True)


# What actors see of it


class LineStore:
    """The store, at the other end of an actor's line."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def check(self) -> None:
        """It is there."""

    def read(self, name: str, *, limit: int | None = None) -> Stored:  # noqa: ARG002 - a Store has it
        """Read an object whole."""
        stored: Stored = self._line.ask("read", name)
        return stored

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Read a part of an object."""
        part: bytes = self._line.ask("read_range", name, start, length)
        return part

    def create(self, name: str, data: bytes) -> None:
        """Create an object, only if there is none."""
        self._line.ask("create", name, bytes(data))

    def replace(self, name: str, data: bytes, expected: Stored) -> None:
        """Replace an object, only if it is what was read."""
        self._line.ask("replace", name, bytes(data), expected.data)

    def delete(self, name: str) -> None:
        """Remove an object."""
        self._line.ask("delete", name)

    def names(self, prefix: str = "") -> Iterator[str]:
        """Yield the names of objects."""
        return iter(self._line.ask("names", prefix))


class LineProvider:
    """The KEK, at the other end of an actor's line."""

    key = KEK
    binds_context: ClassVar[bool] = True
    proves_wraps: ClassVar[bool] = False

    def __init__(self, line: Line) -> None:
        self._line = line
        self.requests = 0

    def current_version(self) -> KeyVersion:
        """Return the newest version."""
        newest: KeyVersion = self._line.ask("newest")
        return newest

    def wrap(self, data_key: DataKey, context: Context) -> WrappedKey:
        """Wrap a data key under the newest version."""
        wrapped: WrappedKey = self._line.ask("wrap", _nonce(), data_key.reveal(), text_of(context))
        return wrapped

    def unwrap(self, wrapped: WrappedKey, context: Context) -> DataKey:
        """Open a wrap."""
        return DataKey(self._line.ask("unwrap", wrapped, text_of(context)))


class RewrappingLineProvider(LineProvider):
    """One whose service moves wraps without showing the data key."""

    def rewraps_from(self, key: str) -> bool:
        """Whether wraps of a KEK can be moved: those of the key itself."""
        return key == KEK

    def rewrap_many(
        self, items: Sequence[tuple[WrappedKey, Context]]
    ) -> list[WrappedKey | RefusedError | UnavailableError]:
        """Move each wrap to the newest version."""
        moved: list[WrappedKey | RefusedError | UnavailableError] = []
        for wrapped, context in items:
            try:
                moved.append(self._line.ask("rewrap", _nonce(), wrapped, text_of(context)))
            except RefusedError as error:
                moved.append(error)
        return moved


@dataclass(frozen=True)
class Tools:
    """What production code is made with, over one line."""

    reader: SidecarReader
    keys: KeyRing
    blobs: EncryptedBlobs
    line: Line

    @classmethod
    def over(cls, line: Line, *, rewraps: bool = False) -> "Tools":
        """Make them."""
        reader = SidecarReader(LineStore(line), LAYOUT, KeyVersion(DIRECT.key))
        kek = (RewrappingLineProvider if rewraps else LineProvider)(line)
        keys = KeyRing([kek, LEGACY, DIRECT], primary=KEK)
        return cls(
            reader, keys, EncryptedBlobs(reader, keys, LEGACY_CONTENT, audit=_Silent()), line
        )


class _Silent:
    """An audit sink that keeps nothing."""

    def event(self, event: Mapping[str, object]) -> None:
        """Drop an event."""


def aside(world: World) -> Tools:
    """Return tools that see a world as it is, and ask nobody."""

    def now(request: Request) -> Any:
        return answered(world, request)[1].give()

    return Tools.over(Line((), now))


UNANSWERED = Answer("nobody answers", StoreUnavailableError)
AWAY = Answer("the key service does not answer", UnavailableError)
