"""Opening a backup: whether it is whole, part by part, in memory that does not grow with it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Self

from keywrap.backups.bundle import (
    BackupError,
    Kept,
    Manifest,
    decrypt,
    digest,
    open_part,
    read_identities,
)
from keywrap.backups.vault import BackupUnavailableError, Vault
from keywrap.sidecar import BadSidecarError, Sidecar
from keywrap.stores import NotFoundError

_MANIFEST = re.compile(r"campaign-\d{6,}/manifest-\d{9,}-\d+\.json")


_ELSEWHERE = "name the place of the backups: --from URL"


def _order(manifest: str) -> list[int]:
    """Order manifests by campaign, shard and claim; their names do so up to a length only."""
    return [int(number) for number in re.findall(r"\d+", manifest)]


@dataclass(slots=True)
class Opened:
    """What the check of a backup found.

    Attributes:
        manifest: the name of the list of its parts.
        sha256: the SHA-256 of that list, which stands for the whole.
        parts: how many parts it has.
        blobs: how many blobs' sidecars it holds.
        opened: how many of them were decrypted and read; 0 without an identity.
        escrowed: of how many it holds the data key itself.
        faults: what is wrong, a sentence each.
    """

    manifest: str
    sha256: str
    parts: int = 0
    blobs: int = 0
    opened: int = 0
    escrowed: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong with it."""
        return not self.faults

    def document(self) -> dict[str, Any]:
        """Return the document that `rewrap backup verify --json` prints."""
        names = ("manifest", "sha256", "parts", "blobs", "opened", "escrowed", "faults")
        return {"whole": self.is_whole} | {name: getattr(self, name) for name in names}

    def lines(self) -> list[str]:
        """Say it, a line each."""
        what = f"{self.opened:,} opened and read" if self.opened else "digests checked, not opened"
        return [
            f"{self.manifest}: {self.parts:,} parts, {self.blobs:,} blobs, {what}",
            *(f"wrong: {fault}" for fault in self.faults),
            "the backup is whole" if self.is_whole else "the backup is NOT whole",
        ]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A backup in its place.

    Attributes:
        vault: the place.
        name: the name of its manifest there.
        sha256: the SHA-256 that the manifest must have; empty where nobody knows it.
    """

    vault: Vault
    name: str
    sha256: str = ""

    @classmethod
    def find(cls, vault: Vault, name: str | None) -> Self:
        """Return a backup by the name of its manifest, or the newest of the place.

        Raises:
            BackupError: there is none.
            StoreUnavailableError: the place did not answer.
        """
        if name is None:
            found = [n for n in vault.store.names() if _MANIFEST.fullmatch(n)]
            if not found:
                raise BackupError("no_such_backup", f"{vault.place} holds no backup", _ELSEWHERE)
            name = max(found, key=_order)
        elif not _MANIFEST.fullmatch(name):
            raise BackupError(
                "no_such_backup", f"{name!r} is no manifest", "leave out --manifest for the newest"
            )
        return cls(vault, name)

    @property
    def manifest(self) -> Manifest:
        """The list of its parts.

        Raises:
            BackupError: it is none.
            BackupUnavailableError: it is not there, or is another one.
        """
        return Manifest.parse(self._manifest_bytes())

    def _manifest_bytes(self) -> bytes:
        if self.sha256:
            return self.vault.read(self.name, self.sha256)
        try:
            return self.vault.store.read(self.name).data
        except NotFoundError:
            raise BackupError(
                "no_such_backup", f"{self.name} is not in {self.vault.place}", _ELSEWHERE
            ) from None

    def check(self) -> Opened:
        """See that every part is there and unaltered; needs no identity."""
        return self._walk([])

    def open(self, identity: str) -> Opened:
        """See that every part is whole, opens and can be read.

        Args:
            identity: the text of an age identity file.

        Raises:
            BackupError: it holds no identity.
        """
        return self._walk(read_identities(identity))

    def _walk(self, identities: list[object]) -> Opened:
        data = self._manifest_bytes()
        manifest = Manifest.parse(data)
        found = Opened(self.name, digest(data), len(manifest.parts), manifest.blobs)
        for entry in (*manifest.parts, manifest.keys):
            try:
                sealed = self.vault.read(entry.name, entry.sha256)
                if identities and entry is manifest.keys:
                    decrypt(sealed, identities)
                elif identities:
                    _, kept = open_part(sealed, identities)
                    self._count(found, kept, entry.blobs)
            except (BackupError, BackupUnavailableError) as error:
                found.faults.append(f"{entry.name}: {error}")
        return found

    def _count(self, found: Opened, kept: list[Kept], blobs: int) -> None:
        if len(kept) != blobs:
            raise BackupError(
                "backup_part_malformed", f"it holds {len(kept)} blobs and is said to hold {blobs}"
            )
        found.opened += len(kept)
        found.escrowed += sum(one.data_key is not None for one in kept)

    def parts(self, identity: str) -> Iterator[list[Kept]]:
        """Yield what each part keeps.

        Raises:
            BackupError: a part does not open with this identity.
            BackupUnavailableError: a part is missing or altered.
        """
        identities = read_identities(identity)
        for entry in self.manifest.parts:
            _, kept = open_part(self.vault.read(entry.name, entry.sha256), identities)
            yield kept


def sidecar_of(kept: Kept) -> Sidecar | None:
    """Return the sidecar that a backup keeps of a blob; None where it is no sidecar."""
    if kept.sidecar is None:
        return Sidecar()
    try:
        return Sidecar.parse(kept.sidecar)
    except BadSidecarError:
        return None
