"""Signing where the audit chain ends, and publishing that in the store."""

import logging
import time
from pathlib import Path

from keywrap.auditchain import Head
from keywrap.audithead import AuditHeadError, HeadFile, SignedHead
from keywrap.config import ConfigError, open_store
from keywrap.signing import PublicKey, SigningKey
from keywrap.stores import StoreError
from ledger import audit
from ledger.connection import Ledger, LedgerNotReadyError, LedgerUnavailableError
from scheduler.beside import Beside
from workers.settings import Settings

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5


def head_file(settings: Settings) -> HeadFile | None:
    """Return where the signed head lies; None where heads are not signed.

    Raises:
        ConfigError: the store cannot be used.
        StoreUnavailableError: the store is not there.
    """
    if not settings.audit.public_key:
        return None
    return HeadFile(open_store(settings.keywrap), PublicKey.parse(settings.audit.public_key))


def publish(ledger: Ledger, file: HeadFile, key: SigningKey) -> SignedHead | None:
    """Sign where the chain ends now, and publish that.

    Returns:
        What is published now; None where the chain is empty.

    Raises:
        AuditHeadError: see `HeadFile.publish`.
        StoreUnavailableError: the store did not answer.
        LedgerUnavailableError: PostgreSQL does not answer.
    """
    with ledger.begin() as connection:
        head = audit.head(connection)

    def extends(known: Head) -> bool:
        with ledger.begin() as connection:
            return audit.goes_through(connection, known)

    return file.publish(key, head, extends)


class HeadKeeper(Beside):
    """Publishes the head now and then, beside the ticks: a store that hangs holds up none.

    Args:
        settings: the settings; without a key in them it does nothing.
        ledger: the ledger.

    Attributes:
        trouble_code: why the head cannot be signed, as a reason code; empty: nothing is in the way.
        signed_at: when it was last seen to be signed, in seconds since 1970; 0: not yet.
        refused: why the head must not be signed: what is there is not what was signed; empty: it
            may.

    Raises:
        SigningKeyError: the configured key cannot be used.
    """

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        super().__init__("audit-head")
        self._settings = settings
        self._ledger = ledger
        self._trouble = ""
        self.trouble_code = ""
        self.signed_at = 0.0
        self.refused = ""
        self._published = Head()
        self._next_at = 0.0
        file = settings.audit.private_key_file
        self._key = SigningKey.load(Path(file)) if file else None

    def start(self) -> None:
        """Start publishing. At the end what was chained last is published once more."""
        if self._key is not None:
            super().start()

    def _keep(self) -> None:
        # The first soon: until then nothing tells a head that was removed from one never signed.
        while not self._ended.wait(_LOOK_EVERY_S):
            if time.monotonic() >= self._next_at:
                self.publish_once()
        self.publish_once()

    def publish_once(self) -> None:
        """Publish the head if there is a new one; say once what is in the way, and go on."""
        assert self._key is not None  # noqa: S101 - it is not started without
        trouble = code = refused = ""
        try:
            self._publish(self._key)
            self.signed_at = time.time()
        except (StoreError, ConfigError, LedgerUnavailableError, LedgerNotReadyError) as error:
            trouble, code = str(error), "unavailable"
        except AuditHeadError as error:
            trouble, code = f"{error}; next: {error.next_command}", error.reason_code
            refused = str(error)
        except Exception as error:  # whatever it is: that no head is signed must be told
            logger.exception("audit head", extra={"event": "audit_head_failed"})
            trouble, code = f"{type(error).__name__}: see the log", "internal_error"
        self.trouble_code = code
        if trouble:
            self._next_at = time.monotonic() + self._settings.audit.head_every_s
        if trouble != self._trouble:
            if trouble:
                logger.error("audit head: %s", trouble, extra={"event": "audit_head_failed"})
            else:
                logger.info("audit head: back", extra={"event": "audit_head_back"})
        self._trouble, self.refused = trouble, refused

    def _publish(self, key: SigningKey) -> None:
        with self._ledger.begin() as connection:
            head = audit.head(connection)
            is_ours = audit.goes_through(connection, self._published)
        # The first look is made whatever the chain is: an emptied one is no new one.
        if head == self._published and self.signed_at:
            return
        file = head_file(self._settings)
        if file is None:
            return
        if not is_ours or (self._published.entries and file.read() is None):
            raise AuditHeadError(
                "audit_head_lost",
                f"this scheduler signed the head {self._published}, and the chain or the store has "
                "it no more; nothing is signed before a person has looked",
            )
        publish(self._ledger, file, key)
        self._published = head
        if head.entries:
            self._next_at = time.monotonic() + self._settings.audit.head_every_s
