"""Takes spans over OTLP and throws them away: python -m bench.embeddings.collector SOCKET."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.embeddings.machine import CLIENT_CORE, pinned
from bench.process import listening


@contextmanager
def collecting(directory: Path) -> Iterator[str]:
    """A collector on the client's core until the end of the block; its endpoint."""
    path = directory / "collector.sock"
    with ExitStack() as stack:
        with pinned(CLIENT_CORE):
            command = ["-m", __name__, str(path)]
            stack.enter_context(listening(command, path, directory / "collector.log"))
        yield f"unix://{path}"


def main(path: str) -> None:
    """Until the signal."""
    import grpc
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as wire
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service

    class Sink(service.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:
            return wire.ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(1))
    register: Any = service.add_TraceServiceServicer_to_server
    register(Sink(), server)
    server.add_insecure_port(f"unix:{path}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main(sys.argv[1])
