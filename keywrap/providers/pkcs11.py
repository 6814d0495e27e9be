"""KEKs in a PKCS#11 token: a hardware security module, or SoftHSM2.

Every version of the KEK is an AES-256 key that never leaves the token. How a wrap is made and
bound to its context: `keywrap.providers.pkcs11_mechanisms`. Which key is which version:
`keywrap.providers.pkcs11_keys`.

A token says the same of a wrap that does not open and of its own failure, so a wrap is only
refused after it failed twice with a canary, wrapped and opened under the same version, between.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, TypeVar

from keywrap.contexts import canonical_context
from keywrap.datakey import KEY_BYTES, DataKey
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import Context, DeniedError, KmsError, RefusedError, UnavailableError, only
from keywrap.metering import Meter, no_meter
from keywrap.providers.pkcs11_uri import SCHEME, key_path
from keywrap.providers.telling import Telling

try:
    from pkcs11 import Session
except ImportError as error:
    raise ImportError("a key in a PKCS#11 token needs: pip install 'keywrap[pkcs11]'") from error

from keywrap.providers.pkcs11_errors import INTEGRITY
from keywrap.providers.pkcs11_keys import TokenKeys
from keywrap.providers.pkcs11_mechanisms import AesGcm, AesKw, WrapMechanism
from keywrap.providers.pkcs11_token import LOCK, Token, TokenAddress

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Pkcs11Provider(Telling):
    """Wraps and unwraps with one KEK in a token, by `aes-gcm` unless told otherwise.

    May be used from many threads: they take turns, as do all providers of one process.

    Args:
        address: the token.
        family: what the labels of its keys begin with.
        check_values: see `TokenKeys`.

    Raises:
        ValueError: the token or the family cannot have such a name.
    """

    binds_context: ClassVar[bool] = True
    proves_wraps: ClassVar[bool] = False
    _mechanism: WrapMechanism = AesGcm()

    def __init__(
        self, address: TokenAddress, family: str, *, check_values: Mapping[str, str] | None = None
    ) -> None:
        self.key = SCHEME + key_path(address.label, family)
        self.requests = 0
        self._meter: Meter = no_meter
        self._token = Token(address, self.key)
        self._keys = TokenKeys(family, self.key, self._mechanism, check_values or {})

    def current_version(self) -> KeyVersion:
        """Look for the newest version. Never cached: a campaign must see a rotation.

        Raises:
            DeniedError: there is no such key, or the PIN is refused.
            UnavailableError: the token is gone.
        """
        return KeyVersion(self.key, self._run(self._keys.newest))

    def create_key(self) -> KeyVersion:
        """Make the first version of a KEK that is not there yet, and return it.

        Raises:
            DeniedError: it has a version already; and as in `create_version`.
            UnavailableError: as in `create_version`.
        """
        with LOCK, self._token.exclusive():
            if self._run(self._keys.versions):
                raise self.denied("it is there already, and was left as it is", "already_there")
            return self._create("1")

    def create_version(self) -> KeyVersion:
        """Make the next version in the token, and return it.

        No other process of this host makes one meanwhile. Two hosts that share a token may make
        one at once: that is seen afterwards, and nothing is wrapped under either.

        Raises:
            DeniedError: there is no such key, or two keys bear the version's label.
            UnavailableError: no answer, or the new version is not seen yet. It may have been
                made: read `current_version` before trying again. It is never tried twice here.
        """
        with LOCK, self._token.exclusive():
            before = self._run(self._keys.newest)
            return self._create(str(int(before) + 1))

    def disable_version(self, version: KeyVersion) -> None:
        """Let nothing be wrapped or opened under a version, in any process, from now on.

        Raises:
            RefusedError: there is no such version.
            DeniedError: it is the current version, or the token does not allow it.
            UnavailableError: the token is gone.
        """
        self._switch(version, on=False)

    def enable_version(self, version: KeyVersion) -> None:
        """Let wraps of a disabled version open again; errors as in `disable_version`."""
        self._switch(version, on=True)

    def wrap(self, data_key: DataKey, context: Context) -> WrappedKey:
        """Wrap one data key; see `wrap_many`."""
        return only(self.wrap_many([(data_key, context)]))

    def unwrap(self, wrapped: WrappedKey, context: Context) -> DataKey:
        """Open one wrap; see `unwrap_many`."""
        return only(self.unwrap_many([(wrapped, context)]))

    def wrap_many(self, items: Sequence[tuple[DataKey, Context]]) -> list[WrappedKey | KmsError]:
        """Wrap each data key under the current KEK version; errors as in `BatchingKeyProvider`.

        Raises:
            DeniedError, UnavailableError: nothing was wrapped.
        """
        if not items:
            return []
        with LOCK:
            version = self._run(self._keys.current)
            return self._each(items, lambda item: self._wrap(version, *item))

    def unwrap_many(self, items: Sequence[tuple[WrappedKey, Context]]) -> list[DataKey | KmsError]:
        """Open each wrap; errors as in `BatchingKeyProvider`."""
        with LOCK:
            return self._each(items, lambda item: self._open(*item))

    def _wrap(self, version: str, data_key: DataKey, context: Context) -> WrappedKey:
        bound = canonical_context(context)

        def act(session: Session) -> bytes:
            kek = self._keys.wrapping(session, version)
            return self._mechanism.wrap(kek, data_key.reveal(), bound)

        wrapped = self._wrapped(version, self._run(act, "wrap"), len(data_key.reveal()))
        self._keys.remember(version, wrapped.ciphertext, bound)
        return wrapped

    def _open(self, wrapped: WrappedKey, context: Context) -> DataKey:
        self._check(wrapped)
        version, bound = wrapped.key_version.version, canonical_context(context)

        def act(session: Session) -> bytes:
            kek = self._keys.opening(session, version)
            if kek is None:
                raise self._no_such_version(session, version)
            return self._mechanism.open(kek, wrapped.ciphertext, bound)

        inner = self._run(lambda session: self._surely(session, [version], act), "unwrap")
        if len(inner) + self._mechanism.overhead != len(wrapped.ciphertext):
            raise self.refused(f"the wrap holds {len(inner)} bytes", "inner_key_length")
        self._keys.remember(version, wrapped.ciphertext, bound)
        return DataKey(inner)

    def _surely(
        self, session: Session, versions: list[str], act: Callable[[Session], bytes]
    ) -> bytes:
        """Open a wrap, and refuse it only where the token is seen to work.

        Raises:
            RefusedError: it does not open.
            PKCS11Error: the token does not work.
        """
        try:
            return act(session)
        except INTEGRITY:
            pass
        for version in versions:
            self._keys.canary(session, version)
        try:
            return act(session)
        except INTEGRITY:
            raise self.refused("the wrap does not open", "wrap_does_not_open") from None

    def _check(self, wrapped: WrappedKey) -> None:
        """See that a wrap may be one of this KEK.

        Raises:
            RefusedError: it cannot be.
        """
        if wrapped.key_version.key != self.key:
            raise self.refused("the wrap names another key", "wrap_of_another_key")
        lengths = [self._mechanism.overhead + size for size in KEY_BYTES]
        if len(wrapped.ciphertext) not in lengths:
            raise self.refused(
                f"a wrap by {self._mechanism.name} has {', '.join(map(str, lengths))} bytes, not "
                f"{len(wrapped.ciphertext)}",
                "wrap_length",
            )

    def _wrapped(self, version: str, wrap: bytes, inner: int) -> WrappedKey:
        """Name a wrap that the token made, once its length is seen to be right."""
        if len(wrap) != inner + self._mechanism.overhead:
            raise self.denied(
                f"the token made a wrap of {len(wrap)} bytes for a key of {inner}", "token_unsound"
            )
        return WrappedKey(KeyVersion(self.key, version), wrap)

    def _create(self, version: str) -> KeyVersion:
        def make(session: Session) -> None:  # noqa: ARG001 - a session that writes, instead
            with self._token.writing() as writing:
                self._keys.generate(writing, version)

        self._run(make, again=False)
        if self._run(self._keys.newest) != version:
            raise self.unavailable(
                f"version {version} was made, but is not seen yet", "rotation_not_seen"
            )
        self._run(lambda session: self._keys.wrapping(session, version))
        return KeyVersion(self.key, version)

    def _switch(self, version: KeyVersion, *, on: bool) -> None:
        if version.key != self.key:
            raise self.refused(f"it has no version {version}", "key_version_unknown")

        def act(session: Session) -> None:
            if self._keys.find(session, version.version) is None:
                raise self.refused(f"it has no version {version.version}", "key_version_unknown")
            if not on and version.version == self._keys.newest(session):
                raise self.denied(
                    f"version {version.version} is the current one; rewrap rotate-kek {self.key} "
                    "makes another",
                    "version_is_current",
                )
            with self._token.writing() as writing:
                self._keys.switch(writing, version.version, on=on)

        self._run(act)

    def _each(
        self, items: Sequence[_Item], act: Callable[[_Item], _Result]
    ) -> list[_Result | KmsError]:
        """Do it for each item; after an error that is not the item's own, for no more."""
        results: list[_Result | KmsError] = []
        for item in items:
            try:
                results.append(act(item))
            except RefusedError as error:
                results.append(error)
            except (DeniedError, UnavailableError) as error:
                results += [error] * (len(items) - len(results))
                break
        return results

    def meter_by(self, meter: Meter) -> None:
        """Let a meter hear of each request; see `keywrap.metering.Metered`."""
        self._meter = meter

    def _run(
        self,
        act: Callable[[Session], _Result],
        operation: str = "manage",
        *,
        again: bool = True,
    ) -> _Result:
        with LOCK:
            self.requests += 1
            began = time.perf_counter()
            try:
                result = self._token.run(act, again=again)
            except KmsError as error:
                self._meter(operation, time.perf_counter() - began, error)
                raise
            self._meter(operation, time.perf_counter() - began, None)
            return result

    def _no_such_version(self, session: Session, version: str) -> RefusedError:
        # Where none is found at all it is no fault of the wrap: this raises another error.
        self._keys.newest(session)
        return self.refused(f"the token has no version {version!a}", "wrap_version_unknown")


