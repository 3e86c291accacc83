"""OpenTelemetry: W3C context in and out, spans to an OTLP endpoint where one is configured."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.propagate import inject
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from aistack import __version__
from aistack.config import Tracing

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


def outgoing_headers() -> dict[str, str]:
    """`traceparent` (and `tracestate`) of the current span."""
    headers: dict[str, str] = {}
    inject(headers)
    return headers
