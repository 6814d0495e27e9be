"""What tests of key services share: secrets to look for, and where they must not stand."""

import base64
import traceback

from keywrap.datakey import DataKey

CONTEXT = {"blob_id": "tenants/7/invoice.pdf"}
SECRET = bytes(range(100, 132))
DATA_KEY = DataKey(SECRET)


def forms(secret: bytes) -> tuple[str, ...]:
    """Return the ways in which bytes may stand in a text."""
    plain = base64.b64encode(secret).decode().rstrip("=")
    url = base64.urlsafe_b64encode(secret).decode().rstrip("=")
    return secret.hex(), plain, url, repr(secret)[2:-1]


def shown(error: BaseException) -> str:
    """Return an error as a reporter shows it that writes down each frame's local variables."""
    trace = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join(trace.format()) + repr(vars(error))


def hides(error: BaseException, *wraps: bytes) -> bool:
    """Whether an error shows no data key, not even in a frame, and no wrap in what it says."""
    frames = shown(error)
    said = "".join(traceback.format_exception(error)) + repr(vars(error))
    return not [form for form in forms(SECRET) if form in frames] and not [
        form for wrap in wraps for form in forms(wrap) if form in said
    ]
