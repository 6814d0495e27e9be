"""The versions of one key of Cloud KMS: which is primary, a new one, one out of use and back.

Creating a version and making it the primary are two requests. What is not known of the first, for
want of an answer, is looked up; the second may be sent twice.
https://cloud.google.com/kms/docs/key-states, https://cloud.google.com/kms/docs/consistency.
"""

from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

import tenacity
from google.cloud.kms_v1 import CryptoKey, CryptoKeyVersion

from keywrap.kms import ThrottledError, UnavailableError
from keywrap.providers.calls import CorruptAnswerError
from keywrap.providers.gcp_connection import GcpConnection
from keywrap.providers.gcp_names import is_version, version_name, version_of
from keywrap.providers.telling import Telling

TAKEN_UP_WITHIN = timedelta(minutes=30)
"""A version that is younger and was never made primary is what a run that was cut off left: it is
taken up, and no second is made. An older one is somebody's own business."""

ENABLED_WITHIN_S = 60.0
FIRST_LOOK_S = 0.25
MOST_BETWEEN_LOOKS_S = 5.0

_State: TypeAlias = CryptoKeyVersion.CryptoKeyVersionState
_COMING = frozenset({_State.ENABLED, _State.PENDING_GENERATION})
_OUT_OF_USE = frozenset({_State.DISABLED, _State.DESTROY_SCHEDULED, _State.DESTROYED})


