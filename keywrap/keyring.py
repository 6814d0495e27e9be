"""The KEKs that this installation lists; there is no other way to a key provider."""

from collections.abc import Iterable
from typing import Protocol

from keywrap.keys import KeyVersion
from keywrap.kms import KeyProvider, VersionOrder


class UnlistedKeyError(LookupError):
    """The configuration lists no such KEK.

    Args:
        key: URI of the KEK that was asked for.
    """

    reason_code = "key_not_listed"

    def __init__(self, key: str) -> None:
        super().__init__(f"the configuration lists no key {key!r}")
        self.key = key


class KeyFamily(Protocol):
    """KEKs that one table of the configuration lists together, such as an account's master keys.

    It is no way around the configuration: a member is opened with what its table names, by an
    opener that was there before, and a name that the table does not claim is no member.
    """

    def __contains__(self, key: str, /) -> bool:
        """Whether the table claims a KEK, by its URI without version."""

    def provider(self, key: str, /) -> KeyProvider:
        """Return the provider of a member."""


class KeyRing:
    """The listed KEKs.

    A sidecar, control file or message names a key; only the configuration can put one here. That
    is why a lookup opens nothing that was not opened before. The providers connect when first
    used, so a ring may be made before or after a process forks.

    Args:
        providers: one provider for each KEK that is listed by its name.
        primary: URI of the KEK that new wraps use; None where this installation only reads.
        families: KEKs that are listed together; no two claim the same.

    Raises:
        ValueError: two providers speak for one KEK.
        UnlistedKeyError: `primary` is not among them.
    """

    def __init__(
        self,
        providers: Iterable[KeyProvider],
        primary: str | None = None,
        families: Iterable[KeyFamily] = (),
    ) -> None:
        self._families = tuple(families)
        self._providers: dict[str, KeyProvider] = {}
        for provider in providers:
            if provider.key in self._providers:
                raise ValueError(f"{provider.key} is listed twice")
            self._providers[provider.key] = provider
        self.primary = None if primary is None else self.provider(primary)

    def provider(self, key: str) -> KeyProvider:
        """Return the provider of a listed KEK.

        Args:
            key: URI of the KEK without its version: `KeyVersion.key`.

        Raises:
            UnlistedKeyError: the configuration does not list it.
        """
        provider = self._providers.get(key)
        if provider is not None:
            return provider
        for family in self._families:
            if key in family:
                return family.provider(key)
        raise UnlistedKeyError(key)

    def reaches(self, version: KeyVersion, target: KeyVersion) -> bool:
        """Whether a wrap under a version needs no rewrap to the target: it is there, or beyond.

        Raises:
            KmsError: only the key service knows the order of its versions, and cannot be asked.
        """
        if version.satisfies(target):
            return True
        provider = self._providers.get(target.key)
        return (
            version.key == target.key
            and isinstance(provider, VersionOrder)
            and provider.is_newer(version.version, than=target.version)
        )

    def __contains__(self, key: str) -> bool:
        """Whether the configuration lists a KEK."""
        return key in self._providers or any(key in family for family in self._families)

    def keys(self) -> tuple[str, ...]:
        """Return the URIs of the KEKs that are listed by name, in the configuration's order."""
        return tuple(self._providers)

    @property
    def requests(self) -> int:
        """How many requests its providers have sent to key services."""
        return sum(provider.requests for provider in self._providers.values())
