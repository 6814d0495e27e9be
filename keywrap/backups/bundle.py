"""The format of a backup: parts in age format, and a manifest that lists them.

A part is an age file (age-encryption.org/v1) to one or more offline recipients, so that any age
tool opens it. Inside are JSON lines (RFC 8259): a header, a line for each blob, and a footer that
counts them, so that a part cut off inside is found as well as one cut off outside:

```json
{"format": "rewrap-backup-v1", "store": "file:///srv/blobs (…)", "campaign": 7, "escrow": false}
{"blob_id": "tenants/7/invoice.pdf", "sidecar": "<base64>"}
{"blobs": 1}
```

`sidecar` is the very bytes that lay beside the blob; null where there was no sidecar. In an escrow
`dek` holds the data key itself, which needs no KEK any more. The manifest is plain JSON without key
material: it names each part with its SHA-256 (FIPS 180-4), so that a backup is found whole without
the offline identity. The manifest's own SHA-256 stands for the whole.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from keywrap.datakey import DataKey
from keywrap.reasons import ReasonedError

FORMAT = "rewrap-backup-v1"


class BackupError(ReasonedError):
    """A backup cannot be written or is not whole; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a backup keeps of one blob.

    Attributes:
        blob_id: the blob.
        sidecar: the bytes beside it; None where there was no sidecar.
        data_key: the data key itself, in an escrow; None otherwise, or where it did not open.
    """

    blob_id: str
    sidecar: bytes | None = field(repr=False)
    data_key: DataKey | None = field(default=None, repr=False)


class PartEntry(msgspec.Struct, frozen=True):
    """A part as the manifest lists it: name, SHA-256 in hexadecimal, length in bytes, blobs."""

    name: str
    sha256: str
    bytes: int
    blobs: int
    escrowed: int = 0


class Manifest(msgspec.Struct, frozen=True):
    """The list of a backup's parts.

    Attributes:
        format: `rewrap-backup-v1`.
        campaign: the campaign that it was made for.
        store: the store, as the configuration describes it.
        escrow: whether it holds data keys themselves.
        recipients: whom it is encrypted to.
        created_at: when it was made (RFC 3339).
        blobs: how many blobs' sidecars it holds.
        keys: the encrypted metadata of the KEKs.
        parts: the parts.
    """

    format: str
    campaign: int
    store: str
    escrow: bool
    recipients: list[str]
    created_at: str
    blobs: int
    keys: PartEntry
    parts: list[PartEntry]

    def encode(self) -> bytes:
        """Return the manifest's bytes."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"

    @staticmethod
    def parse(data: bytes) -> "Manifest":
        """Read a manifest.

        Raises:
            BackupError: it is none of this format, or its counts do not add up.
        """
        try:
            manifest = _MANIFEST.decode(data)
        except msgspec.DecodeError as error:
            raise BackupError("manifest_malformed", f"the manifest is none: {error}") from None
        if manifest.format != FORMAT:
            raise BackupError("manifest_malformed", f"unknown format {manifest.format!r}")
        if sum(part.blobs for part in manifest.parts) != manifest.blobs:
            raise BackupError("manifest_malformed", "the manifest's counts do not add up")
        return manifest


_MANIFEST = msgspec.json.Decoder(Manifest)


def digest(data: bytes) -> str:
    """Return the SHA-256 of bytes in hexadecimal (FIPS 180-4)."""
    return hashlib.sha256(data).hexdigest()


def seal_part(header: dict[str, object], kept: Iterable[Kept], recipients: Sequence[str]) -> bytes:
    """Encrypt what is kept of some blobs.

    Args:
        header: what the first line says beside the format.
        kept: the blobs.
        recipients: age recipients (`age1…`), at least one.

    Returns:
        The part: an age file.

    Raises:
        BackupError: a recipient is none.
    """
    lines = [msgspec.json.encode({"format": FORMAT, **header})]
    lines += [msgspec.json.encode(_line(blob)) for blob in kept]
    lines.append(msgspec.json.encode({"blobs": len(lines) - 1}))
    return encrypt(b"\n".join(lines) + b"\n", recipients)


