"""What a campaign would do with what a scan found, by the rules that its workers follow."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from keywrap.keyring import UnlistedKeyError
from keywrap.keys import KeyVersion
from ledger.campaigns import Campaign
from ledger.findings import CensusLine

VERSION_UNKNOWN = "key_version_unknown"


@dataclass(frozen=True, slots=True)
class Mix:
    """Blobs by what would become of them, as far as their sidecars tell.

    Attributes:
        moving: to be rewrapped, by the KEK version that wraps them.
        current: at the target already.
        excluded: left alone by rule, by the rule.
        problems: to be quarantined unopened, by reason code.
        pool: those that the plan's sample was drawn from.
    """

    moving: Counter[KeyVersion]
    current: int
    excluded: Counter[str]
    problems: Counter[str]
    pool: int

    @property
    def scanned(self) -> int:
        """How many blobs the scan found."""
        return self.current + sum(
            counts.total() for counts in (self.moving, self.excluded, self.problems)
        )


def mix_of(
    lines: Iterable[CensusLine],
    plan: Campaign,
    listed: Callable[[str], bool],
    exists: Callable[[KeyVersion], bool],
) -> Mix:
    """Sort what a plan's scan found.

    Args:
        lines: the census of its inventory.
        plan: the plan.
        listed: whether the configuration lists a KEK, by its URI without version.
        exists: whether the target's KEK has a version; asked of versions beyond the target only.
    """
    moving: Counter[KeyVersion] = Counter()
    excluded: Counter[str] = Counter()
    problems: Counter[str] = Counter()
    current = pool = 0
    for line in lines:
        version = KeyVersion(line.key, line.version)
        moves = bool(line.key) and plan.moves(version)
        pool += line.blobs * moves
        if line.problem or not line.blobs:
            problems[line.problem] += line.blobs
        elif not listed(line.key):
            problems[UnlistedKeyError.reason_code] += line.blobs
        elif moves:
            moving[version] += line.blobs
        elif plan.target is None or not version.satisfies(plan.target):
            excluded[f"not_{plan.selection}"] += line.blobs
        elif version == plan.target or exists(version):
            current += line.blobs
        else:
            problems[VERSION_UNKNOWN] += line.blobs
    return Mix(moving, current, excluded, +problems, pool)
