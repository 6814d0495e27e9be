"""DPAPI master keys: what a migration moves away from.

A KEK is one master key, `dpapi:<guid>`, and Windows makes a new one about every 90 days. So one
table of the configuration stands for all master keys of an account or machine: a family. It opens
them either as that account, on Windows itself, or elsewhere from a ring of exported keys. A wrap
is bound to no blob; a campaign proves each data key against the blob's content.
"""

from collections.abc import Callable
from typing import ClassVar, Literal, Protocol

from keywrap.datakey import DataKey
from keywrap.dpapi.blob import BadBlobError, Blob, NotOpenedError
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import Context, DeniedError
from keywrap.providers.env import Encoding, EnvKeyError, parse_key
from keywrap.providers.telling import Telling

PREFIX = "dpapi:"

Inner = Literal["raw", "hex", "base64", "utf16-hex", "utf16-base64"]
"""How the data key is written inside a blob. PowerShell's `ConvertFrom-SecureString` wraps text in
UTF-16."""

_ENCODINGS: dict[Inner, Encoding] = {
    "raw": "raw",
    "hex": "hex",
    "base64": "base64",
    "utf16-hex": "hex",
    "utf16-base64": "base64",
}


class Opener(Protocol):
    """Opens blobs: a ring, or Windows."""

    def open(self, blob: Blob, entropy: bytes) -> bytes:
        """Return what a blob wraps.

        Raises:
            NotOpenedError: it does not open here.
        """


class DpapiKeyProvider(Telling):
    """Opens the blobs of one master key. Holds no connection; for many threads.

    Args:
        master_key: its GUID, in lower case; the URI is `dpapi:<guid>`.
        opener: opens blobs.
        entropy: the additional entropy of all of them; empty for none.
        inner: how the data key is written in them.
    """

    binds_context: ClassVar[bool] = False
    proves_wraps: ClassVar[bool] = False

    def __init__(
        self, master_key: str, opener: Opener, entropy: bytes = b"", inner: Inner = "raw"
    ) -> None:
        self.key = PREFIX + master_key
        self.requests = 0
        self._master_key = master_key
        self._opener = opener
        self._entropy = entropy
        self._inner = inner

    def current_version(self) -> KeyVersion:
        """Return the master key itself: it has no versions."""
        return KeyVersion(self.key)

    def wrap(self, _data_key: DataKey, _context: Context) -> WrappedKey:
        """Wrap nothing: DPAPI is moved away from.

        Raises:
            DeniedError: always.
        """
        raise wraps_nothing(self.key)

    def unwrap(self, wrapped: WrappedKey, _context: Context) -> DataKey:
        """Open a wrap.

        Raises:
            RefusedError: it is no blob of this master key, does not open here, or holds what is
                no AES key.
        """
        if wrapped.key_version != self.current_version():
            raise self.refused("the wrap names another key", "wrap_of_another_key")
        try:
            blob = Blob.parse(wrapped.ciphertext)
            if blob.master_key != self._master_key:
                raise self.refused(f"the blob is of {blob.master_key}", "wrap_of_another_key")
            plain = self._opener.open(blob, self._entropy)
        except (BadBlobError, NotOpenedError) as error:
            raise self.refused(str(error), error.reason_code) from None
        return self._data_key(plain)

    def _data_key(self, plain: bytes) -> DataKey:
        try:
            text = plain
            if self._inner.startswith("utf16-"):
                text = plain.decode("utf-16-le").encode("ascii")
            return parse_key(text, _ENCODINGS[self._inner])
        except UnicodeError:
            why = "it is not text in UTF-16"
        except EnvKeyError as error:
            why = str(error)
        raise self.refused(
            f'the blob opens, but what it holds is no data key written as inner = "{self._inner}": '
            f"{why}",
            "inner_key_malformed",
        )


def wraps_nothing(key: str) -> DeniedError:
    """Return what a legacy key says that is asked to wrap."""
    return DeniedError.about(
        key, "DPAPI only unwraps; no new wrap is made under it", "legacy_key_wraps_nothing"
    )


class DpapiFamily:
    """The master keys of one Windows account or machine, as one table lists them.

    Args:
        claims: whether a key's URI is one of them.
        opener: opens their blobs.
        entropy: the additional entropy of these blobs.
        inner: how the data key is written in them.
    """

    def __init__(
        self,
        claims: Callable[[str], bool],
        opener: Opener,
        entropy: bytes = b"",
        inner: Inner = "raw",
    ) -> None:
        self._claims = claims
        self._opener = opener
        self._entropy = entropy
        self._inner = inner

    def __contains__(self, key: str) -> bool:
        """Whether a key is one of them."""
        return self._claims(key)

    def provider(self, key: str) -> DpapiKeyProvider:
        """Return the provider of one of them."""
        guid = key.removeprefix(PREFIX)
        return DpapiKeyProvider(guid, self._opener, self._entropy, self._inner)

    def unprotect(self, blob: Blob) -> bytes:
        """Return what a blob holds, whatever it is: the key of another scheme.

        Raises:
            NotOpenedError: it does not open here.
        """
        return self._opener.open(blob, self._entropy)
