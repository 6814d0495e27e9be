"""One on-demand rotation of a KMS key, from the request to the new key material.

RotateKeyOnDemand only begins a rotation, and KMS allows 25 in a key's lifetime
(https://docs.aws.amazon.com/kms/latest/developerguide/rotating-keys-on-demand.html), so it is
sent once at most, and not at all where a rotation is in progress.
"""

from collections.abc import Callable
from dataclasses import dataclass

import tenacity

from keywrap.kms import ThrottledError, UnavailableError
from keywrap.providers.aws_connection import AwsConnection
from keywrap.providers.aws_errors import RotationInProgressError
from keywrap.providers.telling import Telling

SEEN_WITHIN_S = 60.0
FIRST_LOOK_S = 0.25
MOST_BETWEEN_LOOKS_S = 5.0


@dataclass(frozen=True, slots=True)
class Rotation(Telling):
    """A rotation of one key.

    Attributes:
        connection: the road to the key.
        key: its URI.
        arn: its ARN.
        current: asks for the current key material id.
    """

    connection: AwsConnection
    key: str
    arn: str
    current: Callable[[], str]

    def run(self) -> str:
        """Rotate, or wait for the rotation that is in progress; return the new material's id.

        Raises:
            KmsError: see `AwsKeyProvider.create_version`.
        """
        before = self.current()
        if not self._is_in_progress():
            # One that ended between these two questions is the rotation that was wanted.
            if (now := self.current()) != before:
                return now
            self._begin()
        return self._wait(before)

    def _is_in_progress(self) -> bool:
        status = self.connection.send("get_key_rotation_status", {"KeyId": self.arn})
        return "OnDemandRotationStartDate" in status

    def _begin(self) -> None:
        try:
            self.connection.send("rotate_key_on_demand", {"KeyId": self.arn}, again=False)
        except RotationInProgressError:
            pass  # another began between our question and now
        except UnavailableError:
            # Without an answer it may have begun all the same. Never send it twice: look.
            pass

    def _wait(self, before: str) -> str:
        looking = tenacity.Retrying(
            retry=tenacity.retry_if_result(lambda material: material == before)
            | tenacity.retry_if_exception_type((UnavailableError, ThrottledError)),
            stop=tenacity.stop_after_delay(SEEN_WITHIN_S),
            wait=tenacity.wait_exponential(multiplier=FIRST_LOOK_S, max=MOST_BETWEEN_LOOKS_S),
        )
        try:
            return looking(self.current)
        except tenacity.RetryError:
            pass
        raise self.unavailable(
            "no new key material is seen yet; the rotation may still come", "rotation_not_seen"
        )
