"""What calls of Azure Key Vault, Managed HSM and Blob Storage need.

"Azure permissions for Security", section Microsoft.KeyVault,
https://learn.microsoft.com/azure/role-based-access-control/permissions/security; "Local RBAC
built-in roles for Managed HSM", https://learn.microsoft.com/azure/key-vault/managed-hsm/
built-in-roles; "Azure permissions for Storage", section Microsoft.Storage, at the first.
"""

from collections.abc import Mapping

from keywrap.permissions.roles import Permission, Power, StorePower

_O, _W, _L, _J = Power.OPEN, Power.WRAP, Power.LOOK, Power.JUDGE
_R, _S = Power.ROTATE, Power.SWITCH

KEYS: tuple[Permission, ...] = (
    # Who opens reads the key too: the vault answers alike to a bad wrap and to an unknown version.
    Permission("get_key", "read", frozenset({_O, _W, _L, _R, _S})),
    Permission("list_properties_of_key_versions", "read", frozenset({_O, _W})),
    Permission("unwrapkey", "unwrap", frozenset({_O})),
    Permission("decrypt", "decrypt", frozenset({_O})),
    Permission("wrapkey", "wrap", frozenset({_W, _J})),
    Permission("encrypt", "encrypt", frozenset({_W, _J})),
    Permission("rotate_key", "rotate", frozenset({_R})),
    Permission("update_key_properties", "update", frozenset({_S})),
)
"""The methods of azure-keyvault-keys's KeyClient, and the operations of the REST API that are
posted. Each permission by the verb that stands in `VAULT` and `MANAGED_HSM`."""

BY_ALGORITHM: Mapping[str, frozenset[str]] = {
    "RSA-OAEP-256": frozenset({"unwrapkey"}),  # wrapped in the process, with the public key
    "A256KW": frozenset({"wrapkey", "unwrapkey"}),
    "A256GCM": frozenset({"encrypt", "decrypt"}),
}
"""The posted operations that each algorithm uses; see `keywrap.providers.azure_wrapping`."""

VAULT: Mapping[str, str] = {
    "read": "Microsoft.KeyVault/vaults/keys/read",
    "unwrap": "Microsoft.KeyVault/vaults/keys/unwrap/action",
    "decrypt": "Microsoft.KeyVault/vaults/keys/decrypt/action",
    "wrap": "Microsoft.KeyVault/vaults/keys/wrap/action",
    "encrypt": "Microsoft.KeyVault/vaults/keys/encrypt/action",
    "rotate": "Microsoft.KeyVault/vaults/keys/rotate/action",
    "update": "Microsoft.KeyVault/vaults/keys/update/action",
}
"""The data actions of a vault."""

MANAGED_HSM: Mapping[str, str] = {
    "read": "Microsoft.KeyVault/managedHsm/keys/read/action",
    "unwrap": "Microsoft.KeyVault/managedHsm/keys/unwrap/action",
    "decrypt": "Microsoft.KeyVault/managedHsm/keys/decrypt/action",
    "wrap": "Microsoft.KeyVault/managedHsm/keys/wrap/action",
    "encrypt": "Microsoft.KeyVault/managedHsm/keys/encrypt/action",
    "rotate": "Microsoft.KeyVault/managedHsm/keys/rotate/action",
    "update": "Microsoft.KeyVault/managedHsm/keys/write/action",
}
"""The data actions of a Managed HSM, whose roles are its own and not Azure's."""

_BLOBS = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs"
STORAGE: Mapping[StorePower, tuple[str, ...]] = {
    StorePower.READ: (f"{_BLOBS}/read",),
    StorePower.WRITE: (f"{_BLOBS}/write",),
    StorePower.PUBLISH: (f"{_BLOBS}/write",),
    StorePower.REMOVE: (f"{_BLOBS}/delete",),
}
"""The data actions on the blobs of a container; to list them is read."""
