"""Providers whose service takes one item at a time: a batch is several requests in flight."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

from keywrap.datakey import DataKey
from keywrap.keys import WrappedKey
from keywrap.kms import Context, KmsError
from keywrap.providers.calls import Batch, Road
from keywrap.providers.sending import Sending

_Target = TypeVar("_Target")
"""What new wraps are made under, as a provider has it."""


class OneByOne(Sending, ABC, Generic[_Target]):
    """A provider that wraps and unwraps over a road. May be used from many threads."""

    _connection: Road[Any]
    binds_context: ClassVar[bool] = True
    proves_wraps: ClassVar[bool] = False

    def wrap(self, data_key: DataKey, context: Context) -> WrappedKey:
        """Wrap a data key under the version that new wraps use.

        Raises:
            DeniedError: the key, the version or the principal refuses.
            UnavailableError, ThrottledError: see `keywrap.kms`.
        """
        return self._wrap(self._target(), data_key, context, Batch())

    def unwrap(self, wrapped: WrappedKey, context: Context) -> DataKey:
        """Open a wrap.

        Raises:
            RefusedError: it does not open with this context under the version that it names.
            KmsError: otherwise as in `wrap`.
        """
        return self._unwrap((wrapped, context), Batch())

    def wrap_many(self, items: Sequence[tuple[DataKey, Context]]) -> list[WrappedKey | KmsError]:
        """Wrap each data key, several at a time, all under one version.

        Returns:
            For each item its wrap, or the error that `wrap` would raise. After the first nothing
            more is sent, and what remains gets that error too.

        Raises:
            KmsError: that version cannot be learned, or cannot wrap.
        """
        if not items:
            return []
        target = self._target()
        return self._connection.each(lambda item, batch: self._wrap(target, *item, batch), items)

    def unwrap_many(self, items: Sequence[tuple[WrappedKey, Context]]) -> list[DataKey | KmsError]:
        """Open each wrap, several at a time.

        Returns:
            For each item its data key, or the error that `unwrap` would raise. After the first
            that is no `RefusedError` nothing more is sent, and what remains gets that error too.
        """
        return self._connection.each(self._unwrap, items)

    def _require_own(self, wrapped: WrappedKey, *, names_version: bool, most: int) -> None:
        """See that a wrap may be one of this key; the service is not asked about what cannot.

        Args:
            wrapped: the wrap.
            names_version: whether its version has the form of one.
            most: how many bytes a wrap has at most.

        Raises:
            RefusedError: it cannot be.
        """
        if wrapped.key_version.key != self.key:
            raise self.refused("the wrap names another key", "wrap_of_another_key")
        if not names_version:
            raise self.refused("the wrap names no version", "wrap_version_unknown")
        if not 0 < len(wrapped.ciphertext) <= most:
            raise self.refused("no wrap of the service has this length", "wrap_length")

    @abstractmethod
    def _target(self) -> _Target:
        """Ask what new wraps are made under."""

    @abstractmethod
    def _wrap(
        self, target: _Target, data_key: DataKey, context: Context, batch: Batch
    ) -> WrappedKey:
        """Wrap a data key."""

    @abstractmethod
    def _unwrap(self, item: tuple[WrappedKey, Context], batch: Batch) -> DataKey:
        """Open a wrap."""
