"""Takes spans over OTLP and throws them away: python -m bench.embeddings.collector SOCKET."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.embeddings.machine import CLIENT_CORE, pinned

START_SECONDS = 20.0


@contextmanager
def collecting(path: Path) -> Iterator[str]:
    """A collector on the client's core until the end of the block; its endpoint."""
    with pinned(CLIENT_CORE):
        process = subprocess.Popen([sys.executable, "-m", __name__, str(path)])
    try:
        end = time.monotonic() + START_SECONDS
        while not path.exists():
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit("the collector of spans did not start")
            time.sleep(0.02)
        yield f"unix://{path}"
    finally:
        process.terminate()
        process.wait(10)


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
