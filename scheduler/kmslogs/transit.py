"""The audit devices of OpenBao and Vault: strings are HMACed there, so no blob is told.

https://openbao.org/docs/audit/; tried on OpenBao 2.7.2.
"""

import re
from collections.abc import Mapping
from datetime import datetime

from scheduler.kmslogs.entries import Entry, Logged, LoggedUse, Operation, time_of

_SCHEME = "hcvault:"
_TRANSIT = re.compile(
    r"(?P<mount>.+)/(?P<what>encrypt|decrypt|rewrap|datakey/(?:plaintext|wrapped))/(?P<name>[^/]+)"
)
_OPERATION: Mapping[str, Operation] = {
    "encrypt": "wrap",
    "decrypt": "unwrap",
    "rewrap": "rewrap",
    "datakey/plaintext": "wrap",
    "datakey/wrapped": "wrap",
}


def logged(entry: Entry) -> Logged:
    """Read an entry; what it raises means that it is none."""
    time = time_of(entry["time"])
    match = _TRANSIT.fullmatch(str(entry["request"].get("path", "")))
    if entry["type"] != "response" or match is None:
        return Logged(time, _SCHEME, None)
    return Logged(time, _SCHEME, _use(entry, time, match))


def _use(entry: Entry, time: datetime, match: re.Match[str]) -> LoggedUse:
    request, auth = entry["request"], entry.get("auth") or {}
    count, is_certain = _count(entry, request.get("data") or {})
    return LoggedUse(
        time,
        _OPERATION[match["what"]],
        f"hcvault://{match['mount']}/{match['name']}",
        count,
        is_certain,
        request_id=str(request.get("id", "")),
        who=f"{auth.get('display_name', 'somebody')} at {request.get('remote_address', '?')}",
    )


def _count(entry: Entry, asked: Entry) -> tuple[int, bool]:
    """Return how many wraps came out, and whether that is certain."""
    data = (entry.get("response") or {}).get("data") or {}
    results = data.get("batch_results")
    if isinstance(results, list):
        return sum(1 for item in results if not item.get("error")), True
    if "http_raw_body" in data:
        # The answer to a batch of which some items failed is hashed as a whole, and may hold keys.
        return len(asked.get("batch_input") or [None]), False
    done = not entry.get("error") and ("plaintext" in data or "ciphertext" in data)
    return int(done), True
