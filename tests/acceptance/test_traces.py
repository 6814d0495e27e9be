"""The traces of a whole node, sent to a real HTTP server."""

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.nodes import Node, until
from tests.sites import Site, campaign_in


class Collector:
    """What was sent, as it came and as spans with the service that sent each."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.bodies: list[bytes] = []
        self.paths: set[str] = set()

    def spans(self) -> list[tuple[str, Any]]:
        found = []
        for body in list(self.bodies):
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                names = {a.key: a.value.string_value for a in resource.resource.attributes}
                found += [
                    (names["service.name"], span)
                    for scope in resource.scope_spans
                    for span in scope.spans
                ]
        return found

    def of(self, name: str) -> list[Any]:
        return [span for _, span in self.spans() if span.name == name]


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            there.paths.add(self.path)
            there.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    there = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield there
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def node(new_site: Callable[..., Site], collector: Collector) -> Iterator[Node]:
    site = new_site("traced", batch=20)
    site.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.url
    site.environment["OTEL_BSP_SCHEDULE_DELAY"] = "200"
    node = Node(site, workers=1)
    node.start()
    yield node
    node.close()


def test_a_campaign_is_one_trace_from_its_steps_to_its_batches(
    node: Node, collector: Collector
) -> None:
    site = node.site
    blobs = site.make(60)
    ran = site.rewrap("start", "migrate", "--yes", "--wait")
    assert ran.code == 0, ran
    campaign = campaign_in(ran.out)
    (root,) = until(lambda: collector.of("campaign migrate"), "the span around all")
    until(lambda: len(collector.of("batch")) > 2, "batches")
    assert collector.paths == {"/v1/traces"}
    spans = collector.spans()
    assert {span.trace_id for _, span in spans} == {root.trace_id}
    assert {name for name, _ in spans} == {"rewrap-scheduler", "rewrap-worker"}
    assert not root.parent_span_id
    assert root.end_time_unix_nano > root.start_time_unix_nano
    shards = {span.span_id: span for span in collector.of("shard")}
    assert {span.parent_span_id for span in shards.values()} == {root.span_id}
    assert {span.parent_span_id for span in collector.of("batch")} <= set(shards)
    steps = {name.name for _, name in spans if name.name.startswith("campaign ")}
    assert steps >= {"campaign inventory", "campaign running", "campaign verifying"}
    for span in shards.values():
        assert {a.key: a.value.int_value for a in span.attributes}["rewrap.campaign"] == campaign
    sent = b"".join(collector.bodies)
    for secret in (*site.secrets.values(), *blobs):
        assert secret.encode() not in sent


def test_a_collector_that_is_away_costs_spans_and_nothing_else(
    node: Node, collector: Collector
) -> None:
    site = node.site
    node.kill_everything()
    sent = len(collector.bodies)
    site.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:1"
    node.start()
    site.make(30, "later/")
    ran = site.rewrap("start", "migrate", "--yes", "--wait")
    assert ran.code == 0, ran
    began = time.monotonic()
    node.up.terminate()
    assert node.up.wait(60) == 0
    assert time.monotonic() - began < 20
    assert len(collector.bodies) == sent