class GcpVersions(Telling):
    """The versions of one key.

    Args:
        connection: the road to the key.
        key: its URI.
        name: its resource name.
    """

    def __init__(self, connection: GcpConnection, key: str, name: str) -> None:
        self._connection = connection
        self.key = key
        self._name = name

    def primary(self) -> str:
        """Return the number of the primary version.

        Raises:
            DeniedError: there is none, it is not enabled, or the key is of another kind.
            KmsError: it cannot be asked.
        """
        return self._connection.send("get_crypto_key", {"name": self._name}, self._primary_of)

    def create(self) -> str:
        """Give the key a new primary version, and return its number.

        Raises:
            DeniedError: see `GcpKeyProvider.create_version`.
            UnavailableError: no answer, or the version is not in use yet; the next call goes on
                with it.
        """
        primary = self.primary()
        before = self._newest()
        number = self._left_over(before, primary) or self._make(before)
        self._wait_until_enabled(number)
        return self._promote(number)

    def switch(self, number: str, *, enabled: bool) -> None:
        """Enable or disable a version; already done is done.

        Raises:
            DeniedError: there is no such version, it is the primary one that is to be disabled,
                or one that is to be destroyed that is to be enabled.
            KmsError: it cannot be asked.
        """
        if not is_version(number):
            raise self.denied("the key has no such version", "version_not_found")
        if not enabled and number == self.primary():
            raise self.denied(
                f"version {number} is the primary one: new wraps need it", "version_is_current"
            )
        state = self._read(number).state
        if enabled and state in {_State.DESTROY_SCHEDULED, _State.DESTROYED}:
            raise self.denied(
                f"version {number} is {state.name}; one that is scheduled can be restored: "
                f"gcloud kms keys versions restore {number}",
                "version_destroyed",
            )
        if state == _State.ENABLED if enabled else state in _OUT_OF_USE:
            return
        wanted = _State.ENABLED if enabled else _State.DISABLED
        self._connection.send(
            "update_crypto_key_version",
            {
                "crypto_key_version": {
                    "name": version_name(self._name, number),
                    "state": wanted,
                },
                "update_mask": {"paths": ["state"]},
            },
            lambda answer: self._require(answer, number, wanted),
        )

    def _left_over(self, newest: CryptoKeyVersion, primary: str) -> str:
        """Return the version that a run which was cut off left; empty where there is none."""
        number = version_of(self._name, newest.name)
        if int(number) <= int(primary) or newest.state not in _COMING:
            return ""
        age = datetime.now(UTC) - newest.create_time
        return number if age < TAKEN_UP_WITHIN else ""

    def _make(self, newest: CryptoKeyVersion) -> str:
        try:
            return self._connection.send(
                "create_crypto_key_version",
                {"parent": self._name, "crypto_key_version": {}},
                self._number,
                again=False,
            )
        except UnavailableError:
            pass  # it may be there all the same. Never ask twice: look
        number = version_of(self._name, self._newest().name)
        if int(number) > int(version_of(self._name, newest.name)):
            return number
        raise self.unavailable(
            "a new version was asked for, and none is seen yet", "rotation_not_seen"
        )

    def _wait_until_enabled(self, number: str) -> None:
        """Wait until a version is enabled: an HSM's takes a while to be generated."""
        looking = tenacity.Retrying(
            retry=tenacity.retry_if_result(lambda state: state == _State.PENDING_GENERATION)
            | tenacity.retry_if_exception_type((UnavailableError, ThrottledError)),
            stop=tenacity.stop_after_delay(ENABLED_WITHIN_S),
            wait=tenacity.wait_exponential(multiplier=FIRST_LOOK_S, max=MOST_BETWEEN_LOOKS_S),
        )
        state = None
        with suppress(tenacity.RetryError):
            state = looking(lambda: self._read(number).state)
        if state is None:
            raise self.unavailable(
                f"version {number} is being made; the primary is as it was", "rotation_not_seen"
            )
        if state != _State.ENABLED:
            raise self.denied(
                f"version {number} is {state.name}, so it was not made primary",
                "version_not_enabled",
            )

    def _promote(self, number: str) -> str:
        def read(answer: CryptoKey) -> str:
            if self._primary_of(answer) != number:
                raise CorruptAnswerError(f"has another primary version than {number}")
            return number

        return self._connection.send(
            "update_crypto_key_primary_version",
            {"name": self._name, "crypto_key_version_id": number},
            read,
        )

    def _newest(self) -> CryptoKeyVersion:
        def read(pages: Iterable[CryptoKeyVersion]) -> CryptoKeyVersion:
            versions = [each for each in pages if version_of(self._name, each.name)]
            if not versions:
                raise CorruptAnswerError("has no version of the key")
            return max(versions, key=lambda each: int(version_of(self._name, each.name)))

        return self._connection.send(
            "list_crypto_key_versions", {"parent": self._name, "page_size": 1000}, read
        )

    def _read(self, number: str) -> CryptoKeyVersion:
        def read(answer: CryptoKeyVersion) -> CryptoKeyVersion:
            if self._number(answer) != number:
                raise CorruptAnswerError("names another version")
            return answer

        name = version_name(self._name, number)
        return self._connection.send("get_crypto_key_version", {"name": name}, read)

    def _require(self, answer: CryptoKeyVersion, number: str, wanted: int) -> None:
        if self._number(answer) != number or answer.state != wanted:
            raise CorruptAnswerError(f"does not say that version {number} is {_State(wanted).name}")

    def _number(self, answer: CryptoKeyVersion) -> str:
        number = version_of(self._name, answer.name)
        if not number:
            raise CorruptAnswerError("names no version of the key")
        return number

    def _primary_of(self, answer: CryptoKey) -> str:
        """Read which version is primary, and that the key is one that wraps."""
        if answer.name != self._name:
            raise CorruptAnswerError("is about another key")
        if answer.purpose != CryptoKey.CryptoKeyPurpose.ENCRYPT_DECRYPT:
            raise self.denied(
                "the key is not a symmetric one for encrypting and decrypting", "key_purpose"
            )
        if "primary" not in answer:
            raise self.denied(
                "the key has no primary version: gcloud kms keys set-primary-version",
                "key_without_primary",
            )
        if answer.primary.state != _State.ENABLED:
            raise self.denied(
                f"the key's primary version is {answer.primary.state.name}", "version_not_enabled"
            )
        return self._number(answer.primary)
