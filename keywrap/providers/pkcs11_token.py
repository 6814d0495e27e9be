"""The road to a PKCS#11 token: its module, one login for each process, one call at a time.

python-pkcs11 initialises a module without locks (`C_Initialize(NULL)`), so that two threads in it
at once crash the process: one lock of this process is held round every call. Nothing else in the
process may use the same module.

Processes that initialise the module or log in at once fail at random in SoftHSM 2.6.1, where a
login rewrites the token's file. So both are done under an exclusive lock (flock) on the module's
own file, which all processes of a host share and none has to make.
"""

import fcntl
import hashlib
import hmac
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pkcs11
from pkcs11 import exceptions as p11
from pkcs11._pkcs11 import lib

from keywrap.filelocks import take
from keywrap.kms import DeniedError, UnavailableError
from keywrap.providers import pkcs11_errors as errors
from keywrap.providers.telling import Telling

LOCK = threading.RLock()
"""Held round every call of every module."""

# A fork waits for the call in progress: the child gets a free lock and no half-done call.
os.register_at_fork(before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=LOCK.release)

WAIT_S = 30.0
"""Longest wait for another process's login, which takes milliseconds."""

_Result = TypeVar("_Result")


class PinError(ValueError):
    """There is no usable PIN; never shows what was read."""


@dataclass(frozen=True, slots=True)
class TokenAddress:
    """A token, and how to reach it.

    Attributes:
        module: the PKCS#11 library of its maker; from the local configuration only.
        label: the token's label.
        pin: returns the PIN of the normal user; asked at each login.
    """

    module: Path
    label: str
    pin: Callable[[], str] = field(repr=False)


@dataclass(slots=True)
class _Login:
    session: pkcs11.Session
    pin: bytes = field(repr=False)  # its digest


class _Module:
    """A module as this process has loaded it. Everything here is called with `LOCK` held."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.logins: dict[str, _Login] = {}  # of tokens, by label
        self.refused_pins: set[tuple[str, bytes]] = set()
        self._process = 0
        self._loaded = False
        self._exclusive = 0

    def login(self, label: str) -> _Login | None:
        """Return the login to a token that this very process has, if any."""
        return self.logins.get(label) if self._process == os.getpid() else None

    def library(self) -> lib:
        """Return the module, initialised in this very process."""
        if self._process != os.getpid():
            self.logins.clear()
            try:
                self._start()
            except p11.PKCS11Error as error:
                text = errors.said(error)
                raise errors.ModuleNotStartedError(f"the module does not start: {text}") from None
            self._process, self._loaded = os.getpid(), True
        return pkcs11.lib(str(self.path))

    def _start(self) -> None:
        library = pkcs11.lib(str(self.path))
        if self._loaded:
            # After a fork, or where a session was lost: begin anew. A module that notices the
            # fork has nothing to finalise.
            with suppress(p11.PKCS11Error):
                library.finalize()
            library.initialize()

    def forget(self) -> None:
        """Let go of every session; the next call initialises the module again.

        A token that was taken out, or deleted and made again, is found in no other way.
        """
        self.logins.clear()
        self._process = 0

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Let no other process of this host log in or create a key meanwhile."""
        if self._exclusive:
            yield
            return
        file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            held = f"another process held it for {WAIT_S:g} s"
            take(file, time.monotonic() + WAIT_S, held)
            self._exclusive += 1
            try:
                yield
            finally:
                self._exclusive -= 1
                fcntl.flock(file, fcntl.LOCK_UN)
        finally:
            os.close(file)


_modules: dict[Path, _Module] = {}


