"""One road to one KMS key: a client and threads for each process, retries, errors of ours.

Everything that could carry a data key stays inside this file: the errors that leave it hold no
request, and have no cause or context that does.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import tenacity

from keywrap.kms import ThrottledError, UnavailableError
from keywrap.providers.aws_errors import translate
from keywrap.providers.aws_pace import Pace

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient  # stubs: not there at run time

ATTEMPTS = 3
RETRY_FOR_S = 2.0
"""Retries end a hiccup. Waiting out an outage is the ledger's business."""

THROTTLED_FOR_S = 2.0
THROTTLED_ITEMS_PER_S = 20
MOST_THROTTLED_FOR_S = 30.0
"""A throttled batch goes on while it may still end at this rate, then the fleet must slow down."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Value = TypeVar("_Value")


class PerProcess(Generic[_Value]):
    """A value that each process makes for itself, so that none is used across a fork.

    A lock that was held while a process forked is held in the child for ever, and a socket that
    two processes share mixes up their answers.

    Args:
        make: makes the value.
    """

    def __init__(self, make: Callable[[], _Value]) -> None:
        self._make = make
        self._of: dict[int, _Value] = {}

    def get(self) -> _Value:
        """Return this process's value."""
        pid = os.getpid()
        mine = self._of.get(pid)
        return self._of.setdefault(pid, self._make()) if mine is None else mine


@dataclass(slots=True)
class _Process:
    """What one process has of a connection."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    client: "KMSClient | None" = None
    pool: ThreadPoolExecutor | None = None
    pace: Pace = field(default_factory=Pace)


def patience(items: int) -> float:
    """Return until when a throttled call of so many items goes on, by the monotonic clock."""
    wanted_s = THROTTLED_FOR_S + items / THROTTLED_ITEMS_PER_S
    return time.monotonic() + min(wanted_s, MOST_THROTTLED_FOR_S)


class AwsConnection:
    """Sends requests for one key and turns each failure into one of the four kinds.

    Args:
        key: URI of the KEK, for errors.
        make_client: makes a KMS client of the key's Region; called once in each process.
        threads: how many requests a batch has in flight.
        count: called before each request, by one thread at a time.
    """

    def __init__(
        self,
        key: str,
        make_client: "Callable[[], KMSClient]",
        threads: int,
        count: Callable[[], None],
    ) -> None:
        self._key = key
        self._make_client = make_client
        self._threads = threads
        self._count = count
        self._process = PerProcess(_Process)

    def send(
        self,
        method: str,
        parameters: Mapping[str, Any],
        *,
        until: float | None = None,
        again: bool = True,
    ) -> Mapping[str, Any]:
        """Send a request and return its answer.

        Args:
            method: the client's method, such as `re_encrypt`.
            parameters: what to send.
            until: when to give up while KMS throttles; see `patience`.
            again: whether sending it twice does no harm, so that a hiccup is retried.

        Raises:
            KmsError: one of the four kinds.
            DryRunPassedError, RotationInProgressError: KMS says so.
        """
        if not again:
            return self._once(method, parameters)
        give_up_at = patience(1) if until is None else until
        try:
            return self._once(method, parameters)
        except (ThrottledError, UnavailableError):
            pass  # nearly every request ends above; only the others pay for what follows
        hiccup = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(UnavailableError),
            stop=tenacity.stop_after_attempt(ATTEMPTS - 1) | tenacity.stop_after_delay(RETRY_FOR_S),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=RETRY_FOR_S / ATTEMPTS),
            reraise=True,
        )
        throttled = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(ThrottledError),
            stop=lambda _state: time.monotonic() >= give_up_at,
            reraise=True,  # and no wait: Pace has one for all threads
        )
        return throttled(hiccup, self._once, method, parameters)

    def each(self, do: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
        """Call `do` on each item, several at a time; results stand in the order of the items.

        Raises:
            KmsError: what `do` raised first; items that had not begun are left.
        """
        if len(items) <= 1:
            return [do(item) for item in items]
        return list(self._pool().map(do, items))

    def _once(self, method: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        process = self._process.get()
        turn = process.pace.wait()
        operation = "".join(part.capitalize() for part in method.split("_"))
        try:
            client = process.client or self._client(process)
            with process.lock:
                self._count()
            answer: Mapping[str, Any] = getattr(client, method)(**parameters)
        except Exception as error:  # noqa: BLE001 - whatever it is, it may hold the request
            failure = translate(error, operation, self._key)
        else:
            return answer
        if isinstance(failure, ThrottledError):
            process.pace.throttled(turn)
        # Raised outside the handler: the context would hold the request, and with it a data
        # key; `from None` would only hide it.
        raise failure

    def _client(self, process: _Process) -> "KMSClient":
        with process.lock:
            if process.client is None:
                process.client = self._make_client()
            return process.client

    def _pool(self) -> ThreadPoolExecutor:
        process = self._process.get()
        with process.lock:
            if process.pool is None:
                process.pool = ThreadPoolExecutor(self._threads, thread_name_prefix="aws-kms")
            return process.pool
