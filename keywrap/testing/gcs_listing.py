"""The pages of "Objects: list" of Google's JSON API."""

import base64
import binascii
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any

MAX_RESULTS = 1000
"""The most entries of a page."""

_PARAMETERS = frozenset(
    {"prefix", "delimiter", "startOffset", "endOffset", "maxResults", "pageToken", "fields"}
)
_FIELDS = "items(name,size),prefixes,nextPageToken"


class ListError(Exception):
    """What was asked for is not known, or no valid value."""


def listing(
    asked: Mapping[str, str],
    names: Sequence[str],
    size: Callable[[str], int],
    *,
    empty: bool = False,
) -> dict[str, Any]:
    """Make a page.

    Args:
        asked: the parameters of the request.
        names: all names of the bucket, sorted.
        size: tells the bytes of an object.
        empty: leave the page without an entry, with a token for the same place.

    Raises:
        ListError: a parameter is not known, or has no valid value.
    """
    if asked.keys() - _PARAMETERS or asked.get("fields", _FIELDS) != _FIELDS:
        raise ListError
    most = 0 if empty else _most(asked)
    at = bisect_left(names, max(asked.get("prefix", ""), asked.get("startOffset", "")))
    if token := asked.get("pageToken"):
        at = max(at, bisect_right(names, _of_token(token)))
    items: list[str] = []
    folders: list[str] = []
    last = _of_token(token) if token else ""
    while at < len(names) and _is_within(names[at], asked):
        if len(items) + len(folders) == most:
            return _page(items, folders, size, _token(last))
        folder = _folder(names[at], asked)
        if folder:
            folders.append(folder)
            at = _end_of(names, folder)
            last = names[at - 1]
        else:
            items.append(names[at])
            last = names[at]
            at += 1
    return _page(items, folders, size, "")


def _end_of(names: Sequence[str], folder: str) -> int:
    return bisect_right(names, folder, key=lambda name: name[: len(folder)])


def _page(
    items: Sequence[str], folders: Sequence[str], size: Callable[[str], int], token: str
) -> dict[str, Any]:
    shown = {
        "items": [{"name": name, "size": str(size(name))} for name in items],
        "prefixes": list(folders),
        "nextPageToken": token,
    }
    return {name: value for name, value in shown.items() if value}


def _most(asked: Mapping[str, str]) -> int:
    text = asked.get("maxResults", str(MAX_RESULTS))
    if not text.isdecimal() or not int(text):
        raise ListError
    return min(int(text), MAX_RESULTS)


def _is_within(name: str, asked: Mapping[str, str]) -> bool:
    end = asked.get("endOffset", "")
    return name.startswith(asked.get("prefix", "")) and (not end or name < end)


def _folder(name: str, asked: Mapping[str, str]) -> str:
    delimiter = asked.get("delimiter", "")
    if not delimiter:
        return ""
    end = name.find(delimiter, len(asked.get("prefix", "")))
    return name[: end + len(delimiter)] if end >= 0 else ""


def _token(name: str) -> str:
    return base64.urlsafe_b64encode(b"t" + name.encode()).decode()


def _of_token(token: str) -> str:
    try:
        return base64.urlsafe_b64decode(token)[1:].decode()
    except (binascii.Error, UnicodeDecodeError):
        raise ListError from None
