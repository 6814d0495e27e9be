"""What a key provider must do, and the four kinds of error that it may raise.

One provider object speaks for one KEK. A provider maps each error of its service to one of four
kinds, because each asks for something else: wait (`UnavailableError`), slow down everywhere
(`ThrottledError`), block the campaign (`DeniedError`), or put this one wrap aside
(`RefusedError`). Where a service cannot tell the last two apart, the provider opens a known-good
canary wrap of the same KEK version to decide.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self, TypeVar, runtime_checkable

from keywrap.datakey import DataKey
from keywrap.keys import KeyVersion, WrappedKey

_Result = TypeVar("_Result")

Context = Mapping[str, str]
"""Additional authenticated data that binds a wrap to its blob; not secret."""


class KmsError(Exception):
    """A KEK could not be used.

    Args:
        message: a sentence for the operator; never key material.
        key: URI of the KEK.
        reason_code: a short stable code, such as `permission_denied`.
    """

    reason_code: str = "kms_error"

    def __init__(self, message: str, *, key: str = "", reason_code: str = "") -> None:
        super().__init__(message)
        self.key = key
        self.reason_code = reason_code or type(self).reason_code

    @classmethod
    def about(cls, key: str, message: str, reason_code: str = "") -> Self:
        """Make the error of a KEK, whose URI comes before the message."""
        return cls(f"{key}: {message}", key=key, reason_code=reason_code)


CLOSED = frozenset(
    {"version_disabled", "version_not_allowed", "version_not_enabled", "key_disabled"}
)
"""Reason codes of a KEK version that was taken out of use: it opens nothing until a person acts."""


class UnavailableError(KmsError):
    """The key service does not answer. Wait: nothing is wrong with the wraps."""

    reason_code = "kms_unavailable"


class ThrottledError(KmsError):
    """The key service asks for fewer requests. Slow down everywhere."""

    reason_code = "kms_throttled"


class DeniedError(KmsError):
    """The KEK as a whole refuses: permission, credential or key state. Block the campaign."""

    reason_code = "key_denied"


class RefusedError(KmsError):
    """This wrap alone does not open. A person must look at it; the others go on."""

    reason_code = "wrap_refused"


class ProofFailedError(Exception):
    """A new wrap did not open to the data key it was made from. Stop; nothing was replaced."""


class KeyProvider(Protocol):
    """Wraps and unwraps data keys with one KEK.

    Attributes:
        key: URI of the KEK, without version.
        proves_wraps: whether `wrap` and `wrap_many` open each new wrap and compare it with its
            data key before they return it, and raise `ProofFailedError` where it differs. So does
            a provider that learns a wrap's version only by opening it; nobody opens it again.
        requests: how many requests this object has sent to its key service.
    """

    key: str
    proves_wraps: ClassVar[bool]
    requests: int

    @property
    def binds_context(self) -> bool:
        """Whether a wrap opens only with the context it was made with."""

    def current_version(self) -> KeyVersion:
        """Return the KEK version that `wrap` uses now."""

    def wrap(self, data_key: DataKey, context: Context) -> WrappedKey:
        """Wrap a data key under the current KEK version, bound to `context` where it can be."""

    def unwrap(self, wrapped: WrappedKey, context: Context) -> DataKey:
        """Open a wrap made under any version of this KEK that is still enabled."""


@runtime_checkable
class BatchingKeyProvider(Protocol):
    """A provider that takes many items at once.

    Results stand in the order of the items; so do errors:

    - `RefusedError`: this wrap alone does not open.
    - One of the other three kinds: the item was not finished, and nothing is wrong with its wrap.
      It may be tried again once the cause is gone. Items beside it keep their results: go on with
      them, or a batch that is throttled each time makes no progress for ever.

    After the first of those three kinds a provider sends nothing more, and gives what remains the
    same error. Where one request holds all items there is none to keep: it may raise instead.
    `ProofFailedError` is always raised.
    """

    def wrap_many(self, items: Sequence[tuple[DataKey, Context]]) -> list[WrappedKey | KmsError]:
        """Wrap each data key under the current KEK version."""

    def unwrap_many(self, items: Sequence[tuple[WrappedKey, Context]]) -> list[DataKey | KmsError]:
        """Open each wrap."""


@runtime_checkable
class ServerSideRewrap(Protocol):
    """A provider whose service moves a wrap to its current version without showing the key."""

    def rewraps_from(self, key: str) -> bool:
        """Whether the service moves wraps of this KEK to its own, and checks their context.

        Args:
            key: URI of a KEK without version: the provider's own, or another of its service.
        """

    def rewrap_many(
        self, items: Sequence[tuple[WrappedKey, Context]]
    ) -> list[WrappedKey | KmsError]:
        """Move each wrap to the current version of this KEK, its context unchanged.

        Errors stand in their places as in `BatchingKeyProvider`, or are raised as there. A wrap
        of a KEK that `rewraps_from` denies is a `RefusedError`.
        """


@runtime_checkable
class VersionCreator(Protocol):
    """A provider that can give its KEK a new version."""

    def create_version(self) -> KeyVersion:
        """Create the next KEK version and return it."""


@runtime_checkable
class VersionSwitch(Protocol):
    """A provider that can take a version of its KEK out of use, and put it back."""

    def disable_version(self, version: KeyVersion) -> None:
        """Let nothing be opened under a version any more; done already is done.

        Raises:
            DeniedError: it is the current version, or the service does not allow it.
        """

    def enable_version(self, version: KeyVersion) -> None:
        """Let wraps of a disabled version open again; done already is done."""


@runtime_checkable
class KeySwitch(Protocol):
    """A provider whose service takes a KEK out of use as a whole, with every version of it."""

    def disable_key(self) -> None:
        """Let nothing be opened or wrapped under the KEK any more; done already is done.

        Raises:
            DeniedError: it is to be deleted, or the service does not allow it.
        """

    def enable_key(self) -> None:
        """Let wraps of a disabled KEK open again; done already is done."""


@runtime_checkable
class VersionFloor(Protocol):
    """A provider whose service opens wraps from one version on: it closes none alone."""

    def closes_with(self, version: KeyVersion) -> list[KeyVersion]:
        """Return the versions before this one that still open, and would close with it."""

    def stop_wrapping(self, version: KeyVersion) -> None:
        """Let nothing be wrapped under a version, or one before it, any more."""


@runtime_checkable
class VersionOrder(Protocol):
    """A provider whose versions' names do not tell their order, such as key material ids."""

    def is_newer(self, version: str, than: str) -> bool:
        """Whether both are versions of this KEK, and the first came after the second."""


