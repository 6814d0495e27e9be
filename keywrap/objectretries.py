"""How long a bucket that does not answer is asked again."""

import tenacity

from keywrap.stores import StoreUnavailableError

ATTEMPTS = 4
RETRY_FOR_S = 20.0
"""Retries end a hiccup. Waiting out an outage is the ledger's business."""


class UnansweredError(StoreUnavailableError):
    """To be tried again."""


def retrying(first_wait_s: float) -> tenacity.Retrying:
    """Return what makes an attempt again for as long as it raises `UnansweredError`.

    Args:
        first_wait_s: the most that it waits before the second attempt, in seconds.
    """
    return tenacity.Retrying(
        stop=tenacity.stop_any(
            tenacity.stop_after_attempt(ATTEMPTS), tenacity.stop_after_delay(RETRY_FOR_S)
        ),
        wait=tenacity.wait_random_exponential(multiplier=first_wait_s, max=2.0),
        retry=tenacity.retry_if_exception_type(UnansweredError),
        reraise=True,
    )
