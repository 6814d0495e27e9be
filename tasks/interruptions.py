"""What an interrupted batch means for its shard and campaign."""

from keywrap.kms import KmsError, ProofFailedError, ThrottledError
from keywrap.stores import StoreUnavailableError
from ledger import blocking, campaigns, shards
from ledger.connection import Connection
from ledger.shards import Lease
from ledger.states import State

_SLOW_DOWN_S = 2.0


Stop = KmsError | StoreUnavailableError | ProofFailedError
"""Why a batch was stopped, or some of its blobs were held up."""


def settle(connection: Connection, lease: Lease, cause: Stop) -> None:
    """Hand the shard back and say why the campaign waits.

    A key or service that refuses as a whole blocks the campaign, which goes on by itself when it
    is mended; a failed proof stops it until a person has looked. Nothing is quarantined by either.
    """
    shards.hand_back(connection, lease, _SLOW_DOWN_S if isinstance(cause, ThrottledError) else 0)
    campaign_id = lease.campaign.id
    if isinstance(cause, ProofFailedError):
        campaigns.step(
            connection,
            campaign_id,
            State.STOPPED,
            reason_code="proof_failed",
            reason=str(cause),
        )
    elif not isinstance(cause, ThrottledError):
        blocking.block(connection, campaign_id, cause.reason_code, str(cause))
