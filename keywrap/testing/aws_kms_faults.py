"""What can go wrong at the strict reference KMS, asked for by a test."""

import threading
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from keywrap.testing.aws_kms_keys import KmsServiceError

CRYPTOGRAPHIC = frozenset(
    {
        "Decrypt",
        "Encrypt",
        "GenerateDataKey",
        "GenerateDataKeyWithoutPlaintext",
        "ReEncrypt",
    }
)
"""The operations that share one request quota (KMS developer guide, "Request quotas")."""


_Kind = TypeVar("_Kind")


class Corruption(StrEnum):
    """An answer that a broken service, or one that is not ours, may give."""

    ANOTHER_PLAINTEXT = "another plaintext"  # the answer's plaintext is another data key
    ANOTHER_DATA_KEY = "another data key"  # a sound wrap, but of another data key
    ALTERED_CIPHERTEXT = "altered ciphertext"  # one bit of the wrap is wrong
    WRONG_MATERIAL = "wrong material"  # a key material id that the key never had
    WRONG_KEY = "wrong key"  # the ARN of another key
    STALE_MATERIAL = "stale material"  # a rotation that is not seen everywhere yet


_AFFECTS = {
    Corruption.ANOTHER_PLAINTEXT: frozenset({"Decrypt", "GenerateDataKey"}),
    Corruption.ANOTHER_DATA_KEY: CRYPTOGRAPHIC - {"Decrypt"},
    Corruption.ALTERED_CIPHERTEXT: CRYPTOGRAPHIC - {"Decrypt"},
    Corruption.WRONG_MATERIAL: CRYPTOGRAPHIC - {"Encrypt"} | {"DescribeKey"},
    Corruption.WRONG_KEY: CRYPTOGRAPHIC | {"DescribeKey"},
    Corruption.STALE_MATERIAL: CRYPTOGRAPHIC - {"Decrypt"} | {"DescribeKey"},
}

_MESSAGES = {
    "ThrottlingException": "You have exceeded the rate at which you may call KMS. "
    "Reduce the frequency of your calls.",
}


class LostReplyError(Exception):
    """The operation is done, and its caller gets no answer: close the connection."""


@dataclass(slots=True)
class _Planned:
    """A fault for the next requests of one operation, or of any."""

    what: KmsServiceError | Corruption | LostReplyError
    times: int
    operations: frozenset[str]


class Faults:
    """The faults that are planned; may be used from many threads."""

    def __init__(self) -> None:
        self._planned: list[_Planned] = []
        self._latency_s: dict[str, float] = {}
        self._per_s = 0.0
        self._tokens = 0.0
        self._filled_at = 0.0
        self._lock = threading.Lock()

    def fail_next(self, code: str, *, times: int = 1, operation: str = "") -> None:
        """Answer the next requests with an error, before anything is done.

        Args:
            code: the error's name, such as `KMSInternalException`.
            times: how many requests.
            operation: the only operation that is meant, such as `Encrypt`; any if empty.
        """
        self._plan(KmsServiceError(code, _MESSAGES.get(code, "")), times, operation)

    def lose_next_reply(self, *, times: int = 1, operation: str = "") -> None:
        """Do the next requests, and give no answer; arguments as above."""
        self._plan(LostReplyError(), times, operation)

    def corrupt_next(self, what: Corruption, *, times: int = 1, operation: str = "") -> None:
        """Corrupt the next answers that it can concern; arguments as above."""
        self._plan(what, times, operation)

    def delay(self, seconds: float, *, operation: str = "") -> None:
        """Let every request, or those of one operation, take so long from now on."""
        with self._lock:
            self._latency_s[operation] = seconds

    def limit_rate(self, per_s: float) -> None:
        """Throttle cryptographic operations above a rate in requests a second; 0 for no limit.

        A tenth of a second's worth may come at once.
        """
        with self._lock:
            self._per_s, self._tokens, self._filled_at = per_s, per_s / 10, time.monotonic()

    def clear(self) -> None:
        """Forget every fault that is planned."""
        with self._lock:
            self._planned.clear()
            self._latency_s.clear()
            self._per_s = 0.0

    def begin(self, operation: str) -> None:
        """Begin a request: wait, and fail where that is planned.

        Raises:
            KmsServiceError: it fails.
        """
        with self._lock:
            pause = self._latency_s.get(operation, self._latency_s.get("", 0.0))
        if pause:
            time.sleep(pause)
        with self._lock:
            if failed := self._take(operation, KmsServiceError):
                raise KmsServiceError(failed.code, str(failed))
            if self._per_s and operation in CRYPTOGRAPHIC:
                self._spend_token()

    def corruption(self, operation: str) -> Corruption | None:
        """Take the corruption that is planned for this answer."""
        with self._lock:
            return self._take(operation, Corruption)

    def end(self, operation: str) -> None:
        """End a request that was done.

        Raises:
            LostReplyError: its reply is to be lost.
        """
        with self._lock:
            if self._take(operation, LostReplyError) is not None:
                raise LostReplyError

    def _plan(
        self, what: KmsServiceError | Corruption | LostReplyError, times: int, operation: str
    ) -> None:
        meant = frozenset({operation} if operation else ())
        if isinstance(what, Corruption):
            if operation and operation not in _AFFECTS[what]:
                raise ValueError(f"{operation} gives no answer with {what}")
            meant = meant or _AFFECTS[what]
        with self._lock:
            self._planned.append(_Planned(what, times, meant))

    def _take(self, operation: str, kind: type[_Kind]) -> _Kind | None:
        for planned in self._planned:
            what = planned.what
            if isinstance(what, kind) and operation in (planned.operations or {operation}):
                planned.times -= 1
                if not planned.times:
                    self._planned.remove(planned)
                return what
        return None

    def _spend_token(self) -> None:
        now = time.monotonic()
        most = max(1.0, self._per_s / 10)
        self._tokens = min(most, self._tokens + (now - self._filled_at) * self._per_s)
        self._filled_at = now
        if self._tokens < 1:
            raise KmsServiceError("ThrottlingException", _MESSAGES["ThrottlingException"])
        self._tokens -= 1
