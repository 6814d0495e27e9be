"""An identity-based policy of AWS IAM.

Its grammar: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_grammar.html.
`kms:EncryptionContextKeys` and its operators: https://docs.aws.amazon.com/kms/latest/
developerguide/conditions-kms.html#conditions-kms-encryption-context-keys.
"""

import json
import re
from collections import defaultdict
from typing import Any

from keywrap.audithead import NAME as AUDIT_HEAD
from keywrap.controlfile import NAME as CONTROL
from keywrap.layout import RESERVED
from keywrap.permissions import Permission, Power, StorePower
from keywrap.permissions.aws import KMS, S3_BUCKET, S3_OBJECTS
from keywrap.providers.aws_arn import SCHEME, region_of
from keywrap.sweeping import CLOCK
from scheduler.policies.subject import Subject
from tasks.marks import MARK

_BLOB_ID = {"kms:EncryptionContextKeys": ["blob_id"]}
_CONDITION = {
    # No other name than this, and this one: all of none is true too.
    "ForAllValues:StringEquals": _BLOB_ID,
    "ForAnyValue:StringEquals": _BLOB_ID,
}

_BY_CONDITION = {"Null": {"s3:if-match": "false"}}

_Statement = dict[str, Any]


def document(subject: Subject) -> str:
    """Return the policy as JSON; empty where it would allow nothing."""
    statements = [*_keys(subject), *_store(subject)]
    if not statements:
        return ""
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, indent=2)


def _keys(subject: Subject) -> list[_Statement]:
    """Return a statement for each set of keys that have the same actions."""
    groups: dict[tuple[bool, tuple[str, ...]], list[str]] = defaultdict(list)
    for arn in sorted(subject.config.keys.aws):
        needed = _needed(subject, arn)
        for bound in (True, False):
            if names := {each.name for each in needed if each.bound is bound}:
                groups[bound, tuple(sorted(names))].append(arn)
    statements = []
    for number, ((bound, actions), arns) in enumerate(groups.items(), 1):
        statement: _Statement = {
            "Sid": f"{'Wraps' if bound else 'Keys'}{number}",
            "Effect": "Allow",
            "Action": list(actions),
            "Resource": arns,
        }
        statements.append(statement | ({"Condition": _CONDITION} if bound else {}))
    return statements


def _needed(subject: Subject, arn: str) -> list[Permission]:
    """Return what a key needs; KMS moves wraps between keys that one client reaches only."""
    needed = subject.permissions(KMS, f"{SCHEME}{arn}")
    if any(_is_reached(subject, arn, target) for target in subject.config.keys.aws):
        return needed
    return [each for each in needed if Power.MOVE_FROM not in each.powers]


def _is_reached(subject: Subject, arn: str, target: str) -> bool:
    tables = subject.config.keys.aws
    return (
        Power.MOVE_TO in subject.powers(f"{SCHEME}{target}")
        and region_of(arn) == region_of(target)
        and tables[arn].road == tables[target].road
    )


def _store(subject: Subject) -> list[_Statement]:
    found = subject.bucket("s3")
    if found is None:
        return []
    bucket, prefix = found
    arn = f"arn:{_partition(subject.config.store.region)}:s3:::{bucket}"
    folder = _literally(f"{prefix}/" if prefix else "")
    statements: list[_Statement] = []
    for power in subject.store_powers:
        if power is StorePower.REMOVE:
            statements += _removal(subject, f"{arn}/{folder}")
            continue
        under = folder + (RESERVED if power is StorePower.PUBLISH else "")
        statements.append(
            {
                "Sid": f"Store{power.title().replace('-', '')}",
                "Effect": "Allow",
                "Action": list(S3_OBJECTS[power]),
                "Resource": [f"{arn}/{under}*"],
            }
        )
        if power in S3_BUCKET:
            statements.append(_listing(arn, folder, S3_BUCKET[power]))
    return statements


def _removal(subject: Subject, under: str) -> list[_Statement]:
    """Return what lets contents be deleted, by condition only, and nothing else of the store.

    `s3:if-match`: user guide, "Enforce conditional deletes on Amazon S3 buckets".
    """
    store, actions = subject.config.store, list(S3_OBJECTS[StorePower.REMOVE])
    blob, sidecar = _literally(store.blob_suffix), _literally(store.sidecar_suffix)
    allowed: _Statement = {
        "Sid": "StoreRemove",
        "Effect": "Allow",
        "Action": actions,
        "Resource": [f"{under}*.~{'?' * 32}", f"{under}*{blob}", f"{under}{CLOCK}*"],
    }
    if blob and not sidecar.endswith(blob):
        return [allowed | {"Condition": _BY_CONDITION}]
    # Where a content has no suffix of its own, every name ends as one.
    kept = [f"*{sidecar}", CONTROL, AUDIT_HEAD, MARK]
    refused = allowed | {
        "Sid": "StoreKeep",
        "Effect": "Deny",
        "Resource": [under + name for name in kept],
    }
    return [allowed | {"Condition": _BY_CONDITION}, refused]


def _listing(arn: str, folder: str, actions: tuple[str, ...]) -> _Statement:
    statement: _Statement = {
        "Sid": "StoreList",
        "Effect": "Allow",
        "Action": list(actions),
        "Resource": [arn],
    }
    if not folder:
        return statement
    # A read of an absent object has no prefix; it is answered as absent only to who may list.
    return statement | {"Condition": {"StringLikeIfExists": {"s3:prefix": [f"{folder}*"]}}}


def _literally(text: str) -> str:
    """Escape what has a meaning in a policy (user guide, "IAM policy elements: variables")."""
    return re.sub(r"[*?$]", lambda found: f"${{{found[0]}}}", text)


def _partition(region: str) -> str:
    """Return the partition of a Region (general reference, "Amazon Resource Names")."""
    if region.startswith("cn-"):
        return "aws-cn"
    return "aws-us-gov" if region.startswith("us-gov-") else "aws"
