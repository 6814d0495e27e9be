"""SoftHSM2, a PKCS#11 token in software: the HSM for tests, as a real one would be used.

It is no server but a library that each process loads. Where it is not installed, Debian's
packages are fetched and unpacked into a cache of the user's, without root. Its tokens are files,
protected by a PIN only: no real data belongs here.
"""

import os
import secrets
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from embedded.errors import EmbeddedError
from embedded.places import make_private, user_cache, write_private

PACKAGES = ("softhsm2", "libsofthsm2")
"""Debian's; what they need besides (OpenSSL 3, libstdc++) is on every Debian that has Python."""

FETCH_S = 120.0
"""Seconds for a download of half a megabyte, and of Debian's package lists where there are none."""

_UTIL = "softhsm2-util"
_LIBRARY = "libsofthsm2.so"
_PLACES = ("lib/softhsm", "lib/*/softhsm", "lib64/softhsm", "lib64/pkcs11")
_PREFIXES = ("/usr", "/usr/local", "/opt/homebrew")


@dataclass(frozen=True, slots=True)
class SoftHsm:
    """SoftHSM2 with tokens in a folder of its own; use `install` and `create_token`.

    Attributes:
        module: the PKCS#11 library.
        util: the program `softhsm2-util`.
        directory: where the configuration and the tokens lie.
    """

    module: Path
    util: Path
    directory: Path

    @classmethod
    def install(cls, directory: Path) -> Self:
        """Find SoftHSM2, or fetch it, and make an empty folder of tokens.

        Args:
            directory: where the tokens will lie; made (mode 0700) if need be.

        Raises:
            EmbeddedError: it is not installed and cannot be fetched: no Debian, or no network.
        """
        module, util = _installed(_PREFIXES) or _fetched(user_cache())
        directory = make_private(directory)
        make_private(directory / "tokens")
        hsm = cls(module, util, directory)
        write_private(
            hsm.configuration,
            f"directories.tokendir = {directory / 'tokens'}\n"
            "objectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n",
        )
        return hsm

    @property
    def configuration(self) -> Path:
        """Its configuration file."""
        return self.directory / "softhsm2.conf"

    @property
    def environment(self) -> dict[str, str]:
        """What every process needs in its environment to find these tokens."""
        return {"SOFTHSM2_CONF": str(self.configuration)}

    def create_token(self, label: str) -> str:
        """Make an empty token.

        Args:
            label: its label.

        Returns:
            The PIN of its normal user.

        Raises:
            EmbeddedError: SoftHSM2 does not run.
        """
        pin, so_pin = secrets.token_hex(8), secrets.token_hex(8)
        # The PINs stand in the arguments: there is no other way without a terminal.
        words = ("--init-token", "--free", "--label", label, "--pin", pin, "--so-pin", so_pin)
        done = subprocess.run(  # noqa: S603 - our own command line
            [self.util, "--module", self.module, *words],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise EmbeddedError(
                f"SoftHSM2 made no token in {self.directory}: {done.stderr.strip()}. Run"
                f" `{self.util} --version`: it says what is missing."
            )
        return pin


def _installed(prefixes: tuple[str, ...]) -> tuple[Path, Path] | None:
    """Find the library and the program below some prefixes."""
    for prefix in map(Path, prefixes):
        util = prefix / "bin" / _UTIL
        for place in _PLACES:
            for module in sorted(prefix.glob(f"{place}/{_LIBRARY}")):
                if util.is_file():
                    return module, util
    return None


def _fetched(cache: Path) -> tuple[Path, Path]:
    """Return what was unpacked into the cache, now or earlier.

    Raises:
        EmbeddedError: it cannot be fetched.
    """
    place = make_private(cache) / "softhsm2"
    prefixes = (str(place / "usr"),)
    if found := _installed(prefixes):
        return found
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise EmbeddedError(
            "SoftHSM2 is not there, and this is no Debian that it could be fetched from. Install"
            " the package softhsm2."
        )
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        unpacked = _unpack(Path(folder))
        try:
            unpacked.rename(place)
        except OSError:  # another process was quicker
            if not place.is_dir():
                raise
    found = _installed(prefixes)
    if found is None:
        raise EmbeddedError(f"Debian's packages in {place} hold no SoftHSM2. Remove that folder.")
    return found


def _unpack(folder: Path) -> Path:
    """Download Debian's packages, which apt checks against its signed lists, and unpack them."""
    own = folder / "apt"
    (own / "lists/partial").mkdir(parents=True)
    (own / "cache/archives/partial").mkdir(parents=True)
    options: tuple[str, ...] = (
        *("-o", "APT::Sandbox::User=", "-o", "Debug::NoLocking=1"),
        *("-o", f"Dir::Cache={own / 'cache'}"),
    )
    try:
        _apt(folder, *options, "download", *PACKAGES)
    except EmbeddedError:
        # The machine has no lists, or old ones, and only root may renew them: get our own.
        options += ("-o", f"Dir::State::lists={own / 'lists'}")
        _apt(folder, *options, "update")
        _apt(folder, *options, "download", *PACKAGES)
    unpacked = folder / "unpacked"
    for package in folder.glob("*.deb"):
        _run(folder, "dpkg-deb", "-x", str(package), str(unpacked))
    return unpacked


def _apt(folder: Path, *words: str) -> None:
    _run(folder, "apt-get", "-qq", "-o", "Acquire::Retries=1", *words)


def _run(folder: Path, *command: str) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - our own command line
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=FETCH_S
        )
        if not done.returncode:
            return
        trouble = done.stderr.strip()
    except subprocess.TimeoutExpired:
        trouble = f"no end within {FETCH_S:.0f} s"
    last = trouble.splitlines()[-1] if trouble else "no reason given"
    raise EmbeddedError(
        f"SoftHSM2 is not there, and `{command[0]}` could not fetch it: {last}. Install the package"
        " softhsm2, or connect to the network."
    )
