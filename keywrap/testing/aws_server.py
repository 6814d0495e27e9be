"""S3 and KMS from memory, as one process on 127.0.0.1: for tests, the demo and benchmarks.

`python -m keywrap.testing.aws_server --port 0 --bucket blobs` prints `READY http://127.0.0.1:PORT`
once it listens. S3 is asked path-style (`/bucket/key`), KMS by `X-Amz-Target: TrentService.…`.
`POST /_control` with a JSON object sets faults (those of `keywrap.testing.s3.Faults`), `latency_ms`
by operation, `kms_quota` (requests a second), `kms_fail` (an error's `code`, and what else
`ServiceFaults.fail_next` takes) and `kms_lose_replies`. `snapshot` keeps the objects of all buckets
as they are, and `restore` puts those named back, and no others outside `.rewrap/`. `GET /_control`
returns what was counted.

It holds no secret of anybody else's and keeps nothing: no real data belongs here.
"""

import argparse
import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Self

import uvloop

from keywrap.testing.aws_kms import LostReplyError, StrictKms
from keywrap.testing.http_wire import CLOSED, Request, Response, serve
from keywrap.testing.s3 import MemoryS3
from keywrap.testing.server_process import ServerProcess, post_wishes

_CONTROL = b"/_control"
_JSON = {"content-type": "application/json"}
_OPERATIONS = ("get", "put", "kms")


class AwsService:
    """S3, KMS and the control of both behind one address.

    Args:
        s3: answers what is not for KMS.
        kms: answers KMS.

    Attributes:
        latency_ms: of `get`, `put` and `kms` requests, in milliseconds.
    """

    def __init__(self, s3: MemoryS3, kms: StrictKms) -> None:
        self.s3 = s3
        self.kms = kms
        self.latency_ms = dict.fromkeys(_OPERATIONS, 0.0)

    def answer(self, request: Request) -> Response | Awaitable[Response]:
        """Answer a request, after the latency of its kind."""
        if request.target == _CONTROL:
            return self._control(request)
        target = request.headers.get("x-amz-target", "")
        latency = self.latency_ms[_kind(request, target)]
        if latency:
            return self._later(latency / 1000, request, target)
        return self._now(request, target)

    async def _later(self, seconds: float, request: Request, target: str) -> Response:
        await asyncio.sleep(seconds)
        return self._now(request, target)

    def _now(self, request: Request, target: str) -> Response:
        if target:
            return self._ask_kms(target, request.body)
        path, _, query = request.target.decode("latin-1").partition("?")
        return self.s3.handle(request.method, path, query, request.headers, request.body)

    def _ask_kms(self, target: str, body: bytes) -> Response:
        try:
            return self.kms.answer(target, body)
        except LostReplyError:
            return CLOSED

    def _control(self, request: Request) -> Response:
        if request.method == "POST":
            try:
                self._set(json.loads(request.body))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                return HTTPStatus.BAD_REQUEST, _JSON, json.dumps({"error": str(error)}).encode()
        return HTTPStatus.OK, _JSON, json.dumps(self._counters()).encode()

    def _set(self, wishes: dict[str, Any]) -> None:
        latency = wishes.pop("latency_ms", {})
        if unknown := latency.keys() - self.latency_ms.keys():
            raise ValueError(f"no such operation: {', '.join(sorted(unknown))}")
        if "kms_quota" in wishes:
            self.kms.faults.limit_rate(float(wishes.pop("kms_quota")))
        if "kms_fail" in wishes:
            failing = wishes.pop("kms_fail")
            self.kms.faults.fail_next(failing.pop("code"), **failing)
        if "kms_lose_replies" in wishes:
            self.kms.faults.lose_next_reply(times=wishes.pop("kms_lose_replies"))
        if wishes.pop("snapshot", False):
            self.s3.snapshot()
        if "restore" in wishes:
            self.s3.restore(wishes.pop("restore"))
        for bucket in wishes.pop("delete_buckets", []):
            self.s3.delete_bucket(bucket)
        for bucket in wishes.pop("create_buckets", []):
            self.s3.create_bucket(bucket)
        self.s3.break_down(**wishes)
        self.latency_ms.update({name: float(value) for name, value in latency.items()})

    def _counters(self) -> dict[str, Any]:
        return {
            "operations": dict(self.s3.operations),
            "writes": self.s3.writes,
            "kms": self._trail(),
        }

    def _trail(self) -> dict[str, int]:
        """Count requests as `Decrypt`, `Decrypt DisabledException` or `Decrypt, no context`."""
        counted: Counter[str] = Counter()
        for event in self.kms.trail:
            counted[f"{event.name} {event.error}".rstrip()] += 1
            if any(not context for context in event.contexts):
                counted[f"{event.name}, no context"] += 1
        return dict(counted)


def _kind(request: Request, target: str) -> str:
    if target:
        return "kms"
    return "get" if request.method in {"GET", "HEAD"} else "put"


class AwsServer(ServerProcess):
    """The server as a process of its own; also a context manager that stops it."""

    @classmethod
    def start(
        cls,
        bucket: str = "",
        *,
        preexec_fn: Callable[[], None] | None = None,
        **options: float,
    ) -> Self:
        """Start it on a free port.

        Args:
            bucket: a bucket to begin with; empty for none.
            preexec_fn: see `ServerProcess.launch`.
            options: those of the command line, such as `latency_get_ms=15`.

        Raises:
            RuntimeError: it did not start.
        """
        arguments = ["--bucket", bucket] if bucket else []
        for name, value in options.items():
            arguments += [f"--{name.replace('_', '-')}", str(value)]
        return cls.launch(__spec__.name, *arguments, preexec_fn=preexec_fn)

    def control(self, **wishes: object) -> dict[str, Any]:
        """Set faults, latency or quota, and return what was counted."""
        counters: dict[str, Any] = post_wishes(self.address + _CONTROL.decode(), wishes)
        return counters


def main(arguments: list[str] | None = None) -> None:
    """Run the server by its command line."""
    parser = argparse.ArgumentParser(prog="aws_server", description="S3 and KMS from memory")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--bucket", action="append", default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kms-quota", type=float, default=0.0, metavar="PER_S")
    for operation in _OPERATIONS:
        parser.add_argument(f"--latency-{operation}-ms", type=float, default=0.0)
    chosen: Mapping[str, Any] = vars(parser.parse_args(arguments))
    service = AwsService(MemoryS3(*chosen["bucket"], seed=chosen["seed"]), StrictKms())
    service.kms.faults.limit_rate(chosen["kms_quota"])
    service.latency_ms = {name: chosen[f"latency_{name}_ms"] for name in _OPERATIONS}
    uvloop.run(serve(service.answer, chosen["port"]))


if __name__ == "__main__":
    main()
