"""How a blob's id, its content and its sidecar are named in a store."""

import re
import unicodedata
from dataclasses import dataclass
from enum import Enum, auto

MAX_BLOB_ID_BYTES = 1024
"""The longest object key of S3, in bytes of UTF-8 (S3 User Guide, "object key names")."""

RESERVED = ".rewrap/"
"""The store's own corner: never blobs."""

_BIDI_CONTROLS = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
_GENERATION = re.compile(r"\.~[0-9a-f]{32}$")


class UnsafeBlobIdError(ValueError):
    """A blob id that is never turned into a name, with the reason.

    Args:
        reason_code: a short stable code, such as `blob_id_traversal`.
        message: a sentence for the operator.
    """

    def __init__(self, reason_code: str, message: str) -> None:
        super().__init__(message)
        self.reason_code = reason_code


def check_blob_id(blob_id: str) -> None:
    """Refuse a blob id that could name something else than one blob, or forge a log line.

    Spaces and letters of every script are ordinary: such blobs are moved like any other.

    Raises:
        UnsafeBlobIdError: it is empty, too long, not Unicode, or has control characters, a
            backslash, or an empty, `.` or `..` segment.
    """
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
    if any(_forges_lines(character) for character in blob_id):
        raise UnsafeBlobIdError(
            "blob_id_control_character", "the blob id has a control or direction-changing character"
        )
    if any(segment in {"", ".", ".."} for segment in blob_id.split("/")):
        raise UnsafeBlobIdError(
            "blob_id_traversal", "the blob id has an empty, '.' or '..' path segment"
        )


def _forges_lines(character: str) -> bool:
    """Whether a log line or terminal would show something else than is there."""
    return (
        unicodedata.category(character) in {"Cc", "Zl", "Zp"}
        or unicodedata.bidirectional(character) in _BIDI_CONTROLS
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

    def __post_init__(self) -> None:
        if self.sidecar_suffix in {"", self.blob_suffix}:
            raise ValueError("sidecar_suffix must be set and differ from blob_suffix")

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

    def parse(self, name: str) -> tuple[str, Part] | None:
        """Tell which part of which blob an object is, or None where it is no part of a blob."""
        if name.startswith(RESERVED) or _GENERATION.search(name):
            return None
        # The longer suffix first: `.blob.meta` must not be read as content where blob_suffix is "".
        for suffix, part in sorted(
            ((self.sidecar_suffix, Part.SIDECAR), (self.blob_suffix, Part.CONTENT)),
            key=lambda pair: -len(pair[0]),
        ):
            if name.endswith(suffix):
                return name.removesuffix(suffix), part
        return None
