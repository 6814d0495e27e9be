"""How a blob's id, its content and its sidecar are named in a store."""

import re
from dataclasses import dataclass, field
from enum import Enum, auto

from keywrap.reasons import ReasonedError

MAX_BLOB_ID_BYTES = 1024
"""The longest object key of S3, in bytes of UTF-8 (S3 User Guide, "object key names")."""

RESERVED = ".rewrap/"
"""The store's own corner: never blobs."""

# What makes a log line or terminal show something else than is there: the controls (Unicode's
# category Cc), the line and paragraph separators (Zl, Zp) and the characters that only set a
# direction (bidirectional classes LRE to PDI). One class: a scan asks for every name it lists.
_FORGES_LINES = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_NOT_A_SEGMENT = frozenset({"", ".", ".."})
_PLAIN = re.compile("(?:[A-Za-z0-9_-][A-Za-z0-9_.-]*/)*[A-Za-z0-9_-][A-Za-z0-9_.-]*")
"""What nearly every blob id looks like, and nothing that is refused."""

_GENERATION = re.compile(r"\.~[0-9a-f]{32}$")


class UnsafeBlobIdError(ReasonedError, ValueError):
    """A blob id that is never turned into a name."""


def check_blob_id(blob_id: str) -> None:
    """Refuse a blob id that could name something else than one blob, or forge a log line.

    Spaces and letters of every script are ordinary: such blobs are moved like any other.

    Raises:
        UnsafeBlobIdError: it is empty, too long, not Unicode, or has control characters, a
            backslash, or an empty, `.` or `..` segment.
    """
    if len(blob_id) <= MAX_BLOB_ID_BYTES and _PLAIN.fullmatch(blob_id):
        return
    if not blob_id:
        raise UnsafeBlobIdError("blob_id_empty", "the blob id is empty")
    if "\\" in blob_id:
        # Names that are not UTF-8 are listed with backslash escapes, so they end here too.
        raise UnsafeBlobIdError("blob_id_not_portable", "the blob id has a backslash or raw bytes")
    try:
        size = len(blob_id.encode())
    except UnicodeEncodeError:
        raise UnsafeBlobIdError("blob_id_not_unicode", "the blob id is not Unicode") from None
    if size > MAX_BLOB_ID_BYTES:
        raise UnsafeBlobIdError(
            "blob_id_too_long", f"the blob id has more than {MAX_BLOB_ID_BYTES} bytes"
        )
    if _FORGES_LINES.search(blob_id):
        raise UnsafeBlobIdError(
            "blob_id_control_character", "the blob id has a control or direction-changing character"
        )
    if not _NOT_A_SEGMENT.isdisjoint(blob_id.split("/")):
        raise UnsafeBlobIdError(
            "blob_id_traversal", "the blob id has an empty, '.' or '..' path segment"
        )


class Part(Enum):
    """Which part of a blob an object is."""

    CONTENT = auto()
    SIDECAR = auto()


@dataclass(frozen=True, slots=True)
class Layout:
    """The naming rule of a store.

    Attributes:
        blob_suffix: what follows the blob id in the name of the content, such as `.blob`.
        sidecar_suffix: what follows the blob id in the name of the sidecar.

    Raises:
        ValueError: the two suffixes are the same, so that no name could be told apart.
    """

    blob_suffix: str = ""
    sidecar_suffix: str = ".sidecar.json"
    _suffixes: tuple[tuple[str, Part], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.sidecar_suffix in {"", self.blob_suffix}:
            raise ValueError("sidecar_suffix must be set and differ from blob_suffix")
        suffixes = (self.sidecar_suffix, Part.SIDECAR), (self.blob_suffix, Part.CONTENT)
        # The longer one first: `.blob.meta` must not be read as content where blob_suffix is "".
        longest_first = tuple(sorted(suffixes, key=lambda pair: -len(pair[0])))
        object.__setattr__(self, "_suffixes", longest_first)

    def sidecar_name(self, blob_id: str) -> str:
        """Return the name of the blob's sidecar.

        Raises:
            UnsafeBlobIdError: see `check_blob_id`.
        """
        check_blob_id(blob_id)
        return self._unmistakable(blob_id, blob_id + self.sidecar_suffix, Part.SIDECAR)

    def content_name(self, blob_id: str, generation: str | None = None) -> str:
        """Return the name of the blob's content.

        Args:
            blob_id: the blob's id.
            generation: 32 hexadecimal digits where the sidecar's `object` names one; None for
                content that lies under the blob's own name.

        Raises:
            UnsafeBlobIdError: see `check_blob_id`; also a generation of another form, since it
                is read from a sidecar and must not lead elsewhere.
        """
        check_blob_id(blob_id)
        name = self._unmistakable(blob_id, blob_id + self.blob_suffix, Part.CONTENT)
        if generation is None:
            return name
        if not _GENERATION.fullmatch(f".~{generation}"):
            raise UnsafeBlobIdError("object_name_refused", "`object` is not 32 hexadecimal digits")
        return f"{name}.~{generation}"

    def _unmistakable(self, blob_id: str, name: str, part: Part) -> str:
        # With the default suffixes the content of "x.sidecar.json" would be the sidecar of "x",
        # and the content of ".rewrap/control.json" the control file.
        if self.parse(name) != (blob_id, part):
            raise UnsafeBlobIdError(
                "blob_id_ambiguous", "the blob id would give an object a name of another meaning"
            )
        return name

    def content_of(self, name: str) -> tuple[str, str] | None:
        """Tell whose content an object is, of which generation; None where it is no content.

        Returns:
            The blob's id, and the generation: empty for content under the blob's own name.
        """
        found = _GENERATION.search(name)
        parsed = self.parse(name[: found.start()] if found else name)
        if parsed is None or parsed[1] is not Part.CONTENT:
            return None
        return parsed[0], found[0].removeprefix(".~") if found else ""

    def parse(self, name: str) -> tuple[str, Part] | None:
        """Tell which part of which blob an object is, or None where it is no part of a blob."""
        if name.startswith(RESERVED) or (".~" in name and _GENERATION.search(name)):
            return None
        for suffix, part in self._suffixes:
            if name.endswith(suffix):
                return name.removesuffix(suffix), part
        return None
