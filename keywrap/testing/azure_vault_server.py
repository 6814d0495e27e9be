"""The strict reference of Key Vault behind HTTP on 127.0.0.1, as a process of its own.

`python -m keywrap.testing.azure_vault_server --host my-vault.vault.azure.net --key blob-kek` prints
`READY http://127.0.0.1:PORT` once it listens; that is the `endpoint` of the key's table. A key of
a Managed HSM's host is an AES key if it is named `--aes-key`. `POST /_control` takes a JSON object:
`latency_ms` by operation, `quota` in requests a second, `fail` (`status`, `code`, `retry_after`,
`times`, `operation`), `lose_replies`, `create_keys`, `rotate` and `clear`; it returns what was
counted, as `unwrapkey 200`.

It holds no secret of anybody else's and keeps nothing: no real data belongs here.
"""

import argparse
import asyncio
import json
from collections import Counter
from collections.abc import Awaitable
from http import HTTPStatus
from typing import Any

import uvloop

from keywrap.testing.azure_vault import LostReplyError, StrictVault, VaultError
from keywrap.testing.http_wire import CLOSED, Request, Response, serve
from keywrap.testing.server_process import post_wishes

_CONTROL = "/_control"
_JSON = {"content-type": "application/json"}


class VaultService:
    """A vault and its control behind one address.

    Args:
        vault: answers what is not control.
    """

    def __init__(self, vault: StrictVault) -> None:
        self._vault = vault

    def answer(self, request: Request) -> Response | Awaitable[Response]:
        """Answer a request, after the latency of its kind."""
        target = request.target.decode("latin-1")
        if target == _CONTROL:
            return self._control(request.body)
        operation = self._vault.operation_of(request.method, target)
        latency_s = self._vault.faults.latency_s(operation)
        return self._later(latency_s, request, target) if latency_s else self._now(request, target)

    async def _later(self, seconds: float, request: Request, target: str) -> Response:
        await asyncio.sleep(seconds)
        return self._now(request, target)

    def _now(self, request: Request, target: str) -> Response:
        if request.headers.get("host") != self._vault.host:
            return HTTPStatus.MISDIRECTED_REQUEST, _JSON, b"{}"
        try:
            return self._vault.answer(request.method, target, request.headers, request.body)
        except LostReplyError:
            return CLOSED

    def _control(self, wishes: bytes) -> Response:
        try:
            self._set(**json.loads(wishes))
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            return HTTPStatus.BAD_REQUEST, _JSON, json.dumps({"error": str(error)}).encode()
        counted = Counter(f"{event.operation} {event.status:d}" for event in self._vault.trail)
        return HTTPStatus.OK, _JSON, json.dumps(counted).encode()

    def _set(
        self,
        *,
        fail: dict[str, Any] | None = None,
        create_keys: tuple[str, ...] = (),
        rotate: str = "",
        **faults: Any,  # noqa: ANN401 - as `ServiceFaults.set` takes them
    ) -> None:
        self._vault.faults.set(**faults)
        if fail:
            planned = {name: fail.pop(name) for name in ("times", "operation") if name in fail}
            self._vault.faults.fail_next(VaultError(**fail), **planned)
        for name in create_keys:
            self._vault.create_key(name)
        if rotate:
            self._vault.rotate(rotate)


def control(address: str, **wishes: object) -> dict[str, int]:
    """Set faults, latency or quota of a server, and return what was counted."""
    counted: dict[str, int] = post_wishes(address + _CONTROL, wishes)
    return counted


def main(arguments: list[str] | None = None) -> None:
    """Run the server by its command line."""
    parser = argparse.ArgumentParser(prog="azure_vault_server", description="a vault from memory")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--host", default="my-vault.vault.azure.net")
    parser.add_argument("--key", action="append", default=[])
    parser.add_argument("--aes-key", action="append", default=[])
    chosen = parser.parse_args(arguments)
    vault = StrictVault(chosen.host)
    for name in chosen.key:
        vault.create_key(name)
    for name in chosen.aes_key:
        vault.create_key(name, "oct-HSM")
    uvloop.run(serve(VaultService(vault).answer, chosen.port))


if __name__ == "__main__":
    main()
