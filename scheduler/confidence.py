"""What a random sample proves about all: the Clopper-Pearson upper bound for no failure in n.

C. J. Clopper and E. S. Pearson, "The use of confidence or fiducial limits illustrated in the case
of the binomial", Biometrika 26 (1934): with no failure in n, the bound at 99% is 1 - 0.01^(1/n).
"""

import math

_DOUBT = 0.01
_PER_MILLION = 1_000_000
_SHOWN = 100_000  # steps of the three digits that a percentage is shown with


def upper_bound(opened: int) -> float:
    """Return the share of bad blobs that a sample without one excludes with 99% confidence.

    Args:
        opened: how many random blobs were opened, all of them sound.

    Returns:
        A share from 0 to 1; 1 where nothing was opened.
    """
    return 1.0 - _DOUBT ** (1.0 / opened) if opened else 1.0


def bound_ppm(opened: int) -> int:
    """Return `upper_bound` in parts per million, rounded up: never better than what is proved."""
    return math.ceil(upper_bound(opened) * _PER_MILLION)


def sentence(opened: int, bad: int, *, everything: bool, prefix: bool = False) -> str:
    """Say what it proves that so many blobs were opened.

    Args:
        opened: how many opened.
        bad: how many did not.
        everything: whether these are all there are, and no sample of them.
        prefix: whether only blobs of one prefix were looked at.
    """
    which = " with that prefix" if prefix else ""
    if bad:
        return f"{bad:,} of {opened + bad:,} blobs do not open: see which, and why"
    if everything:
        return f"all were read: every one of {opened:,} blobs{which} opens, content and all"
    # Rounded up at the digits that are shown, since a bound rounded down is none.
    bound = math.ceil(upper_bound(opened) * _SHOWN) / _SHOWN
    return (
        f"none of {opened:,} random blobs fails: with 99% confidence fewer than {bound:.3%} of all "
        f"blobs{which} do"
    )
