"""Azurite, Microsoft's emulator of Azure Blob Storage, from npm: for tests and one-node trials.

It runs on Node.js, which no wheel brings: where there is none, there is no Azurite. It keeps
everything in memory, so no real data belongs here.
"""

import base64
import re
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Self

import requests

from embedded.errors import EmbeddedError
from embedded.launching import Program
from embedded.places import free_port, make_private, user_cache, write_private
from embedded.server import Server

VERSION = "3.37.0"
"""The newest of November 2026."""

START_S = 60.0
"""Seconds for a start."""

INSTALL_S = 150.0
"""Seconds for a download of some 370 small packages."""

ACCOUNT = "rewrap"
"""The only account; its key is made at every start."""

_ATTEMPTS = 3  # another process may take the free port before Azurite does
_OLDEST_NODE = 20
_PROGRAM = Path("node_modules/azurite/dist/src/blob/main.js")


class Azurite(Server):
    """An Azurite in a directory; use `start`.

    The directory holds `address` and `key` (both mode 0600) while it runs and after.
    """

    _NAME = "azurite"

    @classmethod
    def start(cls, directory: Path, *, supervised: bool = False) -> Self:
        """Start Azurite, or take over one that a crashed process of ours left in the directory.

        Args:
            directory: where its address, key and log lie; made (mode 0700) if need be.
            supervised: it ends when the calling thread does, even by SIGKILL (Linux only).

        Returns:
            The server, answering.

        Raises:
            EmbeddedError: there is no Node.js or no Azurite for it, or it did not start.
        """
        node, program = _node(), installed()
        azurite = cls(make_private(directory))
        azurite._process.bring_up(
            lambda: azurite._program(node, program),
            azurite._answers,
            timeout_s=START_S,
            supervised=supervised,
            attempts=_ATTEMPTS,
        )
        return azurite

    @property
    def address(self) -> str:
        """The account's URL, such as `http://127.0.0.1:40123/rewrap`."""
        return (self._directory / "address").read_text(encoding="ascii")

    @property
    def key(self) -> str:
        """The account's key in base64, a new one with every start."""
        return (self._directory / "key").read_text(encoding="ascii")

    def _program(self, node: str, program: Path) -> Program:
        port = free_port()
        key = base64.b64encode(secrets.token_bytes(64)).decode()
        write_private(self._directory / "address", f"http://127.0.0.1:{port}/{ACCOUNT}")
        write_private(self._directory / "key", key)
        flags = ("--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence")
        quiet = ("--silent", "--disableTelemetry", "--skipApiVersionCheck")
        return Program(
            (node, str(program), *flags, *quiet),
            environment={"AZURITE_ACCOUNTS": f"{ACCOUNT}:{key}"},
        )

    def _answers(self) -> bool:
        try:
            with requests.Session() as session:
                session.trust_env = False  # no proxy between us and the loopback
                # Whatever it says to a stranger, it listens.
                return session.get(self.address, timeout=5).headers["server"].startswith("Azurite")
        except (FileNotFoundError, KeyError, requests.RequestException):
            return False


def installed() -> Path:
    """Return Azurite's program, installed by npm into the user's cache on first use.

    Raises:
        EmbeddedError: npm is not there, or could not install it.
    """
    folder = user_cache() / f"azurite-{VERSION}"
    if not (folder / _PROGRAM).is_file():
        _install(folder)
    return folder / _PROGRAM


def _install(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise EmbeddedError("There is no npm to install Azurite with. Install Node.js with npm.")
    with tempfile.TemporaryDirectory(prefix="azurite-", dir=folder.parent) as made:
        flags = ("--ignore-scripts", "--no-audit", "--no-fund", "--omit=dev", "--prefix", made)
        command = [npm, "install", *flags, f"azurite@{VERSION}"]
        try:
            done = subprocess.run(  # noqa: S603 - our own command line
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=INSTALL_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise EmbeddedError(f"npm did not install Azurite within {INSTALL_S:.0f} s.") from None
        if done.returncode or not (Path(made) / _PROGRAM).is_file():
            said = done.stderr.decode(errors="replace").strip().splitlines()[-3:]
            raise EmbeddedError("npm did not install Azurite: " + " ".join(said))
        try:
            Path(made).rename(folder)  # at once: nobody meets half of it
        except OSError:
            if not (folder / _PROGRAM).is_file():  # else another process was faster
                raise
        else:
            Path(made).mkdir()  # for TemporaryDirectory to remove


def _node() -> str:
    node = shutil.which("node")
    if node is None:
        raise EmbeddedError("There is no Node.js to run Azurite with. Install Node.js 20 or later.")
    said = subprocess.run(  # noqa: S603 - our own command line
        [node, "--version"], capture_output=True, text=True, timeout=30, check=False
    ).stdout
    found = re.match(r"v(\d+)\.", said)
    if found is None or int(found.group(1)) < _OLDEST_NODE:
        raise EmbeddedError(f"Azurite needs Node.js {_OLDEST_NODE} or later, not {said.strip()!r}.")
    return node
