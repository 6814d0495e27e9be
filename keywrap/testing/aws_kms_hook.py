"""The strict reference KMS inside a real boto3 client: no server, no port.

Signing, serialising, parsing and time limits are botocore's own; only the socket is missing.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.exceptions import ReadTimeoutError

from keywrap.testing.aws_kms import LostReplyError, StrictKms

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient  # stubs: not there at run time


def attach(client: "KMSClient", kms: StrictKms) -> None:
    """Let a client's requests be answered by a reference KMS instead of the network."""

    def send(request: Any, **_: object) -> Any:  # noqa: ANN401 - the stubs know less than it is
        target, body = request.headers["X-Amz-Target"], request.body
        try:
            status, headers, answer = kms.answer(
                target.decode() if isinstance(target, bytes) else target,
                body.encode() if isinstance(body, str) else body,
            )
        except LostReplyError:
            raise ReadTimeoutError(endpoint_url=request.url, request=request) from None
        return AWSResponse(request.url, status, HTTPHeaders.from_dict(headers), _Raw(answer))

    client.meta.events.register_last("before-send.kms", send)


class _Raw:
    """An answer's body, as urllib3 would give it."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:  # noqa: ANN401 - urllib3's signature
        yield self._body
