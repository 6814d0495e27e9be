"""Windows' own DPAPI, by ctypes: for workers that run as the account that made the blobs.

Nothing is exported then: Windows finds the master key. `CryptUnprotectData` (dpapi.h) gives a
buffer of its own, which is wiped and freed here.
"""

import ctypes
import sys
from collections.abc import Callable
from ctypes import POINTER, Structure, byref, c_char, c_int, c_uint32, c_void_p, c_wchar_p, cast
from dataclasses import dataclass
from typing import Any

from keywrap.dpapi.blob import Blob, NotOpenedError

UI_FORBIDDEN = 0x1
"""CRYPTPROTECT_UI_FORBIDDEN: a blob that wants a prompt fails, and does not hang a service."""

_NOT_FOUND = (
    "Windows does not find its master key: it is another account's, or the profile of this one is "
    "not loaded"
)
_REASONS = {
    # NTE_BAD_KEY_STATE
    0x8009000B: ("dpapi_other_account", "another account's, or its password was reset since"),
    # ERROR_FILE_NOT_FOUND
    0x2: ("dpapi_profile_not_loaded", _NOT_FOUND),
    # ERROR_INVALID_DATA
    0xD: ("dpapi_does_not_open", "the entropy is another, or the blob is damaged"),
    # ERROR_PASSWORD_RESTRICTION
    0x52D: ("dpapi_prompt", "Windows would have to ask a person"),
}


class _DataBlob(Structure):
    """DATA_BLOB of wincrypt.h."""

    _fields_ = (("cbData", c_uint32), ("pbData", c_void_p))


@dataclass(frozen=True, slots=True)
class Windows:
    """The functions that are called.

    Attributes:
        unprotect: `CryptUnprotectData` of crypt32.dll.
        local_free: `LocalFree` of kernel32.dll.
        last_error: returns the calling thread's last error.
    """

    unprotect: Any
    local_free: Any
    last_error: Callable[[], int]

    @classmethod
    def of(cls, crypt32: Any, kernel32: Any, last_error: Callable[[], int]) -> "Windows":  # noqa: ANN401 - ctypes types no library
        """Take the functions of loaded libraries, and say what they take.

        Without that, ctypes passes pointers as 32-bit integers.
        """
        unprotect, local_free = crypt32.CryptUnprotectData, kernel32.LocalFree
        blob = POINTER(_DataBlob)
        unprotect.argtypes = [blob, POINTER(c_wchar_p), blob, c_void_p, c_void_p, c_uint32, blob]
        unprotect.restype = c_int
        local_free.argtypes = [c_void_p]
        local_free.restype = c_void_p
        return cls(unprotect, local_free, last_error)


def windows() -> Windows:
    """Return the functions of this Windows.

    Raises:
        OSError: this is not Windows.
    """
    if sys.platform == "win32":
        return Windows.of(
            ctypes.WinDLL("crypt32", use_last_error=True),
            ctypes.WinDLL("kernel32", use_last_error=True),
            ctypes.get_last_error,
        )
    raise OSError("DPAPI's own functions are those of Windows; elsewhere a ring opens blobs")


@dataclass(frozen=True, slots=True)
class NativeDpapi:
    """Opens blobs as the account of this process. May be used from many threads.

    Attributes:
        windows: the functions that are called.
    """

    windows: Windows

    def open(self, blob: Blob, entropy: bytes) -> bytes:
        """Return what a blob wraps.

        Raises:
            NotOpenedError: Windows refuses, with its error.
        """
        given, given_buffer = _given(blob.data)
        more, more_buffer = _given(entropy)
        made = _DataBlob(0, None)
        try:
            is_done = self.windows.unprotect(
                byref(given),
                None,
                byref(more) if entropy else None,
                None,
                None,
                UI_FORBIDDEN,
                byref(made),
            )
            if is_done:
                return ctypes.string_at(made.pbData, made.cbData) if made.pbData else b""
            error = self.windows.last_error()
        finally:
            # Both must outlive the call: the structures hold bare addresses.
            del given_buffer, more_buffer
            self._drop(made)
        raise _refusal(error)

    def _drop(self, made: _DataBlob) -> None:
        """Wipe and free what Windows gave."""
        if made.pbData:
            ctypes.memset(made.pbData, 0, made.cbData)
            self.windows.local_free(made.pbData)


def _given(data: bytes) -> tuple[_DataBlob, Any]:
    """Return a DATA_BLOB of exactly these bytes, and the buffer that it points to."""
    buffer = (c_char * len(data)).from_buffer_copy(data)
    return _DataBlob(len(data), cast(buffer, c_void_p)), buffer


def _refusal(error: int) -> NotOpenedError:
    code = error & 0xFFFFFFFF
    reason_code, message = _REASONS.get(code, ("dpapi_windows_error", "CryptUnprotectData fails"))
    return NotOpenedError(reason_code, f"{message} (Windows error {code:#x})")
