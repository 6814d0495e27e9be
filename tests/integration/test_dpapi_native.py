"""Windows' `CryptUnprotectData` through ctypes, against a double of it in C.

The double takes the very structures of dpapi.h, opens a toy format instead of a blob's, and notes
what it was given, what was freed and whether that had been wiped. What it cannot show is Windows.
"""

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from keywrap.dpapi.blob import Blob, NotOpenedError
from keywrap.dpapi.native import NativeDpapi, Windows, windows
from keywrap.keys import WrappedKey
from keywrap.kms import RefusedError
from keywrap.providers.dpapi import DpapiKeyProvider
from keywrap.testing.dpapi import Account

SOURCE = r"""
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
typedef struct { uint32_t cbData; unsigned char *pbData; } DATA_BLOB;
static uint32_t last_error, fail_with;
static unsigned char seen[8192], entropy[256], answer[256];
static uint32_t seen_bytes, entropy_bytes, flags_seen, answer_bytes, odd_arguments;
static uint32_t given, freed, dirty;
static void *handed_out; static uint32_t handed_bytes;

int CryptUnprotectData(DATA_BLOB *in, uint16_t **description, DATA_BLOB *more, void *reserved,
                       void *prompt, uint32_t flags, DATA_BLOB *out) {
  seen_bytes = in->cbData;
  memcpy(seen, in->pbData, in->cbData);
  entropy_bytes = more ? more->cbData : 0xFFFFFFFFu;
  if (more) memcpy(entropy, more->pbData, more->cbData);
  flags_seen = flags;
  odd_arguments = description != 0 || reserved != 0 || prompt != 0;
  if (fail_with) { last_error = fail_with; out->pbData = 0; out->cbData = 0; return 0; }
  out->cbData = answer_bytes;
  out->pbData = malloc(answer_bytes ? answer_bytes : 1);
  memcpy(out->pbData, answer, answer_bytes);
  handed_out = out->pbData; handed_bytes = answer_bytes; given++;
  last_error = 0xDEAD;  /* success leaves any error behind */
  return 1;
}
void *LocalFree(void *p) {
  unsigned char *bytes = p; uint32_t i;
  if (p != handed_out) abort();  /* a pointer that was cut to 32 bits */
  for (i = 0; i < handed_bytes; i++) dirty += bytes[i] != 0;
  freed++; free(p); return 0;
}
uint32_t last(void) { return last_error; }
void arrange(uint32_t error, const unsigned char *bytes, uint32_t count) {
  fail_with = error; memcpy(answer, bytes, count); answer_bytes = count;
}
uint32_t told(int what) {
  uint32_t all[] = {seen_bytes, entropy_bytes, flags_seen, odd_arguments, given, freed, dirty};
  return all[what];
}
const unsigned char *bytes_of(int what) { return what ? entropy : seen; }
"""
SEEN, ENTROPY, FLAGS, ODD, GIVEN, FREED, DIRTY = range(7)
NO_ENTROPY = 0xFFFFFFFF


