"""What KMS answers about one key, believed only where it fits the question."""

import re
from collections.abc import Mapping
from typing import Any

from keywrap.datakey import KEY_BYTES, DataKey
from keywrap.kms import UnavailableError
from keywrap.providers.telling import Telling

Answer = Mapping[str, Any]
"""An answer as boto3 gives it."""

_MATERIAL = re.compile(r"[0-9a-f]{64}")

_NOT_ENABLED = {
    "Disabled": ("key_disabled", "the key is disabled"),
    "PendingDeletion": ("key_pending_deletion", "the key waits for its deletion"),
    "PendingReplicaDeletion": ("key_pending_deletion", "the key waits for its deletion"),
    "PendingImport": ("key_pending_import", "the key has no key material: import it"),
}


def is_material(text: object) -> bool:
    """Whether a text is a key material id: 64 hexadecimal digits."""
    return isinstance(text, str) and _MATERIAL.fullmatch(text) is not None


def hide_plaintext(answer: Answer) -> Answer:
    """Return an answer with a data key in place of its plaintext's bytes.

    Error reporters write down the local variables of each frame, an answer too. Of a plaintext
    that is no AES key its length is left.
    """
    plaintext = answer.get("Plaintext")
    if not isinstance(plaintext, bytes):
        return answer
    sound = len(plaintext) in KEY_BYTES
    return {**answer, "Plaintext": DataKey(plaintext) if sound else len(plaintext)}


class Answers(Telling):
    """Reads answers about one key; errors name it.

    Args:
        key: its URI.
        arn: its ARN.
    """

    def __init__(self, key: str, arn: str) -> None:
        self.key = key
        self._arn = arn

    def check_key(self, answer: Answer, name: str, arn: str = "") -> None:
        """See that an answer names a key: this one, or the one that is given.

        Raises:
            UnavailableError: it names another. That does not say that a wrap is wrong, only that
                this is no answer to our request.
        """
        if answer.get(name) != (arn or self._arn):
            raise self.malformed(f"names another key than {arn or self._arn}")

    def data(self, answer: Answer, name: str) -> bytes:
        """Return bytes of an answer.

        Raises:
            UnavailableError: they are missing.
        """
        value = answer.get(name)
        if not isinstance(value, bytes) or not value:
            raise self.malformed(f"has no {name}")
        return value

    def plaintext(self, answer: Answer) -> DataKey | int:
        """Return the data key of an answer, or the length of what is none.

        Raises:
            UnavailableError: there is none.
        """
        value = answer.get("Plaintext")
        if not isinstance(value, DataKey | int) or value == 0:
            raise self.malformed("has no Plaintext")
        return value

    def material(self, answer: Answer, name: str) -> str:
        """Return a key material id of an answer.

        Raises:
            UnavailableError: it is missing or is none.
        """
        value = answer.get(name)
        if not isinstance(value, str) or not is_material(value):
            raise self.malformed(f"names no key material in {name}")
        return value

    def current_material(self, answer: Answer) -> str:
        """Return the current key material id of an answer of DescribeKey.

        Raises:
            DeniedError: the key's state or kind does not let it wrap.
            UnavailableError: the key is not ready, or the answer is not about it.
        """
        key = answer.get("KeyMetadata") or {}
        self.check_key(key, "Arn")
        state = str(key.get("KeyState", ""))
        if known := _NOT_ENABLED.get(state):
            raise self.denied(known[1], known[0])
        if state != "Enabled":
            raise self.unavailable(f"the key is not ready: {state[:40]!a}", "key_not_ready")
        if (key.get("KeySpec"), key.get("KeyUsage")) != ("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT"):
            raise self.denied(
                "the key is not a symmetric one for encrypting and decrypting",
                "key_not_symmetric",
            )
        if "CurrentKeyMaterialId" not in key:
            raise self.denied(
                "KMS names no key material of this key, so no wrap could say what it was made "
                "under; keys of origin AWS_KMS and EXTERNAL have it",
                "key_without_material_id",
            )
        return self.material(key, "CurrentKeyMaterialId")

    def malformed(self, what: str) -> UnavailableError:
        """Return the error for an answer that is none."""
        return self.unavailable(f"the answer {what}", "answer_malformed")
