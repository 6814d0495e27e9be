"""One road to one KMS key, by the methods of a boto3 client."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from keywrap.datakey import DataKey
from keywrap.providers.aws_answers import Answer, hide_plaintext
from keywrap.providers.aws_errors import translate
from keywrap.providers.calls import Batch, Road

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient  # stubs: not there at run time


class AwsConnection(Road["KMSClient"]):
    """Sends requests for one key and turns each failure into one of the four kinds.

    Args:
        key: URI of the KEK, for errors.
        make_client: makes a KMS client of the key's Region; called once in each process.
        threads: how many requests a batch has in flight.
        count: called before each request, by one thread at a time.
    """

    def __init__(
        self,
        key: str,
        make_client: "Callable[[], KMSClient]",
        threads: int,
        count: Callable[[], None],
    ) -> None:
        super().__init__(key, make_client, translate, threads=threads, name="aws-kms", count=count)

    def send(
        self,
        method: str,
        parameters: Mapping[str, Any],
        *,
        batch: Batch | None = None,
        again: bool = True,
    ) -> Answer:
        """Send a request and return its answer.

        Args:
            method: the client's method, such as `re_encrypt`.
            parameters: what to send; a plaintext as a `DataKey`.
            batch: the call that it is a part of; None: it is one of its own.
            again: whether sending it twice does no harm, so that a hiccup is retried.

        Returns:
            The answer, its plaintext hidden: see `hide_plaintext`.

        Raises:
            KmsError: one of the four kinds.
            BatchOverError: the batch ended, and the request was not sent (again).
            DryRunPassedError, RotationInProgressError: KMS says so.
        """
        return self.call(
            method, lambda client: _ask(client, method, parameters), batch=batch, again=again
        )


def _ask(client: "KMSClient", method: str, parameters: Mapping[str, Any]) -> Answer:
    """Send a request; the only frame of ours that ever holds the bytes of a data key."""
    return hide_plaintext(
        getattr(client, method)(
            **{
                name: value.reveal() if isinstance(value, DataKey) else value
                for name, value in parameters.items()
            }
        )
    )
