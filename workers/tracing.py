"""Sending traces to a collector, where OpenTelemetry's own variables name one.

    OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318

The SDK is an optional group of dependencies (`traces`); see docs/logs.md.
"""

import logging
import os
from typing import TYPE_CHECKING

from opentelemetry import trace

from tasks import traces

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

logger = logging.getLogger(__name__)

_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

_provider: "TracerProvider | None" = None


def configure(service: str) -> None:
    """Let this process send its spans, if a collector is named; call it after the fork.

    Args:
        service: what the process is, such as `worker`.
    """
    global _provider
    if not any(os.environ.get(name) for name in _VARIABLES):
        return
    try:
        _provider = _make(service)
    except ImportError as error:
        logger.warning(
            "no traces are sent: %s; install the dependency group `traces`",
            error,
            extra={"event": "traces_off"},
        )
        return
    trace.set_tracer_provider(_provider)


def shut_down() -> None:
    """Send what waits, and end."""
    if _provider is not None:
        _provider.shutdown()


def _make(service: str) -> "TracerProvider":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - optional
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - likewise
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator  # noqa: PLC0415

    class Ids(RandomIdGenerator):
        """Random ids, but for a campaign's outermost span, whose ids all others know."""

        def generate_trace_id(self) -> int:
            ids = traces.root.get()
            return ids[0] if ids else super().generate_trace_id()

        def generate_span_id(self) -> int:
            ids = traces.root.get()
            return ids[1] if ids else super().generate_span_id()

    provider = TracerProvider(
        resource=Resource.create({"service.name": f"rewrap-{service}"}), id_generator=Ids()
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
