"""How a KMS key is named: by its key ARN. Needs no boto3, so that a configuration can be read."""

import re

SCHEME = "aws-kms://"
"""What precedes the ARN in the key's URI, as in Tink."""

# https://docs.aws.amazon.com/kms/latest/developerguide/concepts.html#key-id-key-ARN
_KEY_ARN = re.compile(
    r"arn:(?:aws|aws-[a-z-]{1,16}):kms:([a-z]{2}[a-z0-9-]{3,30}):[0-9]{12}:"
    r"key/(?:mrk-[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
)
_ALIAS = re.compile(r"(?:arn:aws[a-z-]*:kms:[a-z0-9-]*:[0-9]*:)?alias/.*")


def region_of(arn: str) -> str:
    """Return the Region of a key ARN.

    Raises:
        ValueError: it is no key ARN.
    """
    if match := _KEY_ARN.fullmatch(arn):
        return match[1]
    if _ALIAS.fullmatch(arn):
        raise ValueError(
            "an alias can be pointed at another key at any time, which would leave wraps behind "
            "that it no longer opens; name the key by its key ARN"
        )
    raise ValueError("a KMS key is named by its key ARN: arn:aws:kms:REGION:ACCOUNT:key/ID")
