"""The control file: what applications obey, signed, in the store itself.

`.rewrap/control.json` is a JSON object that names the current KEK version and the cutover flag:

    {"cutover":"warn","format":"rewrap-control-v1","issued_at":"2026-11-24T04:10:00Z",
     "issued_by":"ann@desk","max_age_s":60,"primary":"hcvault://transit/blob-kek?version=3",
     "serial":7,"signature":"<base64>","store_id":"<32 hexadecimal digits>"}

The Ed25519 signature stands over the same object without `signature`, as compact JSON with sorted
names. It is the format of this project alone; docs/decisions/control-file.md argues for it.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from keywrap.keys import BadKeyIdError, KeyVersion
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

NAME = f"{RESERVED}control.json"
MAX_BYTES = 4096
MAX_SERIAL = 2**53 - 1
"""The largest integer that every reader of JSON keeps exact (RFC 8259, section 6)."""

_DOMAIN = b"rewrap control file v1"
_FORMAT = "rewrap-control-v1"
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "format": str,
    "store_id": str,
    "serial": int,
    "primary": (str, type(None)),
    "cutover": str,
    "max_age_s": int,
    "issued_at": str,
    "issued_by": str,
    "signature": str,
}
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_ISSUER = re.compile(r"[ -~]{0,256}")
_TRIES = 5
_REMOVE = f"find out who wrote it, remove {NAME} from the store, then: rewrap cutover warn"


class Cutover(StrEnum):
    """Whether legacy wraps may still be opened."""

    OFF = "off"  # they may
    WARN = "warn"  # they may, and each time an alert is raised: the rehearsal
    ON = "on"  # they are not


@dataclass(frozen=True, slots=True)
class Control:
    """What applications obey.

    Attributes:
        serial: grows with each publication; 0: nothing was published yet.
        primary: the KEK version that new wraps need, or a later one; None: that of `[keys]`.
        cutover: whether legacy wraps may still be opened.
        max_age_s: the longest that it is obeyed after it was read, in seconds.
        issued_at: when it was published, by the publisher's clock; None: it never was.
        issued_by: who published it.
    """

    serial: int
    primary: KeyVersion | None
    cutover: Cutover
    max_age_s: int = 60
    issued_at: datetime | None = None
    issued_by: str = ""


FIRST = Control(0, None, Cutover.OFF)
"""What counts before anything was ever published."""


class ControlError(ReasonedError):
    """There is no control file to obey: it is missing, away, or not to be trusted."""

    usual_command = "rewrap cutover status"


@dataclass(frozen=True, slots=True)
class ControlFile:
    """The control file of one store.

    Attributes:
        store: where it lies.
        store_id: the store's own name; see `keywrap.tables.control`.
        public_key: whose signature counts.
        listed: URIs of the KEKs that the configuration lists.
    """

    store: Store
    store_id: str
    public_key: PublicKey
    listed: frozenset[str]

    def read(self) -> Control | None:
        """Read what was published last; None where there is no control file.

        Raises:
            ControlError: there is one that is not to be obeyed.
            StoreUnavailableError: the store did not answer.
        """
        stored = self._stored()
        return None if stored is None else self._parse(stored.data)

    def publish(
        self,
        key: SigningKey,
        edit: Callable[[Control], Control],
        *,
        by: str,
        known: Control = FIRST,
    ) -> Control:
        """Replace the control file by an edited one, only if it still is what was read.

        Where somebody else publishes meanwhile, the edit is made again, of theirs. Where the file
        is gone, or older than what is known, the edit is made of what is known and so mends it.

        Args:
            key: signs it.
            edit: makes what is to be obeyed from what is: primary, cutover and age. Where it
                changes nothing, nothing is published. What it raises goes out.
            by: who publishes, in printable ASCII.
            known: the newest that is known to have been published, from the ledger.

        Returns:
            What is to be obeyed now.

        Raises:
            ControlError: the key is another's; what lies there is not to be trusted, and is left
                as it is; the edit names a key that is not listed; or others kept publishing.
            StoreUnavailableError: the store did not answer.
        """
        if key.public != self.public_key:
            raise ControlError(
                "control_key_of_another",
                "[control] private_key_file does not belong to [control] public_key; nothing was "
                "published",
                "rewrap control-key --out FILE",
            )
        for _ in range(_TRIES):
            stored = self._stored()
            found = FIRST if stored is None else self._parse(stored.data)
            base = found if found.serial >= known.serial else known
            edited = edit(base)
            if edited == base == found and stored is not None:
                return base
            now = datetime.now(UTC).replace(microsecond=0)
            new = replace(edited, serial=base.serial + 1, issued_at=now, issued_by=by)
            if self._put(self._seal(new, key), stored):
                return new
        raise ControlError(
            "control_busy",
            f"others keep publishing {NAME}; nothing was published by this command",
            "run it again",
        )

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
            raise ControlError(
                "control_malformed", f"{NAME} is no control file: {error}", _REMOVE
            ) from error

    def _seal(self, control: Control, key: SigningKey) -> bytes:
        assert control.issued_at is not None  # noqa: S101 - `publish` has set it
        record = {
            "format": _FORMAT,
            "store_id": self.store_id,
            "serial": control.serial,
            "primary": str(control.primary) if control.primary else None,
            "cutover": control.cutover.value,
            "max_age_s": control.max_age_s,
            "issued_at": control.issued_at.astimezone(UTC).strftime(_TIME),
            "issued_by": control.issued_by,
        }
        signature = key.sign(_DOMAIN, _canonical(record))
        data = _canonical(record | {"signature": base64.b64encode(signature).decode()})
        # The parser itself is asked before anything is written that readers would refuse.
        if self._parse(data) != control:
            raise ControlError("control_malformed", "the control file would be read differently")
        return data

    def _parse(self, data: bytes) -> Control:
        record = _read_record(data)
        self._verify(record)
        try:
            control = Control(
                serial=record["serial"],
                primary=KeyVersion.parse(record["primary"]) if record["primary"] else None,
                cutover=Cutover(record["cutover"]),
                max_age_s=record["max_age_s"],
                issued_at=datetime.strptime(record["issued_at"], _TIME).replace(tzinfo=UTC),
                issued_by=record["issued_by"],
            )
        except (ValueError, BadKeyIdError) as error:
            raise _malformed(str(error)) from None
        if not (1 <= control.serial <= MAX_SERIAL and control.max_age_s >= 1):
            raise _malformed("a number in it is out of range")
        self._check(control)
        return control

    def _verify(self, record: dict[str, Any]) -> None:
        """See that the publisher of this very store signed the record."""
        signature = _signature(record["signature"])
        signed = {name: value for name, value in record.items() if name != "signature"}
        if not self.public_key.verifies(signature, _DOMAIN, _canonical(signed)):
            raise ControlError(
                "control_forged",
                f"{NAME} is not signed by the key that [control] public_key names, or was changed "
                "since; it is not obeyed",
                _REMOVE,
            )
        if record["store_id"] != self.store_id:
            raise ControlError(
                "control_of_another_store",
                f"{NAME} was signed for the store {record['store_id']}, and [control] store_id "
                f"is {self.store_id}; it is not obeyed",
                _REMOVE,
            )

    def _check(self, control: Control) -> None:
        """See that new wraps may use the primary: a signature adds no key to the configuration."""
        primary = control.primary
        if primary is not None and primary.key not in self.listed:
            raise ControlError(
                "control_key_not_listed",
                f"{NAME} names the primary {primary}, which [keys] does not list; it is not obeyed",
                f"list {primary.key} in [keys] of this process",
            )
        if primary is not None and (primary.is_legacy or not primary.version):
            raise ControlError(
                "control_key_not_usable",
                f"{NAME} names the primary {primary}; new wraps need a version of a managed key",
            )
        if not _ISSUER.fullmatch(control.issued_by):
            raise _malformed("the name of its publisher is not plain text")


def _read_record(data: bytes) -> dict[str, Any]:
    try:
        record = read_object(data)
    except BadSidecarError as error:
        raise _malformed(error.reason_code.removeprefix("sidecar_").replace("_", " ")) from None
    if record.get("format") != _FORMAT:
        raise ControlError(
            "control_format_unknown",
            f"{NAME} is not of the format {_FORMAT}: a later release may have written it",
            "bring this process to the release that published it",
        )
    if record.keys() != _FIELDS.keys():
        raise _malformed("a field is missing or unknown")
    for name, kind in _FIELDS.items():
        # True is an int to Python.
        if not isinstance(record[name], kind) or isinstance(record[name], bool):
            raise _malformed(f"`{name}` is of another type")
    return record


def _signature(text: str) -> bytes:
    try:
        signature = binascii.a2b_base64(text.encode(), strict_mode=True)
    except ValueError:
        signature = b""
    if len(signature) != SIGNATURE_BYTES:
        raise _malformed("`signature` is not 64 bytes in base64")
    return signature


def _canonical(record: dict[str, Any]) -> bytes:
    """Encode a record as it is signed: JSON, names sorted, compact, ASCII. Never to change."""
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode()


def _malformed(why: str) -> ControlError:
    return ControlError("control_malformed", f"{NAME} is no control file: {why}", _REMOVE)
