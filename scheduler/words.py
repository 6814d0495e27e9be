"""What an error is called, and what to type next: the same at the desk as in Flower."""

from embedded.errors import EmbeddedError
from keywrap.audithead import AuditHeadError
from keywrap.backups.bundle import BackupError
from keywrap.config import ConfigError
from keywrap.control import ControlError
from keywrap.kms import DeniedError, KmsError
from keywrap.signing import SigningKeyError
from keywrap.stores import StoreError
from ledger.campaigns import RequestRefusedError
from ledger.connection import LedgerNotReadyError, LedgerUnavailableError
from scheduler.desk import EXCEPTIONS, REFUSED, UNREACHABLE, USAGE, DeskError
from scheduler.sources import SourceError

_WORDS: dict[type[Exception], tuple[int, str, str]] = {
    BackupError: (EXCEPTIONS, "backup", "rewrap backup list"),
    ConfigError: (USAGE, "configuration", "mend the configuration, then run it again"),
    SigningKeyError: (USAGE, "signing_key", "check private_key_file in the configuration"),
    AuditHeadError: (REFUSED, "audit_head", "rewrap audit verify"),
    ControlError: (REFUSED, "control", "rewrap cutover status"),
    RequestRefusedError: (REFUSED, "refused", "rewrap status"),
    LedgerUnavailableError: (
        UNREACHABLE,
        "ledger_unavailable",
        "check [ledger] url or REWRAP_LEDGER_URL, then run it again",
    ),
    LedgerNotReadyError: (UNREACHABLE, "ledger_not_migrated", "rewrap scheduler"),
    EmbeddedError: (UNREACHABLE, "embedded_service", "mend that, then run it again"),
    DeniedError: (
        UNREACHABLE,
        "key_denied",
        "check the key's table in [keys], its credentials and what they may do, then run it again",
    ),
    KmsError: (
        UNREACHABLE,
        "kms_unavailable",
        "see that the key service is up at the address in [keys], then run it again",
    ),
    SourceError: (USAGE, "source", "mend the list, then run it again"),
    StoreError: (UNREACHABLE, "store_unavailable", "check [store] url, then run it again"),
}
"""The exit code, reason code and next step of each error that is not the desk's own."""

KNOWN: tuple[type[Exception], ...] = (DeskError, *_WORDS)
"""The errors that have words: whatever was asked for was refused, and nothing more was changed."""


def of(error: Exception) -> tuple[int, str, str]:
    """Return the exit code, the reason code and the next step of an error of `KNOWN`."""
    if isinstance(error, DeskError):
        return error.exit_code, error.reason_code, error.next_command
    code, reason_code, step = next(w for kind, w in _WORDS.items() if isinstance(error, kind))
    reason_code = getattr(error, "reason_code", reason_code)
    return code, reason_code, getattr(error, "next_command", "") or step
