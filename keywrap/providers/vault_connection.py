"""One road to an OpenBao or Vault server: its token, its time limits, what its errors mean.

Everything that could carry a token or a data key stays inside this file: the errors that leave it
are ours, hold no request, and have no cause or context that does.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec
import tenacity

from keywrap.kms import KmsError, ThrottledError, UnavailableError
from keywrap.metering import Meter, no_meter
from keywrap.pacing import NO_PACER, Pacer
from keywrap.providers.telling import Telling

try:
    import hvac
    import requests
    import urllib3
    from hvac.adapters import RawAdapter
except ImportError as error:
    raise ImportError("a key in Vault or OpenBao needs: pip install 'keywrap[vault]'") from error

CONNECT_TIMEOUT_S = 3.0
DEFAULT_TIMEOUT_S = 10.0
ATTEMPTS = 3
RETRY_FOR_S = 2.0
"""Retries end a hiccup. Waiting out an outage is the ledger's business."""

MAX_TOKEN_BYTES = 16 * 1024
"""Far above any token: service tokens have under 200 bytes, batch tokens a few hundred."""

_KEY_ERRORS = (
    ("key not found", "key_not_found", "there is no such key"),
    (
        "disallowed by policy",
        "version_not_allowed",
        "min_decryption_version bars the wrap's KEK version",
    ),
    ("soft-deleted", "key_soft_deleted", "the key is soft-deleted"),
    ("permission denied", "permission_denied", "the token may not do this"),
    ("no handler for route", "mount_not_found", "there is no Transit engine at this mount"),
)
"""What Transit says where the key as a whole refuses, and what that means."""

_DENIED_STATUSES: dict[int, tuple[str, str]] = {
    HTTPStatus.UNAUTHORIZED: ("the token may not do this", "permission_denied"),
    HTTPStatus.FORBIDDEN: ("the token may not do this", "permission_denied"),
    HTTPStatus.NOT_FOUND: ("there is no such key", "key_not_found"),
}

_WAIT_STATUSES = frozenset({408, 412, 472, 473})
"""Timed out; a standby that has not caught up (412, Vault Enterprise); a standby that serves no
requests (472, 473)."""


class TokenError(ValueError):
    """There is no usable token; never shows what was read."""


class TooComplexError(Exception):
    """The server refuses a request of this many items; fewer may pass."""


class Item(msgspec.Struct, frozen=True):
    """One item of a Transit batch answer; what the server left out is empty."""

    ciphertext: str = ""
    plaintext: str = ""
    key_version: int = 0
    error: str = ""

    def __repr__(self) -> str:
        return "Item(hidden)"


class Data(msgspec.Struct, frozen=True):
    """The `data` of an answer."""

    batch_results: list[Item] | None = None
    latest_version: int = 0
    min_decryption_version: int = 0
    derived: bool = False
    soft_deleted: bool = False


class Answer(msgspec.Struct, frozen=True):
    """The body of an answer."""

    data: Data | None = None
    errors: list[str] | None = None
    request_id: str = ""


_ANSWER = msgspec.json.Decoder(Answer)
# Made here and not at the first answer: threads that make one at once crash the process (msgspec
# 0.22 shows a type that is half made to the other thread). A static rule keeps all others so.


def check_token(token: str) -> str:
    """Return a token that can stand in a header.

    Raises:
        TokenError: it cannot; `requests` would show it in its own error.
    """
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise TokenError("a token is one line of visible ASCII characters")
    return token


def token_file(path: Path) -> Callable[[], str]:
    """Return a reader of a token file, so that a renewed token needs no restart.

    The reader raises `TokenError` where the file cannot be read or holds no token.
    """

    def read() -> str:
        try:
            with path.open("rb") as file:
                text = file.read(MAX_TOKEN_BYTES)
        except OSError as error:
            raise TokenError(f"{path} cannot be read: {error.strerror}") from None
        return check_token(text.decode("ascii", "replace").strip())

    return read


def key_error(text: str) -> tuple[str, str] | None:
    """Tell what an error text says about the key as a whole: reason code and sentence."""
    lowered = text.lower()
    for phrase, reason_code, sentence in _KEY_ERRORS:
        if phrase in lowered:
            return reason_code, sentence
    return None


@dataclass(frozen=True, slots=True)
class VaultServer:
    """An OpenBao or Vault server, and how to reach it.

    Attributes:
        address: its URL.
        token: returns the token; asked once, and again when the server says "permission denied".
        timeout_s: how long an answer may take.
        namespace: the namespace, where the server has them.
        ca_file: certificates to trust instead of the system's.
    """

    address: str
    token: Callable[[], str] = field(repr=False)
    timeout_s: float = DEFAULT_TIMEOUT_S
    namespace: str = ""
    ca_file: Path | None = None


