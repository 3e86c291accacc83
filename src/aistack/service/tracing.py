"""OpenTelemetry: W3C context in and out, spans to an OTLP endpoint where one is configured."""

from __future__ import annotations

import threading

import structlog
from opentelemetry import trace
from opentelemetry.propagate import inject
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from aistack import __version__
from aistack.config import Tracing

log = structlog.get_logger()

#: Seconds for the last spans at the end of a process.
FINISH_SECONDS = 2.0

tracer = trace.get_tracer("aistack", __version__)


def configure(service: str, config: Tracing) -> TracerProvider:
    """Makes the process's tracer provider; shut it down at the end so that no span is lost."""
    provider = TracerProvider(
        resource=Resource.create({"service.name": service, "service.version": __version__}),
        sampler=ParentBased(TraceIdRatioBased(config.sample_ratio)),
    )
    if config.endpoint is not None:
        # gRPC and protobuf are a sixth of a second of start that only those who export should pay.
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        endpoint = config.endpoint
        if endpoint.startswith("unix:"):
            # gRPC wants `unix:///abs` or `unix:rel`; both given forms are absolute paths.
            endpoint = "unix://" + endpoint.removeprefix("unix:").removeprefix("//")
        insecure = not endpoint.startswith("https://")
        provider.add_span_processor(
            BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, insecure=insecure))
        )
    trace.set_tracer_provider(provider)
    return provider


def finish(provider: TracerProvider, seconds: float = FINISH_SECONDS) -> None:
    """Export what is left, for at most `seconds`; what then is not exported is lost.

    The exporter tries each batch for ten seconds, and its own shutdown takes no limit. A collector
    that is away must not hold up the stop: nothing feeds the supervisor's watchdog by now.
    """
    closing = threading.Thread(target=provider.shutdown, name="spans", daemon=True)
    closing.start()
    closing.join(seconds)
    if closing.is_alive():
        log.warning("spans_lost", reason="the collector did not answer", seconds=seconds)


def outgoing_headers() -> dict[str, str]:
    """`traceparent` (and `tracestate`) of the current span."""
    headers: dict[str, str] = {}
    inject(headers)
    return headers
