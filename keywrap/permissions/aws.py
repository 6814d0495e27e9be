"""What calls of AWS KMS and S3 need.

"AWS KMS permissions", https://docs.aws.amazon.com/kms/latest/developerguide/
kms-api-permissions-reference.html: each action is named there, with whether it takes a key ARN as
its resource and which condition keys it has. S3: "Required permissions for Amazon S3 API
operations", https://docs.aws.amazon.com/AmazonS3/latest/userguide/
using-with-s3-policy-actions.html.
"""

from collections.abc import Mapping

from keywrap.permissions.roles import Permission, Power, StorePower

_O, _W, _L = Power.OPEN, Power.WRAP, Power.LOOK
_FROM, _TO = Power.MOVE_FROM, Power.MOVE_TO
_R, _S = Power.ROTATE, Power.SWITCH

KMS: tuple[Permission, ...] = (
    Permission("decrypt", "kms:Decrypt", frozenset({_O, _W}), bound=True),  # a wrap is opened
    Permission("encrypt", "kms:Encrypt", frozenset({_W}), bound=True),
    Permission("generate_data_key", "kms:GenerateDataKey", frozenset({_W}), bound=True),
    Permission("re_encrypt", "kms:ReEncryptFrom", frozenset({_FROM}), bound=True),
    Permission("re_encrypt", "kms:ReEncryptTo", frozenset({_TO}), bound=True),
    Permission("describe_key", "kms:DescribeKey", frozenset({_W, _TO, _L, _R, _S})),
    # Who opens a wrap asks whether its key material is older than the primary's.
    Permission("list_key_rotations", "kms:ListKeyRotations", frozenset({_O, _W, _TO, _R})),
    Permission("get_key_rotation_status", "kms:GetKeyRotationStatus", frozenset({_R})),
    Permission("rotate_key_on_demand", "kms:RotateKeyOnDemand", frozenset({_R})),
    Permission("disable_key", "kms:DisableKey", frozenset({_S})),
    Permission("enable_key", "kms:EnableKey", frozenset({_S})),
)
"""The methods of boto3's KMS client. What is `bound` has the condition key
`kms:EncryptionContextKeys` (developer guide, "AWS KMS condition keys"); DescribeKey and those that
look at or change a key have none."""

S3_OBJECTS: Mapping[StorePower, tuple[str, ...]] = {
    StorePower.READ: ("s3:GetObject",),
    StorePower.WRITE: ("s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"),
    StorePower.PUBLISH: ("s3:GetObject", "s3:PutObject"),
    StorePower.REMOVE: ("s3:DeleteObject",),
    StorePower.LOOK_BACK: ("s3:GetObjectVersion",),
}
"""On the objects. A conditional PutObject needs s3:GetObject too (user guide, "How to prevent
object overwrites with conditional writes"), and so does a conditional DeleteObject ("How to perform
conditional deletes"): who removes reads as well."""

S3_BUCKET: Mapping[StorePower, tuple[str, ...]] = {
    StorePower.READ: ("s3:ListBucket",),
    StorePower.LOOK_BACK: ("s3:GetBucketVersioning", "s3:ListBucketVersions"),
}
"""On the bucket. Without it an absent object is answered as forbidden."""
