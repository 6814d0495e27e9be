"""AWS CloudTrail: an event for each request, with the encryption context.

https://docs.aws.amazon.com/kms/latest/developerguide/logging-using-cloudtrail.html
"""

from collections.abc import Mapping
from datetime import datetime

from scheduler.kmslogs.entries import Entry, Logged, LoggedUse, Operation, time_of

_SCHEME = "aws-kms:"
_OPERATION: Mapping[str, Operation] = {
    "Encrypt": "wrap",
    "Decrypt": "unwrap",
    "ReEncrypt": "rewrap",
    "GenerateDataKey": "wrap",
    "GenerateDataKeyWithoutPlaintext": "wrap",
}


def logged(entry: Entry) -> Logged:
    """Read an entry; what it raises means that it is none."""
    time = time_of(entry["eventTime"])
    is_kms = entry["eventSource"] == "kms.amazonaws.com"
    operation = _OPERATION.get(entry["eventName"]) if is_kms else None
    return Logged(time, _SCHEME, _use(entry, time, operation) if operation else None)


def _use(entry: Entry, time: datetime, operation: Operation) -> LoggedUse:
    asked = entry.get("requestParameters") or {}
    identity = entry.get("userIdentity") or {}
    context = asked.get("encryptionContext") or asked.get("destinationEncryptionContext") or {}
    return LoggedUse(
        time,
        operation,
        f"aws-kms://{_key(entry, asked)}",
        int(not entry.get("errorCode")),
        request_id=str(entry.get("requestID", "")),
        blob_id=str(context.get("blob_id", "")),
        who=f"{identity.get('arn', 'somebody')} at {entry.get('sourceIPAddress', '?')}",
    )


def _key(entry: Entry, asked: Entry) -> str:
    """Return the ARN of the key that made the wrap, or opened it."""
    destination = str(asked.get("destinationKeyId", ""))
    if destination.startswith("arn:"):
        return destination
    arns = [str(resource["ARN"]) for resource in entry.get("resources") or []]
    return arns[-1] if arns else str(asked.get("keyId", ""))
