"""What `seal`, `undo` and `sweep` follow: a finished campaign of the right kind."""

from collections.abc import Collection
from dataclasses import dataclass

from ledger.campaigns import Campaign
from ledger.states import Kind
from scheduler.desk import REFUSED, USAGE, Desk, DeskError


@dataclass(frozen=True, slots=True)
class Followed:
    """What a campaign must have been so that something follows it.

    Attributes:
        kinds: its kind.
        left: what those of other kinds have not left.
        reason_code: of the refusal of another kind.
        untouched: what is said to be as it was.
    """

    kinds: Collection[Kind]
    left: str
    reason_code: str
    untouched: str

    def require(self, desk: Desk, campaign_id: int, while_open: str) -> Campaign:
        """Return a campaign that can be followed.

        Args:
            desk: the operator's desk.
            campaign_id: the campaign.
            while_open: what to type where it is not finished.

        Raises:
            DeskError: there is none of that id, of another kind, or not finished.
        """
        followed = desk.campaign(campaign_id)
        if followed.kind not in self.kinds or followed.target is None:
            raise DeskError(
                f"campaign {campaign_id} is of kind {followed.kind}: it has left no {self.left}; "
                f"{self.untouched}",
                exit_code=USAGE,
                reason_code=self.reason_code,
                next_command="rewrap status",
            )
        if not followed.is_finished:
            raise DeskError(
                f"campaign {campaign_id} is {followed.state}; {self.untouched}",
                exit_code=REFUSED,
                reason_code="campaign_open",
                next_command=while_open,
            )
        return followed
