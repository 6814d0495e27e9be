"""Names of keys in Azure Key Vault and Managed HSM; needs no client library.

Format: https://learn.microsoft.com/azure/key-vault/general/about-keys-secrets-certificates.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

SCHEME = "azure-kv://"

Algorithm = Literal["RSA-OAEP-256", "A256KW", "A256GCM"]

MADE_HERE: frozenset[Algorithm] = frozenset({"RSA-OAEP-256"})
"""Algorithms whose wraps are made in this process with the public key: no request is sent."""

_AUTHORITIES: Mapping[str, str] = {
    "azure.net": "login.microsoftonline.com",
    "azure.cn": "login.chinacloudapi.cn",
    "usgovcloudapi.net": "login.microsoftonline.us",
}
_HOST = (
    r"[a-z][a-z0-9-]{1,22}[a-z0-9]\.(vault|managedhsm)\.(azure\.net|azure\.cn|usgovcloudapi\.net)"
)
_KEY = re.compile(rf"(?P<host>{_HOST})/keys/(?P<name>[A-Za-z0-9-]{{1,127}})")
_VERSION = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class AzureKeyName:
    """A key of a vault or Managed HSM, without version.

    Attributes:
        host: of the vault, such as `my-vault.vault.azure.net`.
        name: of the key.
    """

    host: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `<host>/keys/<name>`.

        Raises:
            ValueError: it is not of that form, or the host is none of Azure's. A version is not a
                part of it.
        """
        match = _KEY.fullmatch(text)
        if match is None:
            raise ValueError(
                "a key of Azure is named <vault>.vault.azure.net/keys/<name> or "
                "<hsm>.managedhsm.azure.net/keys/<name>"
            )
        return cls(match["host"], match["name"])

    @property
    def is_managed_hsm(self) -> bool:
        """Whether the host is a Managed HSM, the only one to have AES keys."""
        return ".managedhsm." in self.host

    @property
    def authority(self) -> str:
        """The host that gives access tokens for this vault's cloud."""
        return next(login for end, login in _AUTHORITIES.items() if self.host.endswith(end))

    def __str__(self) -> str:
        return f"{self.host}/keys/{self.name}"

    def version_of(self, kid: object) -> str:
        """Return the version in a key identifier of this key; empty where it is none.

        Vaults take names in any case, so an identifier may be written as the key was created.
        """
        start = f"https://{self}/"
        if not isinstance(kid, str) or not kid.lower().startswith(start.lower()):
            return ""
        version = kid[len(start) :]
        return version if is_version(version) else ""


def is_version(text: str) -> bool:
    """Whether a text is the version of a key: 32 hexadecimal digits."""
    return _VERSION.fullmatch(text) is not None