class Token(Telling):
    """Runs calls in a session of a token, for one KEK.

    It logs in when first used. All KEKs of a token share one login in a process, and a process
    that was forked logs in anew.

    Args:
        address: the token.
        key: URI of the KEK, for errors.
    """

    def __init__(self, address: TokenAddress, key: str) -> None:
        self._address = address
        self.key = key
        self._login: _Login | None = None
        with LOCK:
            self._module = _modules.setdefault(address.module, _Module(address.module))

    def run(self, act: Callable[[pkcs11.Session], _Result], *, again: bool = True) -> _Result:
        """Run calls in the session, holding the process's lock.

        Args:
            act: what to do in the session; may raise errors of ours as well.
            again: whether doing it twice does no harm. Then a session that was lost is opened
                anew, once.

        Raises:
            UnavailableError: the token is gone, or its module does not work.
            DeniedError: the PIN or the token refuses.
        """
        with LOCK:
            try:
                return act(self.session())
            except p11.PKCS11Error as error:
                lost = self._told(error)
            if again:
                try:
                    return act(self.session())
                except p11.PKCS11Error as error:
                    lost = self._told(error)
            raise lost

    def _told(self, error: p11.PKCS11Error) -> UnavailableError:
        """Turn an error of the module into ours; the session is not used again.

        Raises:
            DeniedError: the session is sound, and the token refuses.
        """
        if denied := errors.denied(error, self.key):
            raise denied from None
        self._module.forget()
        return errors.unavailable(error, self.key)

    def session(self) -> pkcs11.Session:
        """Return the session of this process; for use under `LOCK`, which `run` holds.

        It may write nothing into the token; `writing` gives one that may.

        Raises:
            PKCS11Error: the module or the token does not work.
            UnavailableError, DeniedError: see `run`.
        """
        login = self._module.login(self._address.label)
        if login is None:
            with self.exclusive():
                login = self._login = self._log_in(self._module.library())
        elif login is not self._login:
            login = self._login = self._share(login)
        return login.session

    def _share(self, login: _Login) -> _Login:
        """Use another KEK's login; a module takes any PIN then, so that this one is compared."""
        if not hmac.compare_digest(login.pin, _digest(self._pin())):
            raise self.denied(
                "this process is logged in to the token with another PIN", "pin_refused"
            )
        return login

    @contextmanager
    def writing(self) -> Iterator[pkcs11.Session]:
        """Open a session that may write; for use under `LOCK`, which `run` holds.

        Logins are of the process and not of a session, so it needs no PIN.
        """
        session = self.session().token.open(rw=True)
        try:
            yield session
        finally:
            session.close()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Let no other process of this host log in or create a key meanwhile.

        Raises:
            UnavailableError: another one does so for longer than `WAIT_S`.
        """
        with LOCK:
            try:
                with self._module.exclusive():
                    yield
            except OSError as error:
                raise self.unavailable(
                    f"{self._module.path} cannot be locked: {error.strerror}", "token_locked"
                ) from error

    def _pin(self) -> str:
        try:
            return self._address.pin()
        except PinError as error:
            raise self.denied(str(error), "pin_unreadable") from None

    def _log_in(self, library: lib) -> _Login:
        pin, label = self._pin(), self._address.label
        if (label, _digest(pin)) in self._module.refused_pins:
            raise self._pin_refused("this PIN was refused before, and is not tried again")
        try:
            session = library.get_token(token_label=label).open(user_pin=pin)
        except p11.UserAlreadyLoggedIn:
            raise self.denied(
                "other code of this process uses the same module, which one alone may do",
                "module_in_use",
            ) from None
        except p11.PKCS11Error as error:
            if not errors.is_pin_refused(error):
                raise
            # Most HSMs lock the token after a few wrong PINs.
            self._module.refused_pins.add((label, _digest(pin)))
            raise self._pin_refused(f"the token refuses the PIN ({errors.said(error)})") from None
        login = self._module.logins[label] = _Login(session, _digest(pin))
        return login

    def _pin_refused(self, message: str) -> DeniedError:
        return self.denied(
            f"{message}; put the right one where `pin_env` or `pin_file` says", "pin_refused"
        )


def _digest(pin: str) -> bytes:
    return hashlib.sha256(pin.encode()).digest()