class VaultConnection(Telling):
    """Sends requests for one key and turns each failure into one of the four kinds.

    It connects when first used. Each thread has its own client, since `requests` does not promise
    that a session may be shared, and a client is never used across a fork.

    Args:
        server: the server.
        key: URI of the KEK, for errors.
        count: called before each request, by one thread at a time.
    """

    def __init__(self, server: VaultServer, key: str, count: Callable[[], None]) -> None:
        self._server = server
        self.key = key
        self._count = count
        self._token = ""
        self._lock = threading.Lock()
        self._local = threading.local()
        self._pacer: Pacer = NO_PACER
        self._meter: Meter = no_meter

    def pace_by(self, pacer: Pacer) -> None:
        """Let a pacer decide when each request is sent."""
        self._pacer = pacer

    def meter_by(self, meter: Meter) -> None:
        """Let a meter hear of each request."""
        self._meter = meter

    def __repr__(self) -> str:
        return f"VaultConnection({self._server.address})"

    def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        operation: str = "manage",
        again: bool = True,
    ) -> Answer:
        """Send a request and return its answer.

        Args:
            method: the HTTP method.
            path: the path behind `/v1/`.
            body: what to send as JSON.
            operation: what is asked for, as `keywrap.metering.Meter` hears it.
            again: whether sending it twice does no harm, so that a hiccup is retried.

        Raises:
            TooComplexError: the server takes fewer items in a request.
            UnavailableError: no answer, or none that can be used.
            ThrottledError: a rate limit of the server.
            DeniedError: the token or the key refuses.
        """
        once = partial(self._timed, operation, method, path, body)
        if not again:
            return once()
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((UnavailableError, ThrottledError)),
            stop=tenacity.stop_after_attempt(ATTEMPTS) | tenacity.stop_after_delay(RETRY_FOR_S),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=RETRY_FOR_S / ATTEMPTS),
            reraise=True,
        )
        return retrying(once)

    def _timed(
        self, operation: str, method: str, path: str, body: Mapping[str, Any] | None
    ) -> Answer:
        self._pacer.take()
        began = time.perf_counter()
        try:
            answer = self._once(method, path, body)
        except (KmsError, TooComplexError) as error:
            self._meter(operation, time.perf_counter() - began, error)
            raise
        self._meter(operation, time.perf_counter() - began, None)
        return answer

    def _once(self, method: str, path: str, body: Mapping[str, Any] | None) -> Answer:
        used = self._current_token()
        status, content = self._exchange(used, method, path, body)
        if status == HTTPStatus.FORBIDDEN and self._token_changed(used):
            self._pacer.take()
            status, content = self._exchange(self._current_token(), method, path, body)
        done = 200 <= status < 300  # noqa: PLR2004 - success, RFC 9110 section 15.3
        try:
            answer = _ANSWER.decode(content) if content else Answer()
        except (msgspec.MsgspecError, UnicodeDecodeError):
            answer = None
        if answer is None and done:
            raise self.unavailable("the server's answer is not one of Transit", "answer_malformed")
        answer = answer or Answer()
        # OpenBao answers 400 where every item of a batch failed, whatever
        # `partial_failure_response_code` says; the items then tell more than the status.
        each_told = answer.data is not None and answer.data.batch_results
        if done or (status == HTTPStatus.BAD_REQUEST and each_told):
            return answer
        raise self._error(status, answer.errors or [], quotable="/encrypt/" not in path)

    def _exchange(
        self, token: str, method: str, path: str, body: Mapping[str, Any] | None
    ) -> tuple[int, bytes]:
        """Send once and return status and body."""
        with self._lock:
            self._count()
        failure = ""
        try:
            response: requests.Response = self._client(token).adapter.request(
                method, f"/v1/{path}", json=body, raise_exception=False
            )
        except (OSError, urllib3.exceptions.HTTPError) as error:
            failure = type(error).__name__
        if failure:
            # Raised outside the handler: the cause holds the request, and with it the token
            # and, in an encrypt, the data keys; `from None` would only hide it.
            raise self.unavailable(f"no answer ({failure})")
        if response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
            self._pacer.throttled()
        return response.status_code, response.content

    def _client(self, token: str) -> hvac.Client:
        """Return this thread's client in this process."""
        mine = os.getpid(), token
        if getattr(self._local, "mine", None) != mine:
            server = self._server
            session = requests.Session()
            # The configuration alone decides the road: no proxy, .netrc or CA bundle from the
            # environment. A redirect would send the token wherever the answer says.
            session.trust_env = False
            session.verify = str(server.ca_file) if server.ca_file else True
            self._local.client = hvac.Client(
                url=server.address,
                token=token,
                timeout=(min(CONNECT_TIMEOUT_S, server.timeout_s), server.timeout_s),
                allow_redirects=False,
                session=session,
                adapter=RawAdapter,
                namespace=server.namespace or None,
            )
            self._local.mine = mine
        return self._local.client

    def _current_token(self) -> str:
        with self._lock:
            if not self._token:
                try:
                    self._token = check_token(self._server.token())
                except TokenError as error:
                    raise self.denied(str(error), "token_unreadable") from None
            return self._token

    def _token_changed(self, used: str) -> bool:
        """Read the token again; whether it is another than the one that was refused."""
        with self._lock:
            try:
                self._token = check_token(self._server.token())
            except TokenError:
                return False
            return self._token != used

    def _error(self, status: int, errors: list[str], *, quotable: bool) -> KmsError:
        """Turn a failed request into its kind of error.

        Raises:
            TooComplexError: see `send`.
        """
        text = " ".join("; ".join(errors).split())
        if "high complexity" in text or status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            raise TooComplexError
        # A soft-deleted key's rotation is answered with 500, so the text goes first.
        if known := key_error(text):
            return self.denied(known[1], known[0])
        said = f"HTTP {status}" + (f": {text[:200]!a}" if quotable and text else "")
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            return ThrottledError.about(self.key, "a rate limit is exceeded")
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _WAIT_STATUSES:
            return self.unavailable(said)
        if status < HTTPStatus.BAD_REQUEST:
            return self.unavailable(
                f"{said}, a redirect, which is never followed with a token; "
                "configure the address of the active node",
                "server_redirects",
            )
        return self.denied(*_DENIED_STATUSES.get(status, (said, "request_refused")))