def _line(blob: Kept) -> dict[str, object]:
    line: dict[str, object] = {"blob_id": blob.blob_id, "sidecar": blob.sidecar}
    if blob.data_key is not None:
        line["dek"] = blob.data_key.reveal()  # the one place, beside providers, that writes it
    return line


def encrypt(data: bytes, recipients: Sequence[str]) -> bytes:
    """Encrypt bytes to age recipients.

    Raises:
        BackupError: `pyrage` is not installed, or a recipient is none.
    """
    pyrage = _pyrage()
    try:
        to = [pyrage.x25519.Recipient.from_str(recipient) for recipient in recipients]
        sealed: bytes = pyrage.encrypt(data, to)
    except (pyrage.RecipientError, pyrage.EncryptError) as error:
        raise BackupError(
            "backup_recipient_invalid",
            f"no age recipient: {error}",
            "age-keygen -o backup.key (its public key goes into [backup] recipients)",
        ) from None
    return sealed


def open_part(sealed: bytes, identities: Sequence[object]) -> tuple[dict[str, object], list[Kept]]:
    """Decrypt a part.

    Args:
        sealed: the part's bytes.
        identities: what `read_identities` returned.

    Returns:
        What its header says, and what it keeps.

    Raises:
        BackupError: it does not open with these, is no part, or is cut off.
    """
    lines = decrypt(sealed, identities).splitlines()
    try:
        header, *rest = [msgspec.json.decode(line) for line in lines]
        footer = rest.pop()
        is_whole = header["format"] == FORMAT and footer == {"blobs": len(rest)}
        kept = [_kept(line) for line in rest]
    except (msgspec.DecodeError, ValueError, KeyError, TypeError, IndexError):
        is_whole = False
    if not is_whole:
        raise BackupError("backup_part_malformed", "the part opens, but what is in it is not whole")
    return header, kept


def _kept(line: dict[str, str | None]) -> Kept:
    sidecar, dek, blob_id = line["sidecar"], line.get("dek"), line["blob_id"]
    if not isinstance(blob_id, str):
        raise TypeError("a blob id is a string")
    return Kept(
        blob_id,
        None if sidecar is None else binascii.a2b_base64(sidecar, strict_mode=True),
        None if dek is None else DataKey(base64.b64decode(dek, validate=True)),
    )


def decrypt(sealed: bytes, identities: Sequence[object]) -> bytes:
    """Decrypt an age file.

    Raises:
        BackupError: it does not open with these identities, or is altered or cut off.
    """
    pyrage = _pyrage()
    try:
        opened: bytes = pyrage.decrypt(sealed, list(identities))
    except pyrage.DecryptError as error:
        raise BackupError(
            "backup_part_does_not_open",
            f"it does not open with this identity: {error}",
            "use the identity of a recipient that the manifest names; its public key stands in it",
        ) from None
    return opened


def read_identities(text: str) -> list[object]:
    """Read a file of age identities, as `age-keygen` writes it.

    Args:
        text: the file; empty lines and lines that start with `#` are skipped.

    Raises:
        BackupError: it holds none. The message never holds what stands there.
    """
    pyrage = _pyrage()
    lines = [line.strip() for line in text.splitlines()]
    try:
        found: list[object] = [
            pyrage.x25519.Identity.from_str(line)
            for line in lines
            if line and not line.startswith("#")
        ]
    except pyrage.IdentityError:
        found = []
    if not found:
        raise BackupError(
            "backup_identity_malformed",
            "the file holds no age identity (AGE-SECRET-KEY-1…)",
            "look for the file that `rewrap backup-key` or `age-keygen` made: no new one opens it",
        )
    return found


def create_identity() -> tuple[str, str]:
    """Make a new age identity; return it with its recipient, each as text."""
    identity = _pyrage().x25519.Identity.generate()
    return str(identity), str(identity.to_public())


def require_recipient(text: str) -> None:
    """See that a text is an age recipient (`age1…`).

    Raises:
        BackupError: it is none.
    """
    encrypt(b"", [text])


def _pyrage() -> Any:  # noqa: ANN401 - a module without types
    try:
        import pyrage  # type: ignore[import-untyped] # noqa: PLC0415 - an optional extra
    except ImportError:
        raise BackupError(
            "backup_extra_missing",
            "backups need the library pyrage",
            "pip install 'keywrap[backup]'",
        ) from None
    return pyrage