@runtime_checkable
class RequestNamer(Protocol):
    """A provider whose service names each request, as it does in its own audit log."""

    def last_requests(self) -> Sequence[str]:
        """Return the names of the requests behind this thread's last call of many items.

        One for each item, in their order; empty for an item that was not sent. Of a provider that
        sends two requests for an item, the first.
        """


@runtime_checkable
class DataKeyGenerator(Protocol):
    """A provider whose service makes a data key and its wrap in one request."""

    def generate_data_key(self, context: Context) -> tuple[DataKey, WrappedKey]:
        """Make a new AES-256 data key, wrapped under the current KEK version."""


def wrap_many(
    provider: KeyProvider, items: Sequence[tuple[DataKey, Context]]
) -> list[WrappedKey | KmsError]:
    """Wrap many data keys, in as few requests as the provider can; see `BatchingKeyProvider`."""
    if isinstance(provider, BatchingKeyProvider):
        return provider.wrap_many(items)
    return _one_by_one(provider.wrap, items)


def unwrap_many(
    provider: KeyProvider, items: Sequence[tuple[WrappedKey, Context]]
) -> list[DataKey | KmsError]:
    """Open many wraps, in as few requests as the provider can; see `BatchingKeyProvider`."""
    if isinstance(provider, BatchingKeyProvider):
        return provider.unwrap_many(items)
    return _one_by_one(provider.unwrap, items)


def _one_by_one(
    do: Callable[..., _Result], items: Sequence[tuple[Any, Context]]
) -> list[_Result | KmsError]:
    results: list[_Result | KmsError] = []
    for item in items:
        try:
            results.append(do(*item))
        except RefusedError as error:
            results.append(error)
    return results


def only(results: Sequence[_Result | KmsError]) -> _Result:
    """Return the result of a batch of one.

    Raises:
        KmsError: the one that stands in its place.
    """
    (result,) = results
    if isinstance(result, KmsError):
        raise result
    return result
