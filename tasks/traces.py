"""Traces (OpenTelemetry): a campaign is a trace, its steps, shards and batches are spans.

Processes join a campaign's trace by what the ledger holds of the campaign: a message of the broker
is not trusted and carries no context. Without the SDK, which `workers.tracing` sets up, all of this
does nothing.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, StatusCode, TraceFlags
from opentelemetry.trace.status import Status

from ledger.campaigns import Campaign
from ledger.shards import Lease

_DOMAIN = b"rewrap trace v1\0"
_tracer = trace.get_tracer("rewrap")

root: ContextVar[tuple[int, int] | None] = ContextVar("root", default=None)
"""The ids of trace and span that the next span takes; None: ids of its own."""


def ids_of(campaign: Campaign) -> tuple[int, int]:
    """Return the ids of a campaign's trace and of its outermost span.

    Made of the campaign's nonce by SHA-256: the nonce itself is not shown.
    """
    digest = hashlib.sha256(_DOMAIN + campaign.nonce.bytes).digest()
    return int.from_bytes(digest[:16]), int.from_bytes(digest[16:24])


def _inside(campaign: Campaign) -> Context:
    trace_id, span_id = ids_of(campaign)
    flags = TraceFlags(TraceFlags.SAMPLED)
    outermost = SpanContext(trace_id, span_id, is_remote=True, trace_flags=flags)
    return trace.set_span_in_context(NonRecordingSpan(outermost), Context())


def step(campaign: Campaign, state: str, since_s: float, until_s: float) -> None:
    """Note a step that a campaign has left, between two times in seconds since the epoch."""
    span = _tracer.start_span(
        f"campaign {state}",
        _inside(campaign),
        attributes={"rewrap.campaign": campaign.id, "rewrap.state": state},
        start_time=_ns(since_s),
    )
    span.end(_ns(until_s))


def finished(campaign: Campaign) -> None:
    """Note a campaign that is finished: the span around all others."""
    end = campaign.finished_at or campaign.created_at
    token = root.set(ids_of(campaign))
    try:
        span = _tracer.start_span(
            f"campaign {campaign.kind}",
            Context(),
            attributes={
                "rewrap.campaign": campaign.id,
                "rewrap.kind": campaign.kind.value,
                "rewrap.state": campaign.state.value,
            },
            start_time=_ns(campaign.created_at.timestamp()),
        )
    finally:
        root.reset(token)
    span.end(_ns(end.timestamp()))


@contextmanager
def shard(lease: Lease) -> Iterator[None]:
    """Note the work on a shard."""
    attributes = {
        "rewrap.campaign": lease.campaign.id,
        "rewrap.shard": lease.shard_no,
    }
    with _span("shard", attributes, _inside(lease.campaign)):
        yield


@contextmanager
def batch(blobs: int) -> Iterator[None]:
    """Note a batch of blobs, within the shard at work."""
    with _span("batch", {"rewrap.blobs": blobs}):
        yield


@contextmanager
def _span(name: str, attributes: dict[str, int], context: Context | None = None) -> Iterator[None]:
    # What an error says is not shown: it may name anything.
    with _tracer.start_as_current_span(
        name,
        context,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield
        except Exception as error:
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
