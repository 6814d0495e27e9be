"""One road to one key of Cloud KMS: checksums both ways, a time limit, errors of ours."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import google_crc32c
from google.cloud.kms_v1 import KeyManagementServiceClient

from keywrap.datakey import DataKey
from keywrap.providers.calls import Batch, CorruptAnswerError, Road
from keywrap.providers.gcp_errors import translate

_Result = TypeVar("_Result")

_CHECKED = ("plaintext", "ciphertext", "additional_authenticated_data")


class GcpConnection(Road[KeyManagementServiceClient]):
    """Sends requests for one key and turns each failure into one of the four kinds.

    Args:
        key: URI of the KEK, for errors.
        make_client: makes a client; called once in each process.
        timeout_s: how long an answer may take.
        threads: how many requests a batch has in flight.
        count: called before each request, by one thread at a time.
    """

    def __init__(
        self,
        key: str,
        make_client: Callable[[], KeyManagementServiceClient],
        *,
        timeout_s: float,
        threads: int,
        count: Callable[[], None],
    ) -> None:
        super().__init__(key, make_client, translate, threads=threads, name="gcp-kms", count=count)
        self._timeout_s = timeout_s

    def send(
        self,
        method: str,
        request: Mapping[str, Any],
        read: Callable[[Any], _Result],
        *,
        batch: Batch | None = None,
        again: bool = True,
    ) -> _Result:
        """Send a request and return what is read of its answer.

        Args:
            method: the client's method, such as `encrypt`.
            request: its fields; a plaintext as a `DataKey`. Checksums are added.
            read: takes the answer; returns no bytes of a data key, and raises a
                `CorruptAnswerError` where it is not to be believed, upon which it is asked again.
            batch: the call that it is a part of; None: it is one of its own.
            again: whether sending it twice does no harm, so that a hiccup is retried.

        Raises:
            KmsError: one of the four kinds.
            BatchOverError: the batch ended, and the request was not sent (again).
        """

        def ask(client: KeyManagementServiceClient) -> _Result:
            fields = {
                name: value.reveal() if isinstance(value, DataKey) else value
                for name, value in request.items()
            }
            for name in _CHECKED:
                if name in fields:
                    fields[f"{name}_crc32c"] = google_crc32c.value(fields[name])
            # Not by the client's own retries: they are unbounded in number, and know no batch.
            answer = getattr(client, method)(request=fields, retry=None, timeout=self._timeout_s)
            return read(answer)

        return self.call(method, ask, batch=batch, again=again)


def checked(answer: Any, name: str) -> bytes:  # noqa: ANN401 - any message of Cloud KMS
    """Return bytes of an answer that its checksum confirms.

    Raises:
        CorruptAnswerError: they have no checksum, or another.
    """
    data: bytes = getattr(answer, name)
    if getattr(answer, f"{name}_crc32c") != google_crc32c.value(data):
        raise CorruptAnswerError(f"has a {name} that is not the one of its checksum")
    return data
