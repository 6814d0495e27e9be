"""The category `AuditEvent` of Azure Key Vault and Managed HSM.

As it comes to a storage account, an event hub, or a Log Analytics workspace (`AZKVAuditLogs`):
https://learn.microsoft.com/azure/key-vault/general/logging and
https://learn.microsoft.com/azure/azure-monitor/reference/tables/azkvauditlogs. Their
`correlationId` is what the client passes; ours passes none that events of ours have, so uses are
compared by key, operation and time. A wrap that is made in the client's process with the public key
(RSA-OAEP-256) is no request, and stands in no log.
"""

import re
from collections.abc import Mapping
from datetime import datetime

from scheduler.kmslogs.entries import Entry, Logged, LoggedUse, Operation, time_of

_SCHEME = "azure-kv:"
_OPERATION: Mapping[str, Operation] = {
    "keywrap": "wrap",
    "keyunwrap": "unwrap",
    "keyencrypt": "wrap",
    "keydecrypt": "unwrap",
}
_KEY = re.compile(r"https://(?P<host>[^/]+?)(?::443)?/keys/(?P<name>[^/?]+)", re.IGNORECASE)
_CLAIMS = (
    "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/upn",
    "appid",
    "http://schemas.microsoft.com/identity/claims/objectidentifier",
)
_OK = range(200, 300)


def is_one(entry: Entry) -> bool:
    """Whether it looks like an entry of such a log."""
    return "operationName" in entry or "OperationName" in entry


def logged(entry: Entry) -> Logged:
    """Read an entry; what it raises means that it is none."""
    flat = entry if "operationName" in entry else _as_record(entry)
    time = time_of(flat["time"])
    operation = _OPERATION.get(str(flat["operationName"]).lower())
    return Logged(time, _SCHEME, _use(flat, time, operation) if operation else None)


def _as_record(row: Entry) -> Entry:
    """Return a row of a workspace as the record that it was made from."""
    return {
        "time": row["TimeGenerated"],
        "operationName": row["OperationName"],
        "callerIpAddress": row.get("CallerIpAddress"),
        "correlationId": row.get("CorrelationId"),
        "identity": row.get("Identity"),
        "properties": {
            "id": row.get("Id"),
            "requestUri": row.get("RequestUri"),
            "httpStatusCode": row.get("HttpStatusCode"),
        },
    }


def _use(record: Entry, time: datetime, operation: Operation) -> LoggedUse:
    properties = record["properties"]
    match = _KEY.match(str(properties.get("requestUri") or properties.get("id") or ""))
    if match is None:
        raise ValueError("it names no key")
    claim = (record.get("identity") or {}).get("claim") or {}
    who = next((str(claim[name]) for name in _CLAIMS if claim.get(name)), "somebody")
    return LoggedUse(
        time,
        operation,
        # Vaults take names in any case, and hosts are in none.
        f"azure-kv://{match['host'].lower()}/keys/{match['name']}",
        int(int(properties["httpStatusCode"]) in _OK),
        who=f"{who} at {record.get('callerIpAddress') or '?'}",
    )