class Pkcs11KeyWrapProvider(Pkcs11Provider):
    """Wraps by `aes-kw`, and moves wraps from version to version inside the token."""

    _mechanism: AesKw = AesKw()

    def rewraps_from(self, key: str) -> bool:
        """Whether wraps of a KEK can be moved: those of the KEK itself."""
        return key == self.key

    def rewrap_many(
        self, items: Sequence[tuple[WrappedKey, Context]]
    ) -> list[WrappedKey | KmsError]:
        """Move each wrap to the current version; its data key does not leave the token.

        Errors as in `wrap_many`. A wrap that is already there is made anew: compare first.
        """
        if not items:
            return []
        with LOCK:
            target = self._run(self._keys.current)
            return self._each(items, lambda item: self._move(target, *item))

    def _move(self, target: str, wrapped: WrappedKey, context: Context) -> WrappedKey:
        self._check(wrapped)
        source, bound = wrapped.key_version.version, canonical_context(context)

        def act(session: Session) -> bytes:
            old, new = self._keys.opening(session, source), self._keys.wrapping(session, target)
            if old is None:
                raise self._no_such_version(session, source)
            return self._mechanism.move(old, new, wrapped.ciphertext, bound)

        moved = self._run(lambda session: self._surely(session, [source, target], act), "rewrap")
        return self._wrapped(target, moved, len(wrapped.ciphertext) - self._mechanism.overhead)
