"""Timing the requests to key services, for whoever counts them."""

from typing import ClassVar, Protocol, runtime_checkable

from keywrap.kms import (
    DeniedError,
    KmsError,
    RefusedError,
    ThrottledError,
    UnavailableError,
)

KINDS: tuple[tuple[type[KmsError], str], ...] = (
    (RefusedError, "refused"),
    (DeniedError, "denied"),
    (ThrottledError, "throttled"),
    (UnavailableError, "unavailable"),
)
"""The kinds of error of a key, and their names."""

OUTCOMES = ("ok", *(name for _, name in KINDS), "error")
"""What a request or a use of a key may come to; `error` is none of the four kinds."""


def outcome_of(result: type[object]) -> str:
    """Name what a request or a use of a key came to: one of `OUTCOMES`.

    Args:
        result: the class of what came out; of an exception where nothing did.
    """
    if not issubclass(result, BaseException):
        return "ok"
    return next((name for kind, name in KINDS if issubclass(result, kind)), "error")


class Meter(Protocol):
    """Hears of each request to the key service of one KEK, once it has ended, in any thread."""

    def __call__(self, operation: str, seconds: float, failure: Exception | None, /) -> None:
        """Hear of a request; must not raise.

        Args:
            operation: what was asked for, such as `decrypt`: one of a few words.
            seconds: from sending it to its answer; waiting for its turn is not in it.
            failure: what it came to, where it has no answer that can be used.
        """


@runtime_checkable
class Metered(Protocol):
    """A provider whose requests can be timed."""

    def meter_by(self, meter: Meter) -> None:
        """Let a meter hear of each request, from now on."""


@runtime_checkable
class CountedWraps(Protocol):
    """A provider whose KEK is worn out after so many wraps.

    Attributes:
        wrap_limit: the most wraps under one version.
    """

    wrap_limit: ClassVar[int]

    def wraps_made(self) -> int:
        """Return how many wraps were counted under the newest version.

        Raises:
            KmsError: the KEK cannot be read.
        """


def no_meter(_operation: str, _seconds: float, _failure: Exception | None) -> None:
    """Hear nothing."""
