"""What opens a master key file: a password, an NT hash, DPAPI_SYSTEM, or the domain's backup key.

Only for making a ring, once: whoever opens blobs needs the ring and none of these.
"""

import hashlib
import hmac
import re
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.rsa import (
    RSAPrivateKey,
    RSAPrivateNumbers,
    RSAPublicNumbers,
)
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from keywrap.dpapi.crypto import sha1
from keywrap.dpapi.fields import CutShortError, Fields
from keywrap.dpapi.masterkey import MasterKeyFile, MasterKeyFileError
from keywrap.dpapi.secret import MasterKey

Credential = Callable[[MasterKeyFile], MasterKey]
"""Opens a master key file, or raises `MasterKeyFileError`."""

NT_HASH_BYTES = 16
DPAPI_SYSTEM_BYTES = 44

_SID = re.compile(r"S-1-(\d{1,14})(-\d{1,10}){1,15}")
_HALF_BYTES = 20
_PVK_MAGIC = 0xB0B5F11E
_BLOB_OF_RSA2 = bytes.fromhex("0702000000a40000") + b"RSA2"
_MAX_MODULUS_BITS = 16_384


class CredentialError(ValueError):
    """A credential is not written as it must be; never shows it."""


def password(text: str, sid: str) -> Credential:
    """Make a local account's credential; a domain account needs its NT hash instead.

    A domain account's key is derived from the NT hash, an MD4, which OpenSSL 3 does not give.

    Args:
        text: the password.
        sid: the account's SID, such as `S-1-5-21-…-1001`.

    Raises:
        CredentialError: the SID is none.
    """
    prekeys = prekeys_of_password(text, sid)

    def open_key(file: MasterKeyFile) -> MasterKey:
        try:
            return file.key.open(prekeys)
        except MasterKeyFileError as error:
            if file.domain is None:
                raise
            raise MasterKeyFileError(
                f"{error}; the account is a domain's, so give its NT hash instead of its password"
            ) from None

    return open_key


def nt_hash(value: bytes, sid: str) -> Credential:
    """Make a domain account's credential.

    Since Windows 10 1607 the NT hash goes through PBKDF2 first; before, it was taken as it is.

    Args:
        value: the NT hash, 16 bytes.
        sid: the account's SID.

    Raises:
        CredentialError: the hash has another length, or the SID is none.
    """
    prekeys = prekeys_of_nt_hash(value, sid)
    return lambda file: file.key.open(prekeys)


def prekeys_of_password(text: str, sid: str) -> list[bytes]:
    """Return what a local account's password gives for the blocks of its files."""
    return [_with_sid(sha1(text.encode("utf-16-le", "surrogatepass")), sid)]


def prekeys_of_nt_hash(value: bytes, sid: str) -> list[bytes]:
    """Return what an NT hash gives: on Windows 10 1607 and later, and before."""
    if len(value) != NT_HASH_BYTES:
        raise CredentialError(f"an NT hash has 16 bytes, not {len(value)}")
    salt = sid.encode("utf-16-le")
    derived = hashlib.pbkdf2_hmac("sha256", value, salt, 10_000)
    derived = hashlib.pbkdf2_hmac("sha256", derived, salt, 1, NT_HASH_BYTES)
    return [_with_sid(derived, sid), _with_sid(value, sid)]


def dpapi_system(secret: bytes) -> Credential:
    """Make the machine's credential: it opens the files of SYSTEM and of the service accounts.

    Args:
        secret: the LSA secret DPAPI_SYSTEM: version 1, the machine's key, SYSTEM's own.

    Raises:
        CredentialError: it is none.
    """
    if len(secret) != DPAPI_SYSTEM_BYTES or secret[:4] != b"\x01\0\0\0":
        raise CredentialError("DPAPI_SYSTEM has 44 bytes and begins with 01000000")
    halves = [secret[4 : 4 + _HALF_BYTES], secret[4 + _HALF_BYTES :]]
    return lambda file: file.key.open(halves)


def domain_backup_key(data: bytes) -> Credential:
    """Make a domain's credential: it opens the domain's copy in the file of each of its users.

    Args:
        data: the RSA key: a PVK file (`mimikatz`, `impacket`), or PEM without a password.

    Raises:
        CredentialError: it is none.
    """
    key = _pem(data) if data.lstrip().startswith(b"-----BEGIN") else _pvk(data)

    def open_copy(file: MasterKeyFile) -> MasterKey:
        if file.domain is None:
            raise MasterKeyFileError(
                "it holds no domain's copy: the account is a local one, or a service's"
            )
        return file.domain.open(key)

    return open_copy


def _with_sid(hashed: bytes, sid: str) -> bytes:
    if not _SID.fullmatch(sid):
        raise CredentialError("a SID is written as S-1-5-21-…-1001")
    return hmac.digest(hashed, (sid + "\0").encode("utf-16-le"), "sha1")


def _pem(data: bytes) -> RSAPrivateKey:
    try:
        key = load_pem_private_key(data, None)
    except (ValueError, TypeError):
        key = None  # what the library says may show a part of it
    if not isinstance(key, RSAPrivateKey):
        raise CredentialError("it is no RSA private key in PEM without a password")
    return key


def _pvk(data: bytes) -> RSAPrivateKey:
    """Read a PVK file: 24 bytes of header, then a PRIVATEKEYBLOB (wincrypt.h, RSAPUBKEY)."""
    malformed = CredentialError("it is neither PEM nor a sound PVK file without a password")
    try:
        fields = Fields(data)
        magic, _, _, encrypted, salt_bytes, key_bytes = (fields.integer() for _ in range(6))
        if (magic, encrypted, salt_bytes, key_bytes) != (_PVK_MAGIC, 0, 0, fields.left):
            raise malformed
        if fields.take(len(_BLOB_OF_RSA2)) != _BLOB_OF_RSA2:
            raise malformed
        bits, exponent = fields.integer(), fields.integer()
        if bits > _MAX_MODULUS_BITS or bits % 16:
            raise malformed
        whole, half = bits // 8, bits // 16
        modulus, p, q = fields.integer(whole), fields.integer(half), fields.integer(half)
        dp, dq, inverse = (fields.integer(half) for _ in range(3))
        private = fields.integer(whole)
    except CutShortError:
        raise malformed from None
    public = RSAPublicNumbers(exponent, modulus)
    try:
        return RSAPrivateNumbers(p, q, private, dp, dq, inverse, public).private_key()
    except ValueError:
        raise malformed from None
