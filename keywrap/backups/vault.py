"""The place of backups: what is written there is read back, and found altered or missing."""

from dataclasses import dataclass

from keywrap.backups.bundle import digest
from keywrap.stores import NotFoundError, Store, StoreUnavailableError


class BackupUnavailableError(StoreUnavailableError):
    """No backup can be written or read here now. Whatever waits for it was left untouched.

    Args:
        message: a sentence for the operator.
        reason_code: a short stable code.
    """

    def __init__(self, message: str, reason_code: str = "backup_unavailable") -> None:
        super().__init__(message)
        self.reason_code = reason_code


@dataclass(frozen=True, slots=True)
class Vault:
    """Where backups go.

    Attributes:
        store: the place.
        place: the same, as the configuration describes it.
        recipients: the age recipients (`age1…`) that can open them.
    """

    store: Store
    place: str
    recipients: tuple[str, ...] = ()

    def write(self, name: str, data: bytes) -> str:
        """Write an object, durably, and read it back whole.

        Returns:
            SHA-256 of its bytes, in hexadecimal.

        Raises:
            BackupUnavailableError: what is read back is not what was written.
            AlreadyExistsError: there is one of that name; it is unchanged.
            StoreUnavailableError: the place did not answer.
        """
        self.store.create(name, data)
        sha256 = digest(data)
        self.read(name, sha256)
        return sha256

    def read(self, name: str, sha256: str) -> bytes:
        """Read an object that has this SHA-256.

        Raises:
            BackupUnavailableError: it is not there, or is another one.
            StoreUnavailableError: the place did not answer.
        """
        try:
            data = self.store.read(name).data
        except NotFoundError:
            raise BackupUnavailableError(
                f"{name} is not in {self.place}: do all workers share the place of backups?",
                "backup_part_missing",
            ) from None
        if digest(data) != sha256:
            raise BackupUnavailableError(
                f"{name} in {self.place} is not what was written: its SHA-256 is another one",
                "backup_part_altered",
            )
        return data