class Double:
    """The double, and what it has noted."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.last.restype = ctypes.c_uint32
        library.told.restype = ctypes.c_uint32
        library.bytes_of.restype = ctypes.c_void_p
        self.dpapi = NativeDpapi(Windows.of(library, library, library.last))

    def arrange(self, answer: bytes = b"", error: int = 0) -> None:
        self._library.arrange(ctypes.c_uint32(error), answer, len(answer))

    def told(self, what: int) -> int:
        return int(self._library.told(what))

    def given(self, what: int) -> bytes:
        return ctypes.string_at(self._library.bytes_of(what), self.told(what))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("NOT PROVED: there is no C compiler, so no double of Windows' DPAPI")
    folder = tmp_path_factory.mktemp("double")
    (folder / "double.c").write_text(SOURCE)
    made = folder / "double.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(made), str(folder / "double.c")], check=True
    )
    return ctypes.CDLL(str(made))


@pytest.fixture
def double(library: ctypes.CDLL) -> Iterator[Double]:
    double = Double(library)
    yield double
    assert double.told(GIVEN) == double.told(FREED), "a buffer was not freed"
    assert double.told(DIRTY) == 0, "a buffer was freed with a key in it"


def blob_of(entropy: bytes = b"") -> Blob:
    return Blob.parse(Account(entropy=entropy).protect(bytes(32)))


@pytest.mark.parametrize("entropy", [b"", b"x", b"app\0", b"\0", bytes(range(200))])
@pytest.mark.parametrize("plain", [b"\xff" * 32, b"\0" * 16, b"a\0b", b""])
def test_windows_is_given_the_very_bytes_and_its_answer_is_taken_wiped_and_freed(
    double: Double, entropy: bytes, plain: bytes
) -> None:
    blob = blob_of(entropy)
    double.arrange(plain)
    assert double.dpapi.open(blob, entropy) == plain
    assert double.given(SEEN) == blob.data
    if entropy:
        assert double.given(ENTROPY) == entropy
    else:
        assert double.told(ENTROPY) == NO_ENTROPY, "no entropy is none, not an empty buffer"
    assert (double.told(FLAGS), double.told(ODD)) == (0x1, 0)  # CRYPTPROTECT_UI_FORBIDDEN


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (0x8009000B, "dpapi_other_account"),
        (0x2, "dpapi_profile_not_loaded"),
        (0xD, "dpapi_does_not_open"),
        (0x52D, "dpapi_prompt"),
        (0x5, "dpapi_windows_error"),
        (0x80090005, "dpapi_windows_error"),
    ],
)
def test_each_error_of_windows_is_a_refusal_of_this_wrap_with_its_number(
    double: Double, error: int, reason: str
) -> None:
    double.arrange(error=error)
    with pytest.raises(NotOpenedError) as refused:
        double.dpapi.open(blob_of(), b"")
    assert refused.value.reason_code == reason
    assert f"{error:#x}" in str(refused.value)


def test_the_provider_opens_by_windows_as_by_a_ring(double: Double) -> None:
    account = Account(entropy=b"app")
    provider = DpapiKeyProvider(account.guid, double.dpapi, b"app")
    double.arrange(bytes(range(32)))
    wrapped = WrappedKey(provider.current_version(), account.protect(bytes(32)))
    assert provider.unwrap(wrapped, {}).reveal() == bytes(range(32))
    double.arrange(b"no key of any length")
    with pytest.raises(RefusedError, match="no data key"):
        provider.unwrap(wrapped, {})
    double.arrange(error=0xD)
    with pytest.raises(RefusedError) as refused:
        provider.unwrap(wrapped, {})
    assert refused.value.reason_code == "dpapi_does_not_open"


def test_what_is_no_blob_never_reaches_windows(double: Double) -> None:
    account = Account()
    provider = DpapiKeyProvider(account.guid, double.dpapi)
    double.arrange(bytes(32))
    double.dpapi.open(blob_of(), b"")
    before = double.told(GIVEN)
    for data in (b"", bytes(300), account.protect(bytes(32))[:-1], Account().protect(bytes(32))):
        with pytest.raises(RefusedError):
            provider.unwrap(WrappedKey(provider.current_version(), data), {})
    assert double.told(GIVEN) == before


@pytest.mark.skipif(sys.platform == "win32", reason="this is Windows")
def test_elsewhere_windows_is_not_there_and_that_is_said() -> None:
    with pytest.raises(OSError, match="a ring opens blobs"):
        windows()


@pytest.mark.skipif(sys.platform != "win32", reason="NOT PROVED: this is not Windows")
def test_windows_itself_refuses_a_blob_of_another_account() -> None:
    with pytest.raises(NotOpenedError):
        NativeDpapi(windows()).open(blob_of(), b"")
