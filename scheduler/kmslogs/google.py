"""Google Cloud's Data Access audit logs: off until somebody switches them on for Cloud KMS.

Fields: https://cloud.google.com/logging/docs/reference/v2/rest/v2/LogEntry and
https://cloud.google.com/logging/docs/reference/audit/auditlog/rest/Shared.Types/AuditLog; methods:
https://cloud.google.com/kms/docs/audit-logging. The client is told of no name of its request that
stands there, and neither does the blob: uses are compared by key, operation and time.
"""

from collections.abc import Mapping
from datetime import datetime

from scheduler.kmslogs.entries import Entry, Logged, LoggedUse, Operation, time_of

SERVICE = "cloudkms.googleapis.com"

_SCHEME = "gcp-kms:"
_OPERATION: Mapping[str, Operation] = {
    "Encrypt": "wrap",
    "Decrypt": "unwrap",
    "RawEncrypt": "wrap",
    "RawDecrypt": "unwrap",
}
_VERSIONS = "/cryptoKeyVersions/"


def logged(entry: Entry) -> Logged:
    """Read an entry; what it raises means that it is none."""
    time = time_of(entry["timestamp"])
    payload = entry["protoPayload"]
    is_kms = payload.get("serviceName") == SERVICE
    # `Decrypt`, and `google.cloud.kms.v1.KeyManagementService.Decrypt` in some exports.
    operation = _OPERATION.get(str(payload["methodName"]).rpartition(".")[2]) if is_kms else None
    return Logged(time, _SCHEME, _use(entry, payload, time, operation) if operation else None)


def _use(entry: Entry, payload: Entry, time: datetime, operation: Operation) -> LoggedUse:
    who = (payload.get("authenticationInfo") or {}).get("principalEmail", "somebody")
    where = (payload.get("requestMetadata") or {}).get("callerIp", "?")
    code = (payload.get("status") or {}).get("code", 0)  # google.rpc.Code: 0 is OK
    if type(code) is not int:  # or it would pass for a refusal, and hide a use
        raise ValueError("it has a status that is no number")
    name = str(payload["resourceName"]).partition(_VERSIONS)[0]
    return LoggedUse(
        time,
        operation,
        f"gcp-kms://{name}",
        int(code == 0),
        request_id=str(entry.get("insertId", "")),  # of the entry: exports overlap
        who=f"{who} at {where}",
    )
