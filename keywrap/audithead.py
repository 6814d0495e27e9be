"""The signed head of the audit chain, in the store: what an edited ledger cannot agree with.

`.rewrap/audit-head.json` is a JSON object:

    {"entries":812,"format":"rewrap-audit-head-v1","hash":"<64 hexadecimal digits>",
     "serial":97,"signature":"<base64>","time":"2026-11-24T04:10:00Z"}

The Ed25519 signature stands over the same object without `signature`, as compact JSON with sorted
names. It is the format of this project alone, made as the control file is.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from keywrap.auditchain import Head
from keywrap.layout import RESERVED
from keywrap.reasons import ReasonedError
from keywrap.signing import SIGNATURE_BYTES, PublicKey, SigningKey
from keywrap.stores import (
    AlreadyExistsError,
    ChangedError,
    NotAnObjectError,
    NotFoundError,
    Store,
    Stored,
    StoreUnavailableError,
    TooLargeError,
)
from keywrap.strictjson import BadSidecarError, read_object

NAME = f"{RESERVED}audit-head.json"
MAX_BYTES = 1024

_DOMAIN = b"rewrap audit head v1"
_FORMAT = "rewrap-audit-head-v1"
_FIELDS: dict[str, type] = {
    "format": str,
    "serial": int,
    "entries": int,
    "hash": str,
    "time": str,
    "signature": str,
}
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_HASH = re.compile(r"[0-9a-f]{64}")
_MAX = 2**53 - 1
_TRIES = 5


class AuditHeadError(ReasonedError):
    """The signed head of the audit chain is not to be trusted, or not to be replaced."""

    usual_command = "rewrap audit verify"


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A head that was signed.

    Attributes:
        serial: grows with each publication.
        head: where the chain ended.
        time: when that was, by the publisher's clock.
    """

    serial: int
    head: Head
    time: datetime


@dataclass(frozen=True, slots=True)
class HeadFile:
    """The signed head in one store.

    Attributes:
        store: where it lies.
        public_key: whose signature counts.
    """

    store: Store
    public_key: PublicKey

    def read(self) -> SignedHead | None:
        """Read the head that was published last; None where none was.

        Raises:
            AuditHeadError: there is one that is not to be trusted.
            StoreUnavailableError: the store did not answer.
        """
        stored = self._stored()
        return None if stored is None else self._parse(stored.data)

    def publish(
        self, key: SigningKey, head: Head, extends: Callable[[Head], bool]
    ) -> SignedHead | None:
        """Replace the head by a later one of the same chain, only if it still is what was read.

        Args:
            key: signs it.
            head: where the chain ends now.
            extends: whether the chain that ends there goes through another head. One that does not
                takes the place of none: a ledger that was put back never hides what was there.

        Returns:
            What lies there now; None where the chain has no entry and nothing lies there.

        Raises:
            AuditHeadError: what lies there is not to be trusted, or is of another chain, and is
                left as it is; the key is another's; or others kept publishing.
            StoreUnavailableError: the store did not answer.
        """
        if key.public != self.public_key:
            raise AuditHeadError(
                "audit_key_of_another",
                "[audit] private_key_file does not belong to [audit] public_key; nothing was "
                "published",
                "rewrap audit key --out FILE",
            )
        for _ in range(_TRIES):
            stored = self._stored()
            found = None if stored is None else self._parse(stored.data)
            known = found.head if found else Head()
            if not extends(known):
                raise _rolled_back(known, head)
            if known.entries >= head.entries:
                return found  # another publisher was quicker, or nothing is new
            now = datetime.now(UTC).replace(microsecond=0)
            new = SignedHead(found.serial + 1 if found else 1, head, now)
            if self._put(_seal(new, key), stored):
                return new
        raise AuditHeadError("audit_head_busy", f"others keep publishing {NAME}", "run it again")

    def _put(self, data: bytes, expected: Stored | None) -> bool:
        """Write the file; False where somebody else was first."""
        try:
            if expected is None:
                self.store.create(NAME, data)
            else:
                self.store.replace(NAME, data, expected)
        except (AlreadyExistsError, ChangedError):
            return False
        except StoreUnavailableError:
            # The write may be made all the same. What lies there now says so.
            found = self._stored()
            if found is None or found.data != data:
                raise
        return True

    def _stored(self) -> Stored | None:
        try:
            return self.store.read(NAME, limit=MAX_BYTES)
        except NotFoundError:
            self.store.check()
            return None
        except (TooLargeError, NotAnObjectError) as error:
            raise _forged(str(error)) from error

    def _parse(self, data: bytes) -> SignedHead:
        record = _read_record(data)
        signed = {name: value for name, value in record.items() if name != "signature"}
        signature = _signature(record["signature"])
        if not self.public_key.verifies(signature, _DOMAIN, _canonical(signed)):
            raise _forged("the key that [audit] public_key names has not signed it")
        if not _HASH.fullmatch(record["hash"]):
            raise _forged("its hash is none")
        if not (1 <= record["serial"] <= _MAX and 1 <= record["entries"] <= _MAX):
            raise _forged("a number in it is out of range")
        try:
            time = datetime.strptime(record["time"], _TIME).replace(tzinfo=UTC)
        except ValueError:
            raise _forged("its time is none") from None
        head = Head(record["entries"], bytes.fromhex(record["hash"]))
        return SignedHead(record["serial"], head, time)


def _seal(new: SignedHead, key: SigningKey) -> bytes:
    record: dict[str, Any] = {
        "format": _FORMAT,
        "serial": new.serial,
        "entries": new.head.entries,
        "hash": new.head.hash.hex(),
        "time": new.time.strftime(_TIME),
    }
    signature = key.sign(_DOMAIN, _canonical(record))
    return _canonical(record | {"signature": base64.b64encode(signature).decode()})


def _read_record(data: bytes) -> dict[str, Any]:
    try:
        record = read_object(data)
    except BadSidecarError:
        raise _forged("it is no JSON object") from None
    if record.get("format") != _FORMAT or record.keys() != _FIELDS.keys():
        raise _forged(f"it is not of the format {_FORMAT}")
    for name, kind in _FIELDS.items():
        # True is an int to Python.
        if not isinstance(record[name], kind) or isinstance(record[name], bool):
            raise _forged(f"`{name}` is of another type")
    if _canonical(record) != data:
        raise _forged("it is not written as heads are")
    return record


def _signature(text: str) -> bytes:
    try:
        signature = binascii.a2b_base64(text.encode(), strict_mode=True)
    except ValueError:
        signature = b""
    # Of a signature too there is one form only, so that every change of the file is one.
    if len(signature) != SIGNATURE_BYTES or base64.b64encode(signature).decode() != text:
        raise _forged("its signature is none")
    return signature


def _canonical(record: dict[str, Any]) -> bytes:
    """Encode a record as it is signed: JSON, names sorted, compact, ASCII. Never to change."""
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode()


def _forged(why: str) -> AuditHeadError:
    return AuditHeadError("audit_head_forged", f"{NAME} is not to be trusted: {why}")


def _rolled_back(known: Head, head: Head) -> AuditHeadError:
    return AuditHeadError(
        "audit_chain_rolled_back",
        f"the head in the store was signed at {known.entries} entries, and the chain of this "
        f"ledger, of {head.entries} entries, does not go through it: the ledger was put back, "
        f"changed or made anew; {NAME} was left as it is",
    )
