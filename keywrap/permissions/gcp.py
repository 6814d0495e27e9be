"""What calls of Google Cloud KMS and Cloud Storage need.

"Permissions and roles", https://cloud.google.com/kms/docs/reference/permissions-and-roles: the
table of required permissions by method. Storage: "IAM permissions for Cloud Storage",
https://cloud.google.com/storage/docs/access-control/iam-permissions.
"""

from collections.abc import Mapping

from keywrap.permissions.roles import Permission, Power, StorePower

_O, _W, _L = Power.OPEN, Power.WRAP, Power.LOOK
_R, _S = Power.ROTATE, Power.SWITCH
_VERSIONS = "cloudkms.cryptoKeyVersions"

KMS: tuple[Permission, ...] = (
    Permission("decrypt", f"{_VERSIONS}.useToDecrypt", frozenset({_O})),
    Permission("encrypt", f"{_VERSIONS}.useToEncrypt", frozenset({_W})),
    Permission("get_crypto_key", "cloudkms.cryptoKeys.get", frozenset({_W, _L, _R, _S})),
    Permission("get_crypto_key_version", f"{_VERSIONS}.get", frozenset({_R, _S})),
    Permission("list_crypto_key_versions", f"{_VERSIONS}.list", frozenset({_R})),
    Permission("create_crypto_key_version", f"{_VERSIONS}.create", frozenset({_R})),
    Permission("update_crypto_key_primary_version", "cloudkms.cryptoKeys.update", frozenset({_R})),
    # Disables and enables. To destroy one is cloudkms.cryptoKeyVersions.destroy, which is not here.
    Permission("update_crypto_key_version", f"{_VERSIONS}.update", frozenset({_S})),
)
"""The methods of google-cloud-kms's KeyManagementServiceClient."""

_PUT = ("storage.objects.create", "storage.objects.delete")
"""To replace an object needs the right to delete it: Google has no smaller one."""

STORAGE: Mapping[StorePower, tuple[str, ...]] = {
    StorePower.READ: ("storage.objects.get", "storage.objects.list"),
    StorePower.WRITE: (
        *_PUT,
        "storage.multipartUploads.abort",
        "storage.multipartUploads.create",
    ),
    StorePower.PUBLISH: _PUT,
    StorePower.REMOVE: ("storage.objects.delete",),
}
"""On the bucket and its objects."""
