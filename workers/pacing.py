"""One pace for each KEK over all workers of all machines: token buckets in Redis.

A process borrows tokens for a twentieth of a second at a time, all of them or none, so that a
request costs no round trip. The clock is Redis' own. What the service throttles lowers the rate for
everybody (to 0.7 of it, at most once a second), and every second without raises it again (by a
twentieth of the ceiling, and slower near the rate that was too much). The ceiling is the
configuration's: what lies in Redis can only slow workers down. Where Redis is away each process
goes on with its own share.
"""

import logging
import math
import os
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import parse_qsl

from redis import Redis
from redis.exceptions import RedisError

from keywrap.keyring import KeyRing
from keywrap.pacing import Paced
from tasks import runtime
from workers.pace_table import Pace

logger = logging.getLogger(__name__)

_LUA = """
local ceiling, want, cut = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[4] == 'cut'
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local held = redis.call('HMGET', KEYS[1], 'rate', 'tokens', 'at', 'limit', 'cut_at', 'used')
local rate = math.min(tonumber(held[1]) or ceiling, ceiling)
local passed = math.max(0, math.min(now - (tonumber(held[3]) or now), 10))
local limit, cut_at = tonumber(held[4]) or 0, tonumber(held[5]) or 0
local step = ceiling / 20
if limit > 0 and rate > 0.9 * limit then step = ceiling / 50 end
rate = math.min(ceiling, rate + step * passed)
if cut and now - cut_at >= 1 then
  limit, cut_at = rate, now
  rate = math.max(math.min(1, ceiling), ceiling / 50, 0.7 * rate)
end
local burst = math.max(1, rate / 10)
local tokens = math.min(burst, (tonumber(held[2]) or burst) + rate * passed)
want = math.min(want, math.floor(burst))
local granted = 0
if tokens >= want then granted = want end
local used = (tonumber(held[6]) or 0) * math.exp(-passed / 5) + granted / 5
tokens = tokens - granted
redis.call('HSET', KEYS[1], 'rate', rate, 'tokens', tokens, 'at', string.format('%.6f', now),
  'limit', limit, 'cut_at', string.format('%.6f', cut_at), 'used', used)
if cut then redis.call('HINCRBY', KEYS[1], 'throttled', 1) end
redis.call('ZADD', KEYS[2], now, ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - 10)
redis.call('EXPIRE', KEYS[1], 3600)
redis.call('EXPIRE', KEYS[2], 3600)
local wait = 0
if granted < want then wait = (want - tokens) / rate end
return {granted, tostring(wait), tostring(rate), redis.call('ZCARD', KEYS[2])}
"""

_LEASE_S = 0.05
"""Tokens are borrowed for so long."""

_GOOD_FOR_S = 0.25
"""What is not used by then is forgotten: it would come as a burst."""

_BATCH_S = 2.0
"""What is read at once waits about so long for its turn."""

_MOST_WAIT_S = 0.5
_AGAIN_S = 1.0
_CONNECT_S = 0.5
_PREFIX = "rewrap:pace:"
_NEVER = threading.Event()


class Lender(Protocol):
    """Lends tokens of a bucket."""

    def __call__(
        self, name: str, ceiling: float, want: int, *, cut: bool
    ) -> tuple[int, float, float, int]:
        """Return how many, else how long to wait in seconds; the rate; how many processes ask.

        Raises:
            RedisError, OSError: Redis is away.
        """


def lender(client: Redis) -> Lender:
    """Return what lends tokens of buckets in Redis."""
    script = client.register_script(_LUA)
    me = f"{socket.gethostname()}:{os.getpid()}"

    def lend(name: str, ceiling: float, want: int, *, cut: bool) -> tuple[int, float, float, int]:
        key = _PREFIX + name
        granted, wait, rate, processes = script(
            keys=[key, f"{key}:processes"],
            args=[repr(ceiling), want, me, "cut" if cut else ""],
        )
        return int(granted), float(wait), float(rate), int(processes)

    return lend


