"""Names of keys in Google Cloud KMS; needs no client library.

Format: https://cloud.google.com/kms/docs/resource-hierarchy.
"""

import re

SCHEME = "gcp-kms://"

_KEY = re.compile(
    r"projects/[a-z0-9.:-]{2,80}/locations/[a-z0-9-]{2,40}"
    r"/keyRings/[A-Za-z0-9_-]{1,63}/cryptoKeys/[A-Za-z0-9_-]{1,63}"
)
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


def check_key_name(name: str) -> str:
    """Return a name if it is a CryptoKey's.

    Raises:
        ValueError: it is not; a version's is not either, since a KEK is named without it.
    """
    if not _KEY.fullmatch(name):
        raise ValueError(
            "a key of Cloud KMS is named "
            "projects/<project>/locations/<location>/keyRings/<ring>/cryptoKeys/<key>"
        )
    return name


def is_version(text: str) -> bool:
    """Whether a text is the number of a CryptoKeyVersion, in the one way to write it."""
    return _VERSION.fullmatch(text) is not None


def version_name(key: str, version: str) -> str:
    """Return the name of a CryptoKeyVersion."""
    return f"{key}/cryptoKeyVersions/{version}"


def version_of(key: str, name: object) -> str:
    """Return the number in the name of a version of a key; empty where it is none."""
    start = version_name(key, "")
    if not isinstance(name, str) or not name.startswith(start):
        return ""
    number = name.removeprefix(start)
    return number if is_version(number) else ""
