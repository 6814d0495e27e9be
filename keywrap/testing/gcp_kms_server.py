"""The strict reference of Cloud KMS behind gRPC on 127.0.0.1, in this process or one of its own.

`python -m keywrap.testing.gcp_kms_server --key projects/…/cryptoKeys/…` prints
`READY http://127.0.0.1:PORT` once it listens; that is the `endpoint` of the key's table. The
method `/rewrap.testing.Control/Set` takes a JSON object: `latency_ms` by operation, `quota` in
requests a second, `fail` (a gRPC code's `code`, `times`, `operation`), `lose_replies`,
`create_keys`, `rotate` and `clear`; it returns what was counted.

It holds no secret of anybody else's and keeps nothing: no real data belongs here.
"""

import argparse
import json
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.cloud import kms_v1

from keywrap.testing.gcp_kms import CloudKmsError, StrictCloudKms

_SERVICE = "google.cloud.kms.v1.KeyManagementService"
_CONTROL = "rewrap.testing.Control"
_THREADS = 32
_GRACE_S = 1.0

_MESSAGES: Mapping[str, tuple[Any, Any]] = {
    "Encrypt": (kms_v1.EncryptRequest, kms_v1.EncryptResponse),
    "Decrypt": (kms_v1.DecryptRequest, kms_v1.DecryptResponse),
    "GetCryptoKey": (kms_v1.GetCryptoKeyRequest, kms_v1.CryptoKey),
    "GetCryptoKeyVersion": (kms_v1.GetCryptoKeyVersionRequest, kms_v1.CryptoKeyVersion),
    "ListCryptoKeyVersions": (
        kms_v1.ListCryptoKeyVersionsRequest,
        kms_v1.ListCryptoKeyVersionsResponse,
    ),
    "CreateCryptoKeyVersion": (kms_v1.CreateCryptoKeyVersionRequest, kms_v1.CryptoKeyVersion),
    "UpdateCryptoKeyPrimaryVersion": (
        kms_v1.UpdateCryptoKeyPrimaryVersionRequest,
        kms_v1.CryptoKey,
    ),
    "UpdateCryptoKeyVersion": (kms_v1.UpdateCryptoKeyVersionRequest, kms_v1.CryptoKeyVersion),
}


class GcpKmsServer:
    """A gRPC server in this process.

    Args:
        kms: answers.
        port: of 127.0.0.1; 0 for a free one.

    Attributes:
        address: its URL.
    """

    def __init__(self, kms: StrictCloudKms, port: int = 0) -> None:
        self._kms = kms
        self._server = grpc.server(ThreadPoolExecutor(_THREADS, thread_name_prefix="cloud-kms"))
        handlers = {
            operation: grpc.unary_unary_rpc_method_handler(
                self._answering(operation),
                request_deserializer=request.deserialize,
                response_serializer=answer.serialize,
            )
            for operation, (request, answer) in _MESSAGES.items()
        }
        control: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "Set": grpc.unary_unary_rpc_method_handler(self._control)
        }
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(_SERVICE, handlers),
                grpc.method_handlers_generic_handler(_CONTROL, control),
            )
        )
        bound = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.address = f"http://127.0.0.1:{bound}"
        self._server.start()

    def stop(self) -> None:
        """Stop it, once the requests that are being answered are."""
        self._server.stop(_GRACE_S).wait()

    def _answering(self, operation: str) -> Callable[[Any, grpc.ServicerContext], Any]:
        def answer(request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ANN401 - messages
            try:
                return self._kms.answer(operation, request)
            except CloudKmsError as error:
                context.abort(error.code, str(error))

        return answer

    def _control(self, wishes: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            self._set(**json.loads(wishes))
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        counted = Counter(f"{event.operation} {event.error}".rstrip() for event in self._kms.trail)
        return json.dumps(counted).encode()

    def _set(
        self,
        *,
        fail: dict[str, Any] | None = None,
        create_keys: tuple[str, ...] = (),
        rotate: str = "",
        **faults: Any,  # noqa: ANN401 - as `ServiceFaults.set` takes them
    ) -> None:
        self._kms.faults.set(**faults)
        if fail:
            self._kms.faults.fail_next(CloudKmsError(grpc.StatusCode[fail.pop("code")]), **fail)
        for name in create_keys:
            self._kms.create_key(name)
        if rotate:
            self._kms.rotate(rotate)


def control(address: str, **wishes: object) -> dict[str, int]:
    """Set faults, latency or quota of a server, and return what was counted.

    Returns:
        How many requests there were of each kind, such as `Decrypt` or `Decrypt NOT_FOUND`.
    """
    with grpc.insecure_channel(address.removeprefix("http://")) as channel:
        ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{_CONTROL}/Set")
        counted: dict[str, int] = json.loads(ask(json.dumps(wishes).encode(), timeout=10))
        return counted


def main(arguments: list[str] | None = None) -> None:
    """Run the server by its command line, until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="gcp_kms_server", description="Cloud KMS from memory")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--key", action="append", default=[])
    chosen = parser.parse_args(arguments)
    kms = StrictCloudKms()
    for name in chosen.key:
        kms.create_key(name)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    server = GcpKmsServer(kms, chosen.port)
    sys.stdout.write(f"READY {server.address}\n")
    sys.stdout.flush()
    stopped.wait()
    server.stop()


if __name__ == "__main__":
    main()
