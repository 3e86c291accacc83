"""One trace over every service, received by a real OTLP server on a unix socket."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from fix_stack import started, wait_until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@dataclass
class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps (service, span name, trace id) of every span."""

    spans: list[tuple[str, str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def Export(self, request: Any, context: Any) -> Any:
        with self.lock:
            for resource in request.resource_spans:
                service = next(
                    attribute.value.string_value
                    for attribute in resource.resource.attributes
                    if attribute.key == "service.name"
                )
                for scope in resource.scope_spans:
                    self.spans += [(service, s.name, s.trace_id.hex()) for s in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def of_trace(self) -> set[tuple[str, str]]:
        with self.lock:
            return {(service, name) for service, name, trace in self.spans if trace == TRACE}


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[tuple[Collector, str]]:
    found = Collector()
    address = f"unix:{tmp_path / 'otlp.sock'}"
    server = grpc.server(futures.ThreadPoolExecutor(2))
    register: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    register(found, server)
    server.add_insecure_port(address)
    server.start()
    yield found, address
    server.stop(None).wait()


def test_one_trace_crosses_every_service(collector: tuple[Collector, str], tmp_path: Path) -> None:
    received, address = collector
    config = tmp_path / "my.toml"
    config.write_text(f'[tracing]\nendpoint = "{address}"\n')
    with (
        started(tmp_path / "data", "--config", str(config)) as stack,
        httpx.Client(
            base_url=stack.base_url, headers={"authorization": f"Bearer {stack.key}"}, timeout=60
        ) as http,
    ):
        document = http.post(
            "/v1/documents", json={"source": "a.txt", "text": "The quokka lives on Rottnest."}
        ).json()
        wait_until(
            lambda: http.get(f"/v1/documents/{document['id']}").json()["state"] == "ready", 60
        )
        answer = http.post(
            "/v1/chat/completions",
            json={
                "model": "aistack",
                "max_tokens": 16,
                "messages": [{"role": "user", "content": "Where does the quokka live?"}],
            },
            headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"},
        )
        assert answer.status_code == 200, answer.text

        # Each service sends its spans on its own time, the outermost one last.
        wanted = ["POST /v1/chat/completions", "POST /v1/search", "POST /v1/embeddings"]
        wanted += ["postgres ", "redis ", "llama "]

        def missing() -> list[str]:
            names = {name for _, name in received.of_trace()}
            return [start for start in wanted if not any(n.startswith(start) for n in names)]

        wait_until(lambda: not missing(), 30, "spans are missing")
        services = {service for service, _ in received.of_trace()}
        assert services == {"coordinator", "aidb", "embeddings"}
