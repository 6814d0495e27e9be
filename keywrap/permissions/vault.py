"""What calls of the Transit engine of OpenBao and Vault need.

The paths: https://openbao.org/api-docs/secret/transit/. Capabilities and
`allowed_parameters`: https://openbao.org/docs/concepts/policies/. All tried on OpenBao 2.7.2
(tests/integration/test_policy_vault.py).
"""

from collections.abc import Mapping

from keywrap.permissions.roles import Permission, Power

_W, _L = Power.WRAP, Power.LOOK
_TO, _R, _S = Power.MOVE_TO, Power.ROTATE, Power.SWITCH

TRANSIT: tuple[Permission, ...] = (
    Permission("POST decrypt/{key}", "update", frozenset({Power.OPEN})),
    # Not `create`: with it, an encrypt under a missing key makes one.
    Permission("POST encrypt/{key}", "update", frozenset({_W})),
    Permission("POST rewrap/{key}", "update", frozenset({_TO})),
    Permission("GET keys/{key}", "read", frozenset({_W, _TO, _L, _R, _S})),
    Permission("POST keys/{key}/rotate", "update", frozenset({_R})),
    Permission("POST keys/{key}", "update", frozenset({_R}), ours=False),  # makes the key itself
    Permission("POST keys/{key}/config", "update", frozenset({_S})),
)
"""Method and path behind the mount, and the capability on that path. No path here deletes a key:
that wants `delete`, and before it `deletion_allowed`, which nobody may set."""

PARAMETERS: Mapping[str, Mapping[str, tuple[object, ...]]] = {
    "POST keys/{key}": {"derived": (True, "true"), "type": ("aes256-gcm96",)},
    "POST keys/{key}/config": {"min_decryption_version": (), "min_encryption_version": ()},
}
"""What a request may say, where not everything is allowed; () is any value. What it *must* say
cannot be asked for: `required_parameters` would refuse the read of the same path too. So a key can
be made that is not derived; the provider uses no such key."""
