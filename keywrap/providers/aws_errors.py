"""What the errors of AWS KMS mean: which of the four kinds, and what an operator can do.

Codes: https://docs.aws.amazon.com/kms/latest/APIReference/CommonErrors.html and the page of each
operation. No message repeats a text of the service, which could echo a request; only names that
have the form of a code, an action, an ARN or a request id are taken from it.
"""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from botocore.exceptions import (
    ClientError,
    ConfigNotFound,
    ConfigParseError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
)

from keywrap.kms import DeniedError, KmsError, RefusedError, ThrottledError, UnavailableError
from keywrap.providers.aws_arn import SCHEME

_ACTION = re.compile(r"\bkms:[A-Za-z]{3,64}\b")
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9]{2,63}")
_KEY_ARN = re.compile(r"\barn:aws[a-z-]*:kms:[a-z0-9-]{5,32}:[0-9]{12}:key/[A-Za-z0-9-]{1,64}")
_PRINCIPAL = re.compile(r"\barn:aws[a-z-]*:(?:iam|sts)::[0-9]{12}:[A-Za-z0-9_+=,.@/-]{1,512}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9-]{8,64}")

_NO_CREDENTIALS = (
    ConfigNotFound,
    ConfigParseError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
)

_THROTTLED = frozenset(
    {
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)

_UNAVAILABLE = frozenset(
    {
        "DependencyTimeoutException",
        "InternalFailure",
        "KMSInternalException",
        "KeyUnavailableException",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
    }
)

_CREDENTIALS = "AWS does not accept the credentials of this process"
_EXPIRED = "the credentials of this process have expired"
_SIGNATURE = "AWS does not accept the signature: wrong credentials, or a clock that is off"
_NO_ROTATION_LEFT = (
    "KMS rotates a key on demand 25 times and no more; list a new key and move the wraps to it: "
    "rewrap start rotate --to NEW-KEY"
)

_DENIED = {
    "DisabledException": ("key_disabled", "the key is disabled"),
    "ExpiredToken": ("credentials_expired", _EXPIRED),
    "ExpiredTokenException": ("credentials_expired", _EXPIRED),
    "IncompleteSignature": ("credentials_refused", _CREDENTIALS),
    "IncompleteSignatureException": ("credentials_refused", _CREDENTIALS),
    "InvalidClientTokenId": ("credentials_refused", _CREDENTIALS),
    "InvalidKeyUsageException": ("key_usage", "the key is not for encrypting and decrypting"),
    "InvalidSignatureException": ("credentials_refused", _SIGNATURE),
    "LimitExceededException": ("rotation_limit", _NO_ROTATION_LEFT),
    "MissingAuthenticationToken": ("credentials_refused", _CREDENTIALS),
    "MissingAuthenticationTokenException": ("credentials_refused", _CREDENTIALS),
    "NotFoundException": ("key_not_found", "there is no such key in this account and Region"),
    "OptInRequired": ("account_not_ready", "the AWS account is not ready for KMS"),
    "RequestExpired": ("clock_is_off", "the request was too old: check this host's clock"),
    "SignatureDoesNotMatch": ("credentials_refused", _SIGNATURE),
    "UnrecognizedClientException": ("credentials_refused", _CREDENTIALS),
    "UnsupportedOperationException": (
        "operation_unsupported",
        "KMS does not do this for a key of this kind",
    ),
}

_REFUSED = {
    "IncorrectKeyException": ("wrap_of_another_key", "the wrap was made under another KMS key"),
    "InvalidCiphertextException": ("wrap_does_not_open", "the wrap does not open"),
}

_PERMISSIONS = {"ReEncrypt": "kms:ReEncryptFrom and kms:ReEncryptTo"}


class DryRunPassedError(Exception):
    """A dry run would have succeeded, which KMS reports as an error."""


class RotationInProgressError(Exception):
    """An on-demand rotation of the key is in progress already."""


_SIGNALS: Mapping[str, type[Exception]] = {
    "DryRunOperationException": DryRunPassedError,
    "ConflictException": RotationInProgressError,
}


def translate(error: Exception, method: str, key: str) -> Exception:
    """Turn what a client raised into an error of ours that carries nothing of the request.

    Args:
        error: what boto3 or botocore raised.
        method: of boto3's client, such as `re_encrypt`.
        key: URI of the KEK.

    Returns:
        One of the four kinds, a `DryRunPassedError` or a `RotationInProgressError`.
    """
    operation = operation_of(method)
    if isinstance(error, ClientError):
        response: Mapping[str, Any] = error.response
        return _translate_answer(response, operation, key)
    name = type(error).__name__
    if isinstance(error, _NO_CREDENTIALS):
        return DeniedError.about(
            key, f"this process finds no usable AWS credentials ({name})", "credentials_missing"
        )
    return UnavailableError.about(key, f"no answer to {operation} ({name})")


def _translate_answer(response: Mapping[str, Any], operation: str, key: str) -> Exception:
    details = response.get("Error", {})
    code, text = str(details.get("Code", "")), str(details.get("Message", ""))
    if code in _SIGNALS:
        return _SIGNALS[code]()
    metadata = response.get("ResponseMetadata", {})
    kind, reason_code, sentence = _meaning(code, text, metadata.get("HTTPStatusCode", 0), operation)
    named = _KEY_ARN.search(text)  # a move has two keys: this says which of them refuses
    about = f"{SCHEME}{named[0]}" if named else key
    request = f"({operation}, request {request_id(metadata) or 'unknown'})"
    return kind(f"{about}: {sentence} {request}", key=key, reason_code=reason_code)


def _meaning(code: str, text: str, status: int, operation: str) -> tuple[type[KmsError], str, str]:
    named = code if _CODE.fullmatch(code) else f"HTTP {status}"
    if code in _REFUSED:
        return RefusedError, *_REFUSED[code]
    if code in _THROTTLED or status == HTTPStatus.TOO_MANY_REQUESTS:
        return ThrottledError, ThrottledError.reason_code, "a KMS request quota is exceeded"
    if code == "AccessDeniedException":
        return DeniedError, "permission_denied", _who_may_not_what(text, operation)
    if code == "KMSInvalidStateException":
        return DeniedError, *_state(text)
    if code in _UNAVAILABLE or not _is_refusal(status):
        return UnavailableError, UnavailableError.reason_code, f"KMS answers {named}"
    return DeniedError, *_DENIED.get(code, ("request_refused", f"KMS refuses: {named}"))


def _is_refusal(status: int) -> bool:
    return (
        HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
        and status != HTTPStatus.REQUEST_TIMEOUT
    )


def _who_may_not_what(text: str, operation: str) -> str:
    principal, action = _PRINCIPAL.search(text), _ACTION.search(text)
    who = principal[0] if principal else "this principal"
    what = action[0] if action else _PERMISSIONS.get(operation, f"kms:{operation}")
    return f"{who} has no permission for {what}"


def _state(text: str) -> tuple[str, str]:
    if "pending deletion" in text.lower():
        return "key_pending_deletion", "the key waits for its deletion"
    return "key_invalid_state", "the key's state does not allow this: see DescribeKey"


def operation_of(method: str) -> str:
    """Return the operation of a method of boto3's client: `ReEncrypt` of `re_encrypt`."""
    return "".join(part.capitalize() for part in method.split("_"))


def request_id(metadata: Mapping[str, Any]) -> str:
    """Return the id of a request as an answer's metadata names it; empty where it does not."""
    found = str(metadata.get("RequestId", ""))
    return found if _REQUEST_ID.fullmatch(found) else ""
