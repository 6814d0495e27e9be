"""How fast the key service of a campaign is asked just now, read from the broker."""

from collections.abc import Mapping
from typing import Any

from ledger.campaigns import Campaign
from workers.settings import Settings


def of(settings: Settings, campaign: Campaign) -> Mapping[str, Any] | None:
    """Return how fast a campaign's KEK is asked; None where nothing paces it, or Redis is away."""
    target = campaign.target
    if target is None or campaign.is_finished or not settings.broker.url:
        return None
    if settings.pace.ceiling(target.key) is None and campaign.max_rate is None:
        return None
    from redis.exceptions import RedisError  # noqa: PLC0415 - slow to load, and most are not paced

    from workers import pacing  # noqa: PLC0415 - likewise

    try:
        with pacing.connect(settings.broker.url) as client:
            return pacing.read(client, settings.pace, target.key, campaign.max_rate)
    except (RedisError, OSError, ValueError):
        return None
