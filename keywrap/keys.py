"""Values that name keys and carry wraps.

Key ids are URIs in the manner of Tink (`docs.tink.dev`, "key URI"), with the KEK's version in
each: `hcvault://transit/blob-kek?version=3`. A KEK kept in the environment has no versions:
`env:BLOB_KEY`.
"""

import re
from dataclasses import dataclass
from typing import Self

MAX_KEY_ID_CHARS = 1024
"""Longest key id that is read: an AWS key ARN has 2,048 at most on paper, about 80 in life."""

_KEY_URI = re.compile(r"[a-z][a-z0-9+-]{1,31}:[A-Za-z0-9/._~:@%+=,;-]{1,960}")
_VERSION = re.compile(r"[A-Za-z0-9._-]{1,128}")

_PROVIDER_OF_SCHEME = {
    "env": "env",
    "dpapi": "dpapi",
    "local": "local",
    "aws-kms": "aws",
    "gcp-kms": "gcp",
    "azure-kv": "azure",
    "hcvault": "vault",
    "pkcs11": "pkcs11",
}

LEGACY_PROVIDERS = frozenset({"env", "dpapi"})
"""Providers that a migration moves away from; they unwrap only."""


class BadKeyIdError(ValueError):
    """The text is not a key id."""


@dataclass(frozen=True, slots=True)
class KeyVersion:
    """A KEK and one of its versions.

    Attributes:
        key: URI of the KEK without its version, such as `hcvault://transit/blob-kek`.
        version: the version as its service names it, such as `3`; empty where the KEK has none.
    """

    key: str
    version: str = ""

    @classmethod
    def parse(cls, key_id: str) -> Self:
        """Read a key id.

        Args:
            key_id: a KEK's URI, with `?version=…` where the KEK has versions.

        Returns:
            The KEK and version that it names.

        Raises:
            BadKeyIdError: it is too long, has other characters than a key URI may have, or names
                no known kind of provider.
        """
        if len(key_id) > MAX_KEY_ID_CHARS:
            raise BadKeyIdError(f"a key id has at most {MAX_KEY_ID_CHARS} characters")
        key, marker, version = key_id.partition("?version=")
        if not _KEY_URI.fullmatch(key) or key.partition(":")[0] not in _PROVIDER_OF_SCHEME:
            raise BadKeyIdError("not the URI of a key of a known provider")
        if marker and not _VERSION.fullmatch(version):
            raise BadKeyIdError("not a key version")
        return cls(key, version)

    @property
    def provider(self) -> str:
        """The kind of provider: `env`, `vault` and so on."""
        return _PROVIDER_OF_SCHEME[self.key.partition(":")[0]]

    @property
    def is_legacy(self) -> bool:
        """Whether a migration moves wraps away from this key."""
        return self.provider in LEGACY_PROVIDERS

    def satisfies(self, target: "KeyVersion") -> bool:
        """Whether a wrap under this version needs no rewrap to `target`.

        True at the target itself and, where versions are counted, beyond it: an application that
        already wraps under a newer version is not pulled back.
        """
        if self == target:
            return True
        if self.key != target.key:
            return False
        both = self.version, target.version
        return all(v.isdecimal() for v in both) and int(self.version) > int(target.version)

    def __str__(self) -> str:
        return f"{self.key}?version={self.version}" if self.version else self.key


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A data key as a KEK version wrapped it.

    Attributes:
        key_version: the KEK version that wrapped it.
        ciphertext: the wrap as raw bytes; empty where the legacy key is itself the data key.
    """

    key_version: KeyVersion
    ciphertext: bytes

    def __repr__(self) -> str:
        return f"WrappedKey({self.key_version}, {len(self.ciphertext)} bytes)"


DPAPI = KeyVersion("dpapi")
"""DPAPI's master keys as a whole: which of them it was, the wrap itself says. Only
`legacy_default` may say so; no wrap is left under it."""
