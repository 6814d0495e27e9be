"""What the errors of Key Vault mean: which of the four kinds, and what an operator can do.

Codes: https://learn.microsoft.com/azure/key-vault/general/rest-error-codes. No message repeats a
text of the service, which could echo a request; only codes are taken from it.
"""

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from azure.core import exceptions
from azure.identity import CredentialUnavailableError

from keywrap.kms import DeniedError, KmsError, RefusedError, ThrottledError, UnavailableError
from keywrap.providers.calls import RestError

_CODE = re.compile(r"[A-Za-z][A-Za-z0-9]{2,63}")
_MAX_BODY = 64 * 1024

_PERMISSIONS: Mapping[str, str] = {
    "get": "keys/get",
    "list": "keys/list",
    "rotate": "keys/rotate",
    "update": "keys/update",
    "wrapkey": "keys/wrapKey",
    "unwrapkey": "keys/unwrapKey",
    "encrypt": "keys/encrypt",
    "decrypt": "keys/decrypt",
}
_OPENING = frozenset({"unwrapkey", "decrypt"})

_FORBIDDEN = (
    ("disabled", "version_disabled", "the KEK version is disabled; enable it, if wraps need it"),
    ("expired", "key_expired", "the KEK version has expired"),
    ("not yet valid", "key_not_yet_valid", "the KEK version is not valid yet"),
    ("firewall", "network_denied", "the vault's firewall does not let this host in"),
)
_DENIED: Mapping[int, tuple[str, str]] = {
    HTTPStatus.UNAUTHORIZED: ("credentials_refused", "the vault does not accept the credentials"),
    HTTPStatus.NOT_FOUND: ("key_not_found", "there is no such key or version"),
    HTTPStatus.CONFLICT: ("key_invalid_state", "the key's state does not allow this"),
}
_WAIT = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.FAILED_DEPENDENCY})


def translate(error: Exception, operation: str, key: str) -> KmsError:
    """Turn what a client raised into an error of ours that carries nothing of the request.

    Args:
        error: what azure-core or azure-identity raised.
        operation: such as `unwrapkey`.
        key: URI of the KEK.

    Returns:
        One of the four kinds; a `RestError` where the service says how long to stay away. A
        request to open a wrap that the vault calls bad is refused; whether the wrap is to blame or
        the key, the vault does not say.
    """
    if isinstance(error, exceptions.DecodeError) and _was_done(error):
        return UnavailableError.about(key, f"the answer to {operation} is none", "answer_malformed")
    if isinstance(error, exceptions.HttpResponseError) and error.response is not None:
        return _answered(error, operation, key)
    name = type(error).__name__
    if isinstance(error, CredentialUnavailableError):
        return DeniedError.about(
            key, "this process finds no usable Azure credentials", "credentials_missing"
        )
    if isinstance(error, exceptions.ClientAuthenticationError):
        return DeniedError.about(
            key,
            f"Azure does not accept the credentials of this process ({name})",
            "credentials_refused",
        )
    return UnavailableError.about(key, f"no answer to {operation} ({name})")


def _was_done(error: exceptions.HttpResponseError) -> bool:
    status = getattr(error.response, "status_code", HTTPStatus.OK)
    return int(status) < HTTPStatus.BAD_REQUEST


def _answered(error: exceptions.HttpResponseError, operation: str, key: str) -> KmsError:
    response: Any = error.response
    status = int(response.status_code)
    code, text = _code_and_text(response)
    about = f"({operation}, HTTP {status}{f' {code}' if code else ''})"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        sentence = f"{key}: the vault is asked too often {about}"
        rest_s = _seconds(response.headers.get("Retry-After", ""))
        if rest_s:
            return RestError(sentence, key=key, rest_s=rest_s)
        return ThrottledError(sentence, key=key)
    kind, reason_code, sentence = _meaning(status, code, text, operation)
    return kind(f"{key}: {sentence} {about}", key=key, reason_code=reason_code)


def _meaning(status: int, code: str, text: str, operation: str) -> tuple[type[KmsError], str, str]:
    if status == HTTPStatus.FORBIDDEN:
        said = f"{code} {text}".lower()
        for word, reason_code, sentence in _FORBIDDEN:
            if word in said:
                return DeniedError, reason_code, sentence
        what = _PERMISSIONS.get(operation, operation)
        return DeniedError, "permission_denied", f"this principal has no permission for {what}"
    if status == HTTPStatus.BAD_REQUEST and operation in _OPENING:
        return RefusedError, "wrap_does_not_open", "the wrap does not open"
    if status in _DENIED:
        return DeniedError, *_DENIED[status]
    is_refusal = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
    if is_refusal and status not in _WAIT:
        return DeniedError, "request_refused", "the vault refuses the request"
    return UnavailableError, UnavailableError.reason_code, "the vault does not do it now"


def _code_and_text(response: Any) -> tuple[str, str]:  # noqa: ANN401 - of two kinds in azure-core
    """Return the innermost error code of an answer, and the service's text, lest it be shown."""
    try:
        document = json.loads(response.text()[:_MAX_BODY])["error"]
        inner = document.get("innererror") or {}
        code, text = str(inner.get("code") or document.get("code")), str(document.get("message"))
    except Exception:  # noqa: BLE001 - an answer of no form says nothing more than its status
        return "", ""
    return (code if _CODE.fullmatch(code) else ""), text


def _seconds(text: str) -> float:
    return float(text) if text.isdecimal() and len(text) < 6 else 0.0  # noqa: PLR2004 - a day
