"""What a policy is about: a role, the keys and the store of a configuration, and who gets it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from keywrap.config import KeywrapConfig
from keywrap.permissions import STORE_POWERS, Permission, Power, Role, StorePower, powers_of


@dataclass(frozen=True, slots=True)
class Place:
    """What a policy names and the configuration does not say; placeholders where it is not told.

    Attributes:
        principal: who gets the role (Google: a member; Azure: an assignee).
        subscription: the subscription of the vaults and the storage account (Azure).
        resource_group: their resource group (Azure).
    """

    principal: str = "PRINCIPAL"
    subscription: str = "SUBSCRIPTION"
    resource_group: str = "RESOURCE_GROUP"

    def has_placeholders(self, vendor: str) -> bool:
        """Whether a document of Google or Azure would name something that was not told."""
        named = {self.principal}
        if vendor == "azure":
            named |= {self.subscription, self.resource_group}
        return not named.isdisjoint({"PRINCIPAL", "SUBSCRIPTION", "RESOURCE_GROUP"})


@dataclass(frozen=True, slots=True)
class Subject:
    """What a policy is about.

    Attributes:
        config: the configuration; its listed keys and its store are all that a policy names.
        role: who it is for.
        targets: URIs of the keys that new wraps use.
        place: what the configuration does not say.
        sweeps: whether workers may remove old contents.
    """

    config: KeywrapConfig
    role: Role
    targets: frozenset[str]
    place: Place = Place()
    sweeps: bool = False

    def powers(self, uri: str) -> frozenset[Power]:
        """Return what the role may do with a listed key."""
        return powers_of(self.role, is_target=uri in self.targets)

    def permissions(self, table: Iterable[Permission], uri: str) -> list[Permission]:
        """Return what it needs for that, of a table."""
        powers = self.powers(uri)
        return [permission for permission in table if permission.powers & powers]

    @property
    def store_powers(self) -> Sequence[StorePower]:
        """What the role may do in the store, in a fixed order."""
        removes = self.sweeps and self.role is Role.WORKER
        powers = STORE_POWERS[self.role] | ({StorePower.REMOVE} if removes else set())
        if urlsplit(self.config.store.url).scheme != "s3":
            powers -= {StorePower.LOOK_BACK}
        return sorted(powers)

    def bucket(self, scheme: str) -> tuple[str, str] | None:
        """Return bucket and prefix of the store if it is of a scheme and the role uses it."""
        parts = urlsplit(self.config.store.url)
        if parts.scheme != scheme or not self.store_powers:
            return None
        return parts.netloc, unquote(parts.path).strip("/")
