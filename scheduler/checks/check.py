"""One line of the checklist: what is checked, and what came of it."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from keywrap.audithead import AuditHeadError
from keywrap.conditions import UnconditionalStoreError
from keywrap.config import ConfigError
from keywrap.control import ControlError
from keywrap.kms import KmsError, ProofFailedError, ThrottledError, UnavailableError
from keywrap.signing import SigningKeyError
from keywrap.stores import StoreError, StoreUnavailableError
from ledger.connection import LedgerNotReadyError, LedgerUnavailableError
from scheduler.desk import UNREACHABLE, DeskError
from workers.broker import BrokerUnavailableError

_Thing = TypeVar("_Thing")


class Status(StrEnum):
    """What came of a check."""

    PASS = "pass"  # seen to be so, just now  # noqa: S105 - no password
    WARN = "warn"  # no reason to wait with a deployment, but a person should know
    FAIL = "fail"  # to be mended before
    SKIP = "skip"  # could not be checked from here, or is not configured


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of a check.

    Attributes:
        status: see `Status`.
        sentence: what was seen, for a person; never a secret.
        next_command: what mends it: a command, or a line of the configuration.
        reason_code: a short stable code; empty where it passed.
        is_unreachable: whether something did not answer, rather than answering wrongly.
    """

    status: Status
    sentence: str
    next_command: str = ""
    reason_code: str = ""
    is_unreachable: bool = False


def passed(sentence: str) -> Finding:
    """Return the finding of a check that passed."""
    return Finding(Status.PASS, sentence)


def failed(reason_code: str, sentence: str, next_command: str) -> Finding:
    """Return the finding of a check that failed, though everything answered."""
    return Finding(Status.FAIL, sentence, next_command, reason_code)


def unreachable(reason_code: str, sentence: str, next_command: str) -> Finding:
    """Return the finding of a check that failed because something did not answer."""
    return Finding(Status.FAIL, sentence, next_command, reason_code, is_unreachable=True)


def warned(reason_code: str, sentence: str, next_command: str) -> Finding:
    """Return the finding of a check that a person should know of."""
    return Finding(Status.WARN, sentence, next_command, reason_code)


def skipped(reason_code: str, sentence: str, next_command: str = "") -> Finding:
    """Return the finding of a check that was not made."""
    return Finding(Status.SKIP, sentence, next_command, reason_code)


class AbsentError(Exception):
    """What a check needs is not there, and another check has said so already."""


class Needed(Generic[_Thing]):
    """Something that many checks need: made once, and its absence told once.

    Whoever asks first gets the error itself; those who ask later are skipped, so that a ledger
    that is away is one failure and not ten, and is waited for once.

    Args:
        name: what it is, in a sentence.
        make: makes it.
    """

    def __init__(self, name: str, make: Callable[[], _Thing]) -> None:
        self._name = name
        self._make = make
        self._made: list[_Thing] = []
        self._is_absent = False

    def get(self) -> _Thing:
        """Return it.

        Raises:
            AbsentError: it could not be made, which was told before.
            Exception: why it cannot be made.
        """
        if self._is_absent:
            raise AbsentError(f"needs {self._name}, see above")
        if not self._made:
            try:
                self._made.append(self._make())
            except Exception:
                self._is_absent = True
                raise
        return self._made[0]


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the checklist.

    Attributes:
        name: what is checked; one that stays the same from release to release.
        look: checks it. Whatever it raises becomes a finding.
        mend: the next step where an error that it raises names none.
    """

    name: str
    look: Callable[[], Finding]
    mend: str = "run it again"


@dataclass(frozen=True, slots=True)
class Line:
    """A check that was made.

    Attributes:
        name: what was checked.
        finding: what came of it.
        seconds: how long it took.
    """

    name: str
    finding: Finding
    seconds: float

    def document(self) -> dict[str, Any]:
        """Return the line as it stands in `rewrap preflight --json`."""
        found = self.finding
        return {
            "name": self.name,
            "status": found.status.value,
            "sentence": found.sentence,
            "reason_code": found.reason_code,
            "next_command": found.next_command,
            "seconds": round(self.seconds, 3),
        }


def make(checks: Iterable[Check]) -> Iterator[Line]:
    """Make checks one after the other; none hides those after it."""
    for check in checks:
        began = time.monotonic()
        finding = _look(check)
        yield Line(check.name, finding, time.monotonic() - began)


def _look(check: Check) -> Finding:
    try:
        return check.look()
    except AbsentError as error:
        return skipped("needs_another", str(error))
    except Exception as error:  # noqa: BLE001 - a checklist with a line missing is no checklist
        return of_error(error, check.mend)


_TOLD = (
    AuditHeadError,
    ConfigError,
    ControlError,
    DeskError,
    KmsError,
    ProofFailedError,
    SigningKeyError,
    StoreError,
    LedgerUnavailableError,
    LedgerNotReadyError,
    BrokerUnavailableError,
)
"""Errors whose message is written for operators and holds no secret."""

_AWAY = (
    UnavailableError,
    ThrottledError,
    StoreUnavailableError,
    LedgerUnavailableError,
    LedgerNotReadyError,
    BrokerUnavailableError,
)

_CODES: dict[type[Exception], str] = {
    ConfigError: "configuration",
    ProofFailedError: "proof_failed",
    LedgerUnavailableError: "ledger_unavailable",
    LedgerNotReadyError: "ledger_not_migrated",
    BrokerUnavailableError: "broker_unavailable",
}


_STEPS = {
    "kms_unavailable": "see that the key service is up at its address in [keys], then run it again",
    "kms_throttled": "wait, or have the key service's quota raised, then run it again",
}
"""The next step where the reason tells more than the check does."""


def of_error(error: Exception, mend: str) -> Finding:
    """Return the finding of a check that raised.

    Args:
        error: what it raised.
        mend: the next step, where the error names none.
    """
    if not isinstance(error, _TOLD):
        # Its text is not repeated: nobody has seen to it that it holds no secret.
        return failed("unforeseen", f"the check itself failed: {type(error).__name__}", mend)
    code = next((c for kind, c in _CODES.items() if isinstance(error, kind)), "")
    code = getattr(error, "reason_code", "") or code
    step = getattr(error, "next_command", "") or _STEPS.get(code, mend)
    away = isinstance(error, _AWAY) and not isinstance(error, UnconditionalStoreError)
    away = away or getattr(error, "exit_code", 0) == UNREACHABLE
    return Finding(Status.FAIL, str(error), step, code, is_unreachable=away)
