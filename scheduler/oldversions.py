"""What a bucket keeps of sidecars that were replaced or removed: wraps that may need an old key."""

from collections.abc import Callable
from dataclasses import dataclass, field

from keywrap.config import open_reader
from keywrap.keys import KeyVersion
from keywrap.layout import Layout, Part
from keywrap.sidecar import MAX_SIDECAR_BYTES, BadSidecarError, Sidecar
from keywrap.stores import VersionedStore, VersionsUnseenError
from scheduler.desk import Desk

_NAMED = 5


@dataclass(slots=True)
class OldWraps:
    """What old versions of sidecars hold.

    Attributes:
        needing: versions whose wrap, or the one before it, needs a KEK version.
        unreadable: versions of which it cannot be told.
        named: some of the blobs that have such a version.
        unseen: why old versions were not looked into; empty where they were.
    """

    needing: int = 0
    unreadable: int = 0
    named: list[str] = field(default_factory=list)
    unseen: str = ""

    def take(self, blob_id: str, data: bytes | None, needs: Callable[[KeyVersion], bool]) -> None:
        """Count one version."""
        try:
            versions = _versions_of(data)
        except BadSidecarError:
            self.unreadable += 1
        else:
            if not any(needs(version) for version in versions):
                return
            self.needing += 1
        if len(self.named) < _NAMED and blob_id not in self.named:
            self.named.append(blob_id)


def look_back(desk: Desk, needs: Callable[[KeyVersion], bool]) -> OldWraps:
    """Look into every old version of every sidecar.

    Args:
        desk: the operator's desk.
        needs: whether a wrap under a KEK version counts.

    Raises:
        StoreUnavailableError: the store does not answer, or refuses; the message says why.
    """
    found = OldWraps()
    reader = open_reader(desk.settings.keywrap)
    if not isinstance(reader.store, VersionedStore):
        found.unseen = "a folder keeps none; snapshots of its file system are not seen"
        return found
    layout = reader.layout
    try:
        for name, data in reader.store.old_versions(
            lambda name: _is_sidecar(layout, name), MAX_SIDECAR_BYTES
        ):
            parsed = layout.parse(name)
            found.take(parsed[0] if parsed else name, data, needs)
    except VersionsUnseenError as error:
        found.unseen = str(error)
    return found


def _is_sidecar(layout: Layout, name: str) -> bool:
    parsed = layout.parse(name)
    return parsed is not None and parsed[1] is Part.SIDECAR


def _versions_of(data: bytes | None) -> list[KeyVersion]:
    """Return the KEK versions that a sidecar needs, or needed before it was rewritten.

    Raises:
        BadSidecarError: it cannot be read.
    """
    if data is None:
        raise BadSidecarError("sidecar_too_large", "the sidecar is too large")
    sidecar = Sidecar.parse(data)
    found = [sidecar.previous.key_version] if sidecar.previous else []
    if sidecar.key_version is not None:
        found.append(sidecar.key_version)
    return found
