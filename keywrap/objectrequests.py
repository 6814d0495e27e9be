"""Requests that go past obstore: listings, and what obstore does in another way than is wanted."""

import re
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from urllib.parse import quote

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from keywrap.endpoints import CONNECT_TIMEOUT_S
from keywrap.objectbucket import Operation
from keywrap.objectreplies import Kind, Reply, kind_of
from keywrap.objectretries import UnansweredError, retrying
from keywrap.objectstore import LISTING_THREADS
from keywrap.stores import StoreUnavailableError

_SYSTEM_MESSAGE = re.compile(r"\[(?:Errno -?\d+|SSL: \w+)\] ([\w :,'-]+)")

Sign = Callable[[requests.PreparedRequest], requests.PreparedRequest]
"""Adds to a request what shows who asks; raises `StoreUnavailableError` where nothing does."""


class ObjectRequests:
    """Sends requests to one bucket.

    Args:
        sign: signs each request.
        code_of: finds the store's own error code in an answer; empty for none.
        explain: says why the bucket refused, as `keywrap.objectbucket.Bucket` does.
        timeout_s: of one request, in seconds.
    """

    def __init__(
        self,
        sign: Sign,
        code_of: Callable[[requests.Response], str],
        explain: Callable[[Reply, Operation], str],
        timeout_s: float,
    ) -> None:
        self._auth = _Signing(sign)
        self._code_of = code_of
        self._explain = explain
        self._timeout = (min(CONNECT_TIMEOUT_S, timeout_s), timeout_s)
        self._session = requests.Session()
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=LISTING_THREADS))
        self._retrying = retrying(0.1)

    def list(self, url: str, query: Mapping[str, str], headers: Mapping[str, str]) -> bytes:
        """Return the body of a page of a listing; what stays unanswered is asked for again.

        Args:
            url: without a query.
            query: names and values, not encoded.
            headers: of the request.

        Raises:
            StoreUnavailableError: there was no answer, or a refusal; the message says why.
        """
        asked = "&".join(f"{name}={quote(query[name], safe='')}" for name in sorted(query))

        def ask() -> bytes:
            reply, body = self._send("GET", f"{url}?{asked}", headers)
            if reply is None:
                return body
            kind = UnansweredError if reply.kind is Kind.UNKNOWN else StoreUnavailableError
            raise kind(self._explain(reply, "list"))

        return self._retrying(ask)

    def delete(self, url: str, headers: Mapping[str, str]) -> None:
        """Delete an object; asked for once, and nothing happens where there is none.

        Raises:
            StoreUnavailableError: there was no answer, or a refusal.
        """
        reply = self.remove(url, headers)
        if reply is not None and reply.kind is not Kind.MISSING:
            raise StoreUnavailableError(self._explain(reply, "delete"))

    def remove(self, url: str, headers: Mapping[str, str]) -> Reply | None:
        """Delete an object, asked for once; return what a refusal came to, or a silence."""
        return self._send("DELETE", url, headers)[0]

    def _send(
        self, method: str, url: str, headers: Mapping[str, str]
    ) -> tuple[Reply | None, bytes]:
        try:
            # A redirect would take the signature elsewhere; `auth` keeps a .netrc out.
            answer = self._session.request(
                method,
                url,
                headers=headers,
                auth=self._auth,
                timeout=self._timeout,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            return Reply(Kind.UNKNOWN, text=_cause(error)), b""
        if HTTPStatus.OK <= answer.status_code < HTTPStatus.MULTIPLE_CHOICES:
            return None, answer.content
        code = self._code_of(answer)
        return Reply(kind_of(answer.status_code, code), answer.status_code, code), b""


class _Signing(AuthBase):
    def __init__(self, sign: Sign) -> None:
        self._sign = sign

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return self._sign(request)


def _cause(error: BaseException) -> str:
    """Say what failed, without the URL: it may hold a shared access signature."""
    for one in _chain(error):
        if found := _SYSTEM_MESSAGE.search(str(one)):
            return found.group(1).strip()
    return type(error).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    following: BaseException | None = error
    while following is not None:
        yield following
        following = following.__cause__ or following.__context__
