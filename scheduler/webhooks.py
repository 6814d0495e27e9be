"""Posting to a webhook: one request, bounded in every way."""

import random
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import unquote, urlsplit

import msgspec
import requests
import urllib3
from requests.auth import AuthBase

from workers.alerts_table import is_loopback
from workers.plaintext import plain

_TIMEOUT_S = (5.0, 10.0)  # to connect, and for each read
_WITHIN_S = 30.0
"""For the whole of an attempt; shorter than a message is held for its sender."""

_MOST_LATE = 3
_MOST_BYTES = 1024
"""Of an answer: enough for a person to see what is wrong."""

_FIRST_S, _LONGEST_S = 2.0, 900.0
_MOST_RETRY_AFTER_S = 3600.0
_OK, _NO_MORE, _REDIRECT = 200, 300, 400


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        is_delivered: whether the message was taken.
        says: the status and the beginning of the answer, or what went wrong; one line.
        retry_after_s: seconds after which the receiver wants to be asked again; None: it says
            nothing.
    """

    is_delivered: bool
    says: str
    retry_after_s: float | None = None

    def pause_s(self, attempts: int) -> float:
        """Return after how many seconds to try again, after so many attempts.

        Doubled each time to a quarter of an hour at most, and drawn at random from the upper half
        of that: schedulers that failed together do not come back together.
        """
        longest = min(_LONGEST_S, _FIRST_S * 2 ** min(attempts - 1, 16))
        drawn: float = longest * random.uniform(0.5, 1)  # noqa: S311 - not to be unguessable
        return max(drawn, self.retry_after_s or 0.0)


class _NoNetrc(AuthBase):
    """Sends no credentials: requests would take some from the home's `.netrc`."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class Poster:
    """Posts to one webhook, each message within a deadline for the whole of it.

    The timeouts of `requests` are those of each read, and of no look-up of a name: a receiver that
    sends a byte now and then would hold its sender for ever. So each attempt has a thread of its
    own; one that is late is left there, and while too many are, none is added.
    """

    def __init__(self) -> None:
        self._late: list[threading.Thread] = []

    def post(self, url: str, message: Mapping[str, object], message_id: str) -> Answer:
        """Post a message as JSON; see `post`. One that is late may have been taken all the same."""
        self._late = [thread for thread in self._late if thread.is_alive()]
        if len(self._late) >= _MOST_LATE:
            return Answer(is_delivered=False, says=f"{_MOST_LATE} earlier attempts still hang")
        answer: Future[Answer] = Future()

        def attempt() -> None:
            try:
                answer.set_result(post(url, message, message_id))
            except BaseException as error:  # noqa: BLE001 - it is raised where the answer is read
                answer.set_exception(error)

        thread = threading.Thread(target=attempt, name="webhook-attempt", daemon=True)
        thread.start()
        try:
            return answer.result(_WITHIN_S)
        except TimeoutError:
            self._late.append(thread)
            return Answer(is_delivered=False, says=f"no whole answer within {_WITHIN_S:g} s")


def post(url: str, message: Mapping[str, object], message_id: str) -> Answer:
    """Post a message as JSON; what goes wrong is an answer, too.

    Args:
        url: where to; `https`, or a loopback address. It is a secret and stands in no answer.
        message: what to send.
        message_id: the same for each attempt, so that a receiver can tell that it has it.
    """
    headers = {
        "Content-Type": "application/json",
        "Idempotency-Key": message_id,
        "User-Agent": "rewrap",
    }
    try:
        with requests.Session() as session:
            # A proxy of the environment is for other hosts: this one it would reach in clear.
            session.trust_env = not is_loopback(urlsplit(url).hostname or "")
            with session.post(
                url,
                data=msgspec.json.encode(message),
                headers=headers,
                timeout=_TIMEOUT_S,
                allow_redirects=False,
                stream=True,
                auth=_NoNetrc(),
            ) as response:
                return _read(response, url)
    except requests.Timeout:
        return Answer(is_delivered=False, says="it did not answer in time")
    except requests.exceptions.SSLError:
        return Answer(is_delivered=False, says="its certificate cannot be trusted")
    except (requests.RequestException, OSError, ValueError) as error:
        # The text of it would show the URL.
        return Answer(is_delivered=False, says=f"no answer: {type(error).__name__}")


def _read(response: requests.Response, url: str) -> Answer:
    status = response.status_code
    if _NO_MORE <= status < _REDIRECT:
        return Answer(is_delivered=False, says=f"{status}: redirects are not followed")
    try:
        said = response.raw.read(_MOST_BYTES, decode_content=False)
    except (urllib3.exceptions.HTTPError, OSError):
        said = b""  # the status has said whether it was taken
    text = _without(url, plain(said.decode("utf-8", "replace").strip()))
    return Answer(
        is_delivered=_OK <= status < _NO_MORE,
        says=f"{status}: {text}" if text else str(status),
        retry_after_s=_retry_after(response.headers.get("Retry-After", "")),
    )


def _without(url: str, text: str) -> str:
    """Return what a receiver said without its own address, which is a secret."""
    path = urlsplit(url).path
    for part in (url, path, unquote(path), path.rpartition("/")[2]):
        if len(part) > 1:
            text = text.replace(part, "…")
    return text


def _retry_after(text: str) -> float | None:
    """Read `Retry-After` (RFC 9110, 10.2.3): seconds, or a date; bounded."""
    if text.isascii() and text.isdecimal():
        seconds = float(text[:9])
    else:
        try:
            at = parsedate_to_datetime(text)
        except ValueError:
            return None
        if at.tzinfo is None:
            at = at.replace(tzinfo=UTC)
        seconds = (at - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), _MOST_RETRY_AFTER_S)
