"""What the errors of a PKCS#11 module mean. They hold a name each, and no key."""

from pkcs11 import exceptions as p11

from keywrap.kms import DeniedError, UnavailableError

INTEGRITY = (
    p11.GeneralError,
    p11.EncryptedDataInvalid,
    p11.EncryptedDataLenRange,
    p11.WrappedKeyInvalid,
    p11.WrappedKeyLenRange,
    p11.DataInvalid,
    p11.DataLenRange,
    p11.FunctionFailed,
    p11.SignatureInvalid,
)
"""What modules say of a wrap that does not open, and some of them of a broken token too.

SoftHSM 2.6.1 says `CKR_GENERAL_ERROR` for both.
"""

_PIN = (
    p11.PinIncorrect,
    p11.PinInvalid,
    p11.PinLenRange,
    p11.PinLocked,
    p11.PinExpired,
)

_REFUSES = (
    p11.AnotherUserAlreadyLoggedIn,
    p11.ArgumentsBad,
    p11.AttributeReadOnly,
    p11.AttributeSensitive,
    p11.AttributeTypeInvalid,
    p11.AttributeValueInvalid,
    p11.FunctionNotSupported,
    p11.FunctionRejected,
    p11.KeyNotWrappable,
    p11.KeySizeRange,
    p11.KeyTypeInconsistent,
    p11.KeyUnextractable,
    p11.MechanismInvalid,
    p11.MechanismParamInvalid,
    p11.MultipleTokensReturned,
    p11.SessionReadOnly,
    p11.TemplateIncomplete,
    p11.TemplateInconsistent,
    p11.TokenWriteProtected,
    p11.UnwrappingKeySizeRange,
    p11.UnwrappingKeyTypeInconsistent,
    p11.UserTooManyTypes,
    p11.WrappingKeySizeRange,
    p11.WrappingKeyTypeInconsistent,
)
"""What waiting does not mend: the token, or the key as a whole, does not do this."""

# python-pkcs11 0.10 has no class for these two.
_KEY_FUNCTION_NOT_PERMITTED = "0x68"
_ACTION_PROHIBITED = "0x1b"


class ModuleNotStartedError(p11.PKCS11Error):
    """The module does not initialise; the message says what it said."""


def is_pin_refused(error: p11.PKCS11Error) -> bool:
    """Whether a login failed by its PIN; trying it again may lock the token."""
    return isinstance(error, _PIN)


def not_permitted(error: p11.PKCS11Error) -> bool:
    """Whether the key's attributes do not let it be used for this."""
    return str(error).endswith(_KEY_FUNCTION_NOT_PERMITTED)


def is_fixed(error: p11.PKCS11Error) -> bool:
    """Whether an attribute cannot be changed."""
    return isinstance(error, p11.AttributeReadOnly) or str(error).endswith(_ACTION_PROHIBITED)


def said(error: p11.PKCS11Error) -> str:
    """Return what the module said, without its arguments."""
    # The class alone stands for what has none of its own: then the text tells.
    plain = type(error) in {p11.PKCS11Error, ModuleNotStartedError}
    return str(error) if plain else type(error).__name__


def denied(error: p11.PKCS11Error, key: str) -> DeniedError | None:
    """Turn an error that waiting does not mend into ours; None for any other.

    Args:
        error: what the module said.
        key: URI of the KEK.
    """
    if not_permitted(error):
        return DeniedError.about(
            key,
            "the token says that this version of the key is disabled, or was never meant "
            "for this mechanism",
            "version_disabled",
        )
    if "exception while loading" in str(error):
        return DeniedError.about(key, f"`module` is no PKCS#11 library: {error}", "module_unusable")
    if isinstance(error, _REFUSES) or str(error).endswith(_ACTION_PROHIBITED):
        return DeniedError.about(key, f"the token refuses ({said(error)})", "token_refuses")
    return None


def unavailable(error: p11.PKCS11Error, key: str) -> UnavailableError:
    """Turn any other error into ours: the session, the token or the module is gone.

    Args:
        error: what the module said.
        key: URI of the KEK.
    """
    hint = ""
    if isinstance(error, (p11.NoSuchToken, ModuleNotStartedError)):
        hint = "; is the HSM connected, and for SoftHSM, is SOFTHSM2_CONF in this environment?"
    return UnavailableError.about(
        key, f"the token does not answer ({said(error)}){hint}", "token_not_found" if hint else ""
    )
