"""Calls to a key service: a client and threads for each process, retries, pace, batches.

For services that take one item at a time. A data key is bytes inside an `Ask` alone, above it a
`DataKey`: the errors that leave this file have no cause, no context and no frame of a traceback
that holds its bytes.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Generic, TypeVar

import tenacity

from keywrap.kms import KmsError, RefusedError, ThrottledError, UnavailableError
from keywrap.metering import Meter, no_meter
from keywrap.pacing import NO_PACER, Pacer
from keywrap.providers.pace import Pace
from keywrap.providers.telling import Telling

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
_Client = TypeVar("_Client")
_Answer = TypeVar("_Answer")

Translate = Callable[[Exception, str, str], Exception]
"""Turns what a client raised into an error of ours that carries nothing of the request; takes the
operation and the URI of the KEK as well."""


class CorruptAnswerError(Exception):
    """An answer that does not fit its question.

    Args:
        what: what is wrong with it; holds nothing of it.
    """


class RestError(ThrottledError):
    """The key service asks for fewer requests, and for none at all for a while.

    Args:
        message: as of every `KmsError`.
        key: URI of the KEK.
        rest_s: for how long, in seconds.
    """

    def __init__(self, message: str, *, key: str, rest_s: float) -> None:
        super().__init__(message, key=key)
        self.rest_s = rest_s


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


class _Process(Generic[_Client]):
    """What one process has of a road."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.client: _Client | None = None
        self.pool: ThreadPoolExecutor | None = None
        self.pace = Pace()


class BatchOverError(Exception):
    """Another item ended the batch: this one's request is not sent."""


class Batch:
    """How long the requests of one call go on.

    Args:
        items: how many items the call has.

    Attributes:
        until: when they give up while the service throttles, by the monotonic clock.
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


class Road(Telling, Generic[_Client]):
    """Asks one key service for one key, and turns each failure into one of the four kinds.

    Args:
        key: URI of the KEK, for errors.
        make_client: makes a client that does not retry by itself; called once in each process.
        translate: what becomes of an exception that an `ask` raises, unless it is a `KmsError`, of
            a check of an answer about the key itself, which holds no secret.
        threads: how many requests a batch has in flight.
        name: of the threads.
        count: called before each request, by one thread at a time.
    """

    def __init__(
        self,
        key: str,
        make_client: Callable[[], _Client],
        translate: Translate,
        *,
        threads: int,
        name: str,
        count: Callable[[], None],
    ) -> None:
        self.key = key
        self._make_client = make_client
        self._translate = translate
        self._threads = threads
        self._name = name
        self._count = count
        self._process: PerProcess[_Process[_Client]] = PerProcess(_Process)
        self._pacer: Pacer = NO_PACER
        self._meter: Meter = no_meter

    def pace_by(self, pacer: Pacer) -> None:
        """Let a pacer decide when each request is sent."""
        self._pacer = pacer

    def meter_by(self, meter: Meter) -> None:
        """Let a meter hear of each request."""
        self._meter = meter

    def call(
        self,
        operation: str,
        ask: Callable[[_Client], _Answer],
        *,
        batch: Batch | None = None,
        again: bool = True,
    ) -> _Answer:
        """Send a request and return its answer.

        Args:
            operation: what is asked for, in errors and as `keywrap.metering.Meter` hears it.
            ask: sends it; the only frame that may hold the bytes of a data key, which it does not
                return. It raises a `CorruptAnswerError` where the answer is not to be believed,
                upon which it is asked again.
            batch: the call that it is a part of; None: it is one of its own.
            again: whether sending it twice does no harm, so that a hiccup is retried.

        Returns:
            What `ask` returns.

        Raises:
            KmsError: one of the four kinds.
            BatchOverError: the batch ended, and the request was not sent (again).
            Exception: another that `translate` returned.
        """
        batch = batch or Batch()
        once = partial(self._once, operation, ask, batch)
        if not again:
            return once()
        try:
            return once()
        except (ThrottledError, UnavailableError) as error:
            if isinstance(error, RestError) and time.monotonic() + error.rest_s >= batch.until:
                raise
            # Nearly every request ends above; only the others pay for what follows.
        hiccup = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(UnavailableError),
            stop=tenacity.stop_after_attempt(ATTEMPTS - 1) | tenacity.stop_after_delay(RETRY_FOR_S),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=RETRY_FOR_S / ATTEMPTS),
            sleep=tenacity.sleep_using_event(batch.over),
            reraise=True,
        )
        throttled = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(ThrottledError),
            stop=lambda state: _rested(state) >= batch.until,
            reraise=True,  # and no wait: Pace has one for all threads
        )
        answer: _Answer = throttled(hiccup, once)
        return answer

    def each(
        self, do: Callable[[_Item, Batch], _Result], items: Sequence[_Item]
    ) -> list[_Result | KmsError]:
        """Call `do` on each item of a batch, several at a time.

        Returns:
            For each item, in their order, its result or the error that stands in its place: see
            `Batch.run`.

        Raises:
            Exception: what `do` raised first that is no `KmsError`; items that had not begun are
                left.
        """
        batch = Batch(len(items))
        if len(items) <= 1:
            return [batch.run(do, item) for item in items]
        return list(self._pool().map(lambda item: batch.run(do, item), items))

    def _once(self, operation: str, ask: Callable[[_Client], _Answer], batch: Batch) -> _Answer:
        process = self._process.get()
        batch.require_going()
        self._pacer.take(batch.over)
        turn = process.pace.wait(batch.over)
        batch.require_going()  # it may have ended while this thread waited
        began = time.perf_counter()
        try:
            client = process.client or self._client(process)
            with process.lock:
                self._count()
            answer = ask(client)
        except Exception as error:  # noqa: BLE001 - whatever it is, it may hold the request
            failure = self._failure(error, operation)
        else:
            self._meter(operation, time.perf_counter() - began, None)
            return answer
        self._meter(operation, time.perf_counter() - began, failure)
        if isinstance(failure, ThrottledError):
            rest_s = failure.rest_s if isinstance(failure, RestError) else 0.0
            if not self._pacer.throttled() or rest_s:
                process.pace.throttled(turn, min(rest_s, MOST_THROTTLED_FOR_S))
        # Raised outside the handler: the context would hold the request, and its frames the bytes
        # of a data key; `from None` would only hide them.
        raise failure

    def _failure(self, error: Exception, operation: str) -> Exception:
        if isinstance(error, KmsError):
            return error
        if isinstance(error, CorruptAnswerError):
            return self.unavailable(f"the answer to {operation} {error}", "answer_malformed")
        return self._translate(error, operation, self.key)

    def _client(self, process: _Process[_Client]) -> _Client:
        with process.lock:
            if process.client is None:
                process.client = self._make_client()
            return process.client

    def _pool(self) -> ThreadPoolExecutor:
        process = self._process.get()
        with process.lock:
            if process.pool is None:
                process.pool = ThreadPoolExecutor(self._threads, thread_name_prefix=self._name)
            return process.pool


def _rested(state: tenacity.RetryCallState) -> float:
    """Return when a throttled request may be sent again, by the monotonic clock."""
    error = state.outcome.exception() if state.outcome else None
    return time.monotonic() + (error.rest_s if isinstance(error, RestError) else 0.0)
