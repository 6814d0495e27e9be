"""One road to one KMS key: a client and threads for each process, retries, errors of ours.

A data key is bytes in `_ask` alone, above it a `DataKey`: the errors that leave this file have no
cause, no context and no frame of a traceback that holds its bytes.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import tenacity

from keywrap.datakey import DataKey
from keywrap.kms import KmsError, RefusedError, ThrottledError, UnavailableError
from keywrap.providers.aws_answers import Answer, hide_plaintext
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


class BatchOverError(Exception):
    """Another item ended the batch: this one's request is not sent."""


class Batch:
    """How long the requests of one call go on.

    Args:
        items: how many items the call has.

    Attributes:
        until: when they give up while KMS throttles, by the monotonic clock.
        over: set once one of them failed for a reason that is not its item's own.
    """

    def __init__(self, items: int = 1) -> None:
        wanted_s = THROTTLED_FOR_S + items / THROTTLED_ITEMS_PER_S
        self.until = time.monotonic() + min(wanted_s, MOST_THROTTLED_FOR_S)
        self.over = threading.Event()
        self._failure: KmsError | None = None

    def run(self, do: "Callable[[_Item, Batch], _Result]", item: _Item) -> _Result | KmsError:
        """Call `do` on an item; return its result, or the error that stands in its place.

        What was made stays made. Were it thrown away, a batch that runs out of patience would
        start again from nothing, and burn the quota for ever.
        """
        try:
            return do(item, self)
        except RefusedError as error:
            return error
        except KmsError as error:
            self._failure = self._failure or error
            self.over.set()
            return error
        except BatchOverError:
            if self._failure is None:  # only `run` ends a batch
                raise
            return self._failure

    def require_going(self) -> None:
        """See that requests are still to be sent.

        Raises:
            BatchOverError: they are not.
        """
        if self.over.is_set():
            raise BatchOverError


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
        batch: Batch | None = None,
        again: bool = True,
    ) -> Answer:
        """Send a request and return its answer.

        Args:
            method: the client's method, such as `re_encrypt`.
            parameters: what to send; a plaintext as a `DataKey`.
            batch: the call that it is a part of; None: it is one of its own.
            again: whether sending it twice does no harm, so that a hiccup is retried.

        Returns:
            The answer, its plaintext hidden: see `hide_plaintext`.

        Raises:
            KmsError: one of the four kinds.
            BatchOverError: the batch ended, and the request was not sent (again).
            DryRunPassedError, RotationInProgressError: KMS says so.
        """
        batch = batch or Batch()
        if not again:
            return self._once(method, parameters, batch)
        try:
            return self._once(method, parameters, batch)
        except (ThrottledError, UnavailableError):
            pass  # nearly every request ends above; only the others pay for what follows
        hiccup = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(UnavailableError),
            stop=tenacity.stop_after_attempt(ATTEMPTS - 1) | tenacity.stop_after_delay(RETRY_FOR_S),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=RETRY_FOR_S / ATTEMPTS),
            sleep=tenacity.sleep_using_event(batch.over),
            reraise=True,
        )
        throttled = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(ThrottledError),
            stop=lambda _state: time.monotonic() >= batch.until,
            reraise=True,  # and no wait: Pace has one for all threads
        )
        return throttled(hiccup, self._once, method, parameters, batch)

    def each(self, do: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
        """Call `do` on each item, several at a time; results stand in the order of the items.

        Raises:
            Exception: what `do` raised first; items that had not begun are left.
        """
        if len(items) <= 1:
            return [do(item) for item in items]
        return list(self._pool().map(do, items))

    def _once(self, method: str, parameters: Mapping[str, Any], batch: Batch) -> Answer:
        process = self._process.get()
        batch.require_going()
        turn = process.pace.wait(batch.over)
        batch.require_going()  # it may have ended while this thread waited
        operation = "".join(part.capitalize() for part in method.split("_"))
        try:
            client = process.client or self._client(process)
            with process.lock:
                self._count()
            return _ask(client, method, parameters)
        except Exception as error:  # noqa: BLE001 - whatever it is, it may hold the request
            failure = translate(error, operation, self._key)
        if isinstance(failure, ThrottledError):
            process.pace.throttled(turn)
        # Raised outside the handler: the context would hold the request, and its frames the bytes
        # of a data key; `from None` would only hide them.
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


def _ask(client: "KMSClient", method: str, parameters: Mapping[str, Any]) -> Answer:
    """Send a request; the only frame of ours that ever holds the bytes of a data key."""
    return hide_plaintext(
        getattr(client, method)(
            **{
                name: value.reveal() if isinstance(value, DataKey) else value
                for name, value in parameters.items()
            }
        )
    )
