"""OpenTelemetry: W3C context in and out, spans to an OTLP endpoint where one is configured."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import structlog
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.propagate import extract, inject
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags

from aistack import __version__
from aistack.config import Tracing

log = structlog.get_logger()

#: Seconds for the last spans at the end of a process.
FINISH_SECONDS = 2.0

tracer = trace.get_tracer("aistack", __version__)


class IdsOnly(trace.TracerProvider):
    """Where no span is exported: contexts are made and passed on, spans are not.

    A request's span of the SDK costs 11 microseconds, this one 2 (measured in one process).
    """

    def __init__(self, sample_ratio: float) -> None:
        self._tracer = _IdsTracer(TraceIdRatioBased(sample_ratio))

    def get_tracer(self, *_names: Any, **_options: Any) -> trace.Tracer:
        """The one there is."""
        return self._tracer

    def shutdown(self) -> None:
        """Nothing is held back that could be lost."""


class _IdsTracer(trace.Tracer):
    def __init__(self, roots: TraceIdRatioBased) -> None:
        self._roots = roots
        self._ids = RandomIdGenerator()

    # Everything that describes a span is left out: nobody keeps it.
    def start_span(  # type: ignore[override]
        self, _name: str, context: Context | None = None, *_more: Any, **_options: Any
    ) -> Span:
        """A span that keeps nothing, of the trace in `context`, else of a new one."""
        parent = trace.get_current_span(context).get_span_context()
        if parent.is_valid:
            trace_id, flags, state = parent.trace_id, parent.trace_flags, parent.trace_state
        else:
            trace_id, state = self._ids.generate_trace_id(), None
            # Said to other services as if the spans were kept here; some of them may keep theirs.
            sampled = trace_id & TraceIdRatioBased.TRACE_ID_LIMIT < self._roots.bound
            flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
        span_id = self._ids.generate_span_id()
        return NonRecordingSpan(
            SpanContext(trace_id, span_id, is_remote=False, trace_flags=flags, trace_state=state)
        )

    @contextmanager
    def start_as_current_span(  # type: ignore[override]
        self, name: str, context: Context | None = None, *_more: Any, **_options: Any
    ) -> Iterator[Span]:
        """The same, current inside the block."""
        span = self.start_span(name, context)
        token = otel_context.attach(trace.set_span_in_context(span))
        try:
            yield span
        finally:
            otel_context.detach(token)


class RequestSpan:
    """The span of one request to this service, current from its making to its end."""

    __slots__ = ("_span", "_token")

    def __init__(self, method: str, carrier: Mapping[str, str]) -> None:
        """`carrier` holds the request's `traceparent` and `tracestate`, where it has them."""
        context = extract(carrier) if carrier else Context()
        self._span = tracer.start_span(method, context, kind=SpanKind.SERVER)
        self._token = otel_context.attach(trace.set_span_in_context(self._span, context))

    def end(self, method: str, route: str, status: int) -> None:
        """With what is known of the answer."""
        if self._span.is_recording():
            self._span.update_name(f"{method} {route}")
            self._span.set_attribute("http.request.method", method)
            self._span.set_attribute("http.route", route)
            self._span.set_attribute("http.response.status_code", status)
        self._span.end()
        otel_context.detach(self._token)


def configure(service: str, config: Tracing) -> TracerProvider | IdsOnly:
    """Makes the process's tracer provider; `finish` it at the end so that no span is lost."""
    if config.endpoint is None:
        ids = IdsOnly(config.sample_ratio)
        trace.set_tracer_provider(ids)
        return ids
    # gRPC and protobuf are a sixth of a second of start that only those who export should pay.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    provider = TracerProvider(
        resource=Resource.create({"service.name": service, "service.version": __version__}),
        sampler=ParentBased(TraceIdRatioBased(config.sample_ratio)),
    )
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


def finish(provider: TracerProvider | IdsOnly, seconds: float = FINISH_SECONDS) -> None:
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