class Bucket:
    """A token bucket that all processes share, as one process sees it.

    Args:
        lend: lends tokens of it.
        name: of the bucket.
        ceiling: the most tokens a second.
    """

    def __init__(self, lend: Lender, name: str, ceiling: float) -> None:
        self.ceiling = ceiling
        self._lend = lend
        self.name = name
        self._lock = threading.Lock()
        self._stock = 0
        self._good_until = 0.0
        self._rate, self._processes = ceiling, 1
        self._away_until = 0.0
        self._alone_at: float | None = None  # when the last token of its own share was taken

    def take(self, over: threading.Event | None = None) -> None:
        """Wait for a token; see `keywrap.pacing.Pacer`."""
        over = over or _NEVER
        while not over.is_set():
            with self._lock:
                wait_s = self._try()
            if wait_s is None:
                return
            over.wait(min(wait_s, _MOST_WAIT_S))

    def throttled(self) -> bool:
        """Lower the rate for every process."""
        with self._lock:
            self._stock = 0
            if time.monotonic() >= self._away_until:
                self._ask(0, cut=True)
            else:
                self._rate = max(0.7 * self._rate, self.ceiling / 50)
        return True

    def lasts(self, seconds: float) -> int:
        """Return about how many tokens this process gets in so many seconds; at least 1."""
        return max(1, int(self._rate / self._processes * seconds))

    def _try(self) -> float | None:
        """Take a token, or return how long to wait for one, in seconds."""
        now = time.monotonic()
        if self._stock > 0 and now < self._good_until:
            self._stock -= 1
            return None
        if now < self._away_until:
            return self._alone(now)
        granted, wait_s = self._ask(self.lasts(_LEASE_S), cut=False)
        if granted < 0:
            return self._alone(now)
        self._stock, self._good_until = max(granted - 1, 0), now + _GOOD_FOR_S
        return None if granted else wait_s

    def _ask(self, want: int, *, cut: bool) -> tuple[int, float]:
        """Borrow tokens; -1 where Redis is away."""
        try:
            granted, wait_s, self._rate, self._processes = self._lend(
                self.name, self.ceiling, want, cut=cut
            )
        except (RedisError, OSError) as error:
            if self._alone_at is None:
                logger.warning(
                    "pace of %s: Redis is away (%s); this process goes on with its own share",
                    self.name,
                    type(error).__name__,
                    extra={"event": "pace_alone"},
                )
                self._alone_at = time.monotonic()
            self._away_until = time.monotonic() + _AGAIN_S
            return -1, 0.0
        if self._alone_at is not None:
            logger.info("pace of %s: Redis is back", self.name, extra={"event": "pace_back"})
            self._alone_at = None
        return granted, wait_s

    def _alone(self, now: float) -> float | None:
        gap_s = self._processes / max(self._rate, 1e-6)
        last = now - gap_s if self._alone_at is None else self._alone_at
        if now - last < gap_s:
            return gap_s - (now - last)
        self._alone_at = max(last + gap_s, now - gap_s)  # what was not taken is not saved up
        return None


class Pacing(runtime.Pacing):
    """The buckets of one process: one for each KEK with a quota, and the campaign's at work.

    Args:
        table: the quotas.
        keys: the KEKs; each that can be paced is.
        lend: lends tokens.
    """

    def __init__(self, table: Pace, keys: KeyRing, lend: Lender) -> None:
        self._lend = lend
        self._campaign: Bucket | None = None
        self._of_keys: dict[str, Bucket] = {}
        for key in keys.keys():  # noqa: SIM118 - a method of the ring
            ceiling = table.ceiling(key)
            if ceiling is not None:
                self._of_keys[key] = Bucket(lend, key, ceiling)
            provider = keys.provider(key)
            if isinstance(provider, Paced):
                provider.pace_by(_KeyPacer(self, self._of_keys.get(key)))

    @property
    def campaign(self) -> Bucket | None:
        """The bucket of the campaign at work; None: it has no ceiling of its own."""
        return self._campaign

    def work_for(self, campaign_id: int, max_rate: float | None) -> None:
        """Let requests be paced by a campaign's own ceiling, too.

        Args:
            campaign_id: the campaign.
            max_rate: the most requests a second, of all its workers; None: as many as they can.
        """
        name = f"campaign:{campaign_id}"
        if max_rate is None:
            self._campaign = None
        elif self._campaign is None or (name, max_rate) != (
            self._campaign.name,
            self._campaign.ceiling,
        ):
            self._campaign = Bucket(self._lend, name, max_rate)

    def batch(self, most: int) -> int:
        """Return how many blobs to read at once: what is read is not to wait long for its turn."""
        buckets = [*self._of_keys.values(), *([self._campaign] if self._campaign else [])]
        return min([most, *(bucket.lasts(_BATCH_S) for bucket in buckets)])


class _KeyPacer:
    """Paces the requests to one KEK's service, by its bucket and by the campaign's."""

    def __init__(self, pacing: Pacing, bucket: Bucket | None) -> None:
        self._pacing = pacing
        self._bucket = bucket

    def take(self, over: threading.Event | None = None) -> None:
        for bucket in (self._pacing.campaign, self._bucket):
            if bucket is not None:
                bucket.take(over)

    def throttled(self) -> bool:
        return self._bucket is not None and self._bucket.throttled()


def connect(broker_url: str) -> Redis:
    """Return a client of the broker; connects to nothing yet.

    Raises:
        ValueError: the broker is no Redis, or reached in another way than by its URL.
    """
    scheme, _, rest = broker_url.partition("://")
    if scheme == "redis+socket":  # as kombu names what redis-py names `unix`
        path, _, query = rest.partition("?")
        database = dict(parse_qsl(query)).get("virtual_host", "0")
        broker_url = f"unix://{path}?db={database}"
    return Redis.from_url(
        broker_url,
        socket_timeout=_CONNECT_S,
        socket_connect_timeout=_CONNECT_S,
        decode_responses=True,
    )


def read(client: Redis, table: Pace, key: str, max_rate: float | None) -> Mapping[str, Any]:
    """Return how fast a KEK's service is asked just now, for `status`.

    Raises:
        RedisError, OSError: Redis is away.
    """
    held: dict[str, str] = client.hgetall(_PREFIX + key)  # type: ignore[assignment]
    quota = table.keys.get(key)
    seconds, micros = client.time()
    passed = max(0.0, seconds + micros / 1e6 - float(held.get("at", seconds)))
    return {
        "allowed_per_s": round(float(held.get("rate", quota.ceiling if quota else 0)), 1) or None,
        "used_per_s": round(float(held.get("used", 0)) * math.exp(-passed / 5), 1),
        "quota_per_s": quota.requests_per_s if quota else None,
        "reserved": quota.reserve if quota else None,
        "throttled": int(held.get("throttled", 0)),
        "max_rate_per_s": max_rate,
    }
