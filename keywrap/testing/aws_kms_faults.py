"""What can go wrong at the strict reference KMS, asked for by a test."""

from collections.abc import Mapping
from enum import StrEnum

CRYPTOGRAPHIC = frozenset(
    {
        "Decrypt",
        "Encrypt",
        "GenerateDataKey",
        "GenerateDataKeyWithoutPlaintext",
        "ReEncrypt",
    }
)
"""The operations that share one request quota (KMS developer guide, "Request quotas")."""


class Corruption(StrEnum):
    """An answer that a broken service, or one that is not ours, may give."""

    ANOTHER_PLAINTEXT = "another plaintext"  # the answer's plaintext is another data key
    ANOTHER_DATA_KEY = "another data key"  # a sound wrap, but of another data key
    ALTERED_CIPHERTEXT = "altered ciphertext"  # one bit of the wrap is wrong
    WRONG_MATERIAL = "wrong material"  # a key material id that the key never had
    WRONG_KEY = "wrong key"  # the ARN of another key
    STALE_MATERIAL = "stale material"  # a rotation that is not seen everywhere yet


AFFECTS: Mapping[Corruption, frozenset[str]] = {
    Corruption.ANOTHER_PLAINTEXT: frozenset({"Decrypt", "GenerateDataKey"}),
    Corruption.ANOTHER_DATA_KEY: CRYPTOGRAPHIC - {"Decrypt"},
    Corruption.ALTERED_CIPHERTEXT: CRYPTOGRAPHIC - {"Decrypt"},
    Corruption.WRONG_MATERIAL: CRYPTOGRAPHIC - {"Encrypt"} | {"DescribeKey"},
    Corruption.WRONG_KEY: CRYPTOGRAPHIC | {"DescribeKey"},
    Corruption.STALE_MATERIAL: CRYPTOGRAPHIC - {"Decrypt"} | {"DescribeKey"},
}
"""The operations whose answers each can concern."""

MESSAGES: Mapping[str, str] = {
    "ThrottlingException": "You have exceeded the rate at which you may call KMS. "
    "Reduce the frequency of your calls.",
}
"""What the service says beside the name of an error."""
