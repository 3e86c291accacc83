#!/usr/bin/python3 -sS
"""Takes traces over gRPC on 127.0.0.1:4317; a line of JSON for each span in /run/otlp.jsonl."""

import json
import sys
from concurrent import futures
from typing import Any

sys.path.insert(0, "/usr/lib/aistack/site-packages")

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as wire
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service


class Sink(service.TraceServiceServicer):
    """The collector's side of OTLP."""

    def Export(self, request: Any, context: Any) -> Any:
        """Write what came."""
        with open("/run/otlp.jsonl", "a", encoding="utf-8") as file:
            for resource in request.resource_spans:
                names = {one.key: one.value.string_value for one in resource.resource.attributes}
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        entry = {
                            "service": names.get("service.name"),
                            "name": span.name,
                            "trace": span.trace_id.hex(),
                        }
                        file.write(json.dumps(entry) + "\n")
        return wire.ExportTraceServiceResponse()


def main() -> None:
    """Serves until it is killed."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    register: Any = service.add_TraceServiceServicer_to_server  # made by a tool, without types
    register(Sink(), server)
    server.add_insecure_port("127.0.0.1:4317")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
