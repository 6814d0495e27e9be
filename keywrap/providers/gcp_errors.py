"""What the errors of Cloud KMS mean: which of the four kinds, and what an operator can do.

Codes: https://cloud.google.com/kms/docs/reference/rpc/google.rpc and
https://cloud.google.com/kms/docs/error-messages. No message repeats a text of the service, which
could echo a request; only permissions and states are taken from it.
"""

import re
from collections.abc import Mapping

from google.api_core import exceptions
from google.auth import exceptions as auth
from grpc import StatusCode

from keywrap.kms import DeniedError, KmsError, RefusedError, ThrottledError, UnavailableError

_PERMISSION = re.compile(r"\bcloudkms\.[A-Za-z]{3,40}\.[A-Za-z]{3,40}\b")
_STATE = re.compile(r"\b(DISABLED|DESTROYED|DESTROY_SCHEDULED|PENDING_[A-Z]{3,20}|[A-Z]+_FAILED)\b")

_PERMISSIONS: Mapping[str, str] = {
    "encrypt": "cloudkms.cryptoKeyVersions.useToEncrypt",
    "decrypt": "cloudkms.cryptoKeyVersions.useToDecrypt",
    "get_crypto_key": "cloudkms.cryptoKeys.get",
    "get_crypto_key_version": "cloudkms.cryptoKeyVersions.get",
    "list_crypto_key_versions": "cloudkms.cryptoKeyVersions.list",
    "create_crypto_key_version": "cloudkms.cryptoKeyVersions.create",
    "update_crypto_key_version": "cloudkms.cryptoKeyVersions.update",
    "update_crypto_key_primary_version": "cloudkms.cryptoKeys.update",
}

_REFUSED_CODES = frozenset(
    {
        StatusCode.INVALID_ARGUMENT,
        StatusCode.FAILED_PRECONDITION,
        StatusCode.NOT_FOUND,
        StatusCode.ALREADY_EXISTS,
        StatusCode.OUT_OF_RANGE,
        StatusCode.UNIMPLEMENTED,
    }
)


def translate(error: Exception, method: str, key: str) -> KmsError:
    """Turn what a client raised into an error of ours that carries nothing of the request.

    Args:
        error: what the client or google-auth raised.
        method: the client's method, such as `decrypt`.
        key: URI of the KEK.
    """
    if isinstance(error, auth.GoogleAuthError):
        return _credentials(error, key)
    if not isinstance(error, exceptions.GoogleAPICallError):
        return UnavailableError.about(key, f"no answer to {method} ({type(error).__name__})")
    code, text = error.grpc_status_code, str(error.message)
    kind, reason_code, sentence = _meaning(code, text, method)
    name = code.name if isinstance(code, StatusCode) else type(error).__name__
    return kind(f"{key}: {sentence} ({method}, {name})", key=key, reason_code=reason_code)


def _credentials(error: auth.GoogleAuthError, key: str) -> KmsError:
    name = type(error).__name__
    if isinstance(error, auth.TransportError) or getattr(error, "retryable", False):
        return UnavailableError.about(key, f"no access token can be had now ({name})")
    if isinstance(error, auth.DefaultCredentialsError):
        return DeniedError.about(
            key, f"this process finds no usable Google credentials ({name})", "credentials_missing"
        )
    return DeniedError.about(
        key,
        f"Google does not accept the credentials of this process ({name})",
        "credentials_refused",
    )


def _meaning(code: StatusCode | None, text: str, method: str) -> tuple[type[KmsError], str, str]:
    if code is StatusCode.RESOURCE_EXHAUSTED:
        return ThrottledError, ThrottledError.reason_code, "a quota of Cloud KMS is exceeded"
    if code is StatusCode.PERMISSION_DENIED:
        named = _PERMISSION.search(text)
        what = named[0] if named else _PERMISSIONS.get(method, "this")
        return DeniedError, "permission_denied", f"this principal has no permission for {what}"
    # google-auth raises in a thread of gRPC, which makes of it what it makes of no connection.
    if code is StatusCode.UNAUTHENTICATED or "invalid_grant" in text:
        return DeniedError, "credentials_refused", "Google does not accept the credentials"
    if code not in _REFUSED_CODES:
        return UnavailableError, UnavailableError.reason_code, "Cloud KMS does not do it now"
    if "crc32c" in text:
        # KMS got other bytes than were sent: nothing is wrong with the wrap.
        return UnavailableError, "request_damaged", "the request was damaged on its way"
    return _refusal(code, text, method)


def _refusal(code: StatusCode | None, text: str, method: str) -> tuple[type[KmsError], str, str]:
    if code is StatusCode.NOT_FOUND:
        return DeniedError, "key_not_found", "there is no such key or version"
    if code is StatusCode.FAILED_PRECONDITION:
        state = _STATE.search(text)
        if state:
            hint = "; enable or restore it, if wraps need it" if state[0] == "DISABLED" else ""
            return DeniedError, "version_not_enabled", f"the KEK version is {state[0]}{hint}"
        return DeniedError, "key_invalid_state", "the key's state or kind does not allow this"
    # Any other INVALID_ARGUMENT is about the request, and would be the same for every wrap.
    if method == "decrypt" and text.startswith("Decryption failed"):
        return RefusedError, "wrap_does_not_open", "the wrap does not open"
    return DeniedError, "request_refused", "Cloud KMS refuses the request"
