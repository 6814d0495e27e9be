"""The scan: which blobs lie in a store."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from keywrap.layout import Layout, Part
from keywrap.stores import Store, TaggedStore

BEAT_NAMES = 1000


@dataclass(frozen=True, slots=True)
class Listed:
    """A blob that a scan found.

    Attributes:
        blob_id: its id, not yet checked: `Layout.sidecar_name` refuses one that is not safe.
        has_content: whether an object has the blob's own name. False is no alarm by itself:
            the content may lie under the name that the sidecar's `object` says.
        has_sidecar: whether it has a sidecar.
        tag: the version tag of its sidecar; "" where the store's listing says none.
    """

    blob_id: str
    has_content: bool
    has_sidecar: bool
    tag: str = ""


def scan(
    store: Store,
    layout: Layout,
    prefix: str = "",
    part: int = 0,
    parts: int = 1,
    *,
    beat: Callable[[], None] = lambda: None,
) -> Iterator[Listed]:
    """Yield each blob of a store once, or of one part of it, in no promised order.

    A blob whose content and sidecar were both seen comes at once, the others at the end. The ids
    of this part are held in memory: about 150 bytes each.

    Args:
        store: the store.
        layout: its naming rule; what is no part of a blob is left out.
        prefix: only blobs whose id starts so.
        part: which part, counted from 0.
        parts: how many parts there are; each blob belongs to the same one in every scan.
        beat: called every `BEAT_NAMES` names. A long listing may come before the first blob, and
            whoever is to stop by then learns it here: what it raises ends the scan.

    Raises:
        ValueError: there is no such part.
        StoreUnavailableError: the store stopped answering; what was yielded is incomplete.
    """
    if not 0 <= part < parts:
        raise ValueError(f"there is no part {part} of {parts}")
    return _scan(store, layout, prefix, part, parts, beat)


def _scan(
    store: Store, layout: Layout, prefix: str, part: int, parts: int, beat: Callable[[], None]
) -> Iterator[Listed]:
    seen: dict[str, Part | None] = {}  # None: both parts seen, and yielded
    tags: dict[str, str] = {}  # of sidecars whose contents were not seen yet
    parse = layout.parse
    for number, (name, tag) in enumerate(_names(store, prefix), 1):
        if number % BEAT_NAMES == 0:
            beat()
        parsed = parse(name)
        if parsed is None:
            continue
        blob_id, is_part = parsed
        if not blob_id.startswith(prefix) or (parts > 1 and part_of(blob_id, parts) != part):
            continue
        if tag and is_part is Part.SIDECAR:
            tags[blob_id] = tag
        # A file that is renamed while its folder is listed may be listed twice.
        before = seen.setdefault(blob_id, is_part)
        if before is not None and before is not is_part:
            seen[blob_id] = None
            yield Listed(blob_id, has_content=True, has_sidecar=True, tag=tags.pop(blob_id, ""))
    for blob_id, only in seen.items():
        if only is not None:
            is_sidecar = only is Part.SIDECAR
            yield Listed(blob_id, not is_sidecar, is_sidecar, tags.get(blob_id, ""))


def _names(store: Store, prefix: str) -> Iterator[tuple[str, str]]:
    if isinstance(store, TaggedStore):
        return store.tagged(prefix)
    return ((name, "") for name in store.names(prefix))


def contents(
    store: Store,
    layout: Layout,
    prefix: str = "",
    part: int = 0,
    parts: int = 1,
    *,
    beat: Callable[[], None] = lambda: None,
) -> dict[str, list[str]]:
    """Return the generations of each blob's contents, "" for that under its own name.

    Args:
        store: the store.
        layout: its naming rule.
        prefix: only blobs whose id starts so.
        part: which part, as in `scan`.
        parts: how many parts there are.
        beat: as in `scan`.

    Raises:
        StoreUnavailableError: the store stopped answering.
    """
    found: dict[str, list[str]] = {}
    for number, name in enumerate(store.names(prefix), 1):
        if number % BEAT_NAMES == 0:
            beat()
        known = layout.content_of(name)
        if known is None:
            continue
        blob_id, generation = known
        if blob_id.startswith(prefix) and part_of(blob_id, parts) == part:
            found.setdefault(blob_id, []).append(generation)
    return found


def part_of(blob_id: str, parts: int) -> int:
    """Return the part that a blob belongs to; the same on every host and in every release."""
    return zlib.crc32(blob_id.encode("utf-8", "surrogatepass")) % parts
