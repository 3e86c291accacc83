"""Trace contexts in and out, with and without somebody who keeps the spans."""

from __future__ import annotations

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from aistack.service import tracing
from aistack.service.tracing import IdsOnly, RequestSpan, outgoing_headers

PARENT = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


@pytest.fixture
def _ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "tracer", IdsOnly(1.0).get_tracer("test"))


@pytest.mark.usefixtures("_ids")
def test_the_callers_trace_goes_on() -> None:
    span = RequestSpan("GET", {**PARENT, "tracestate": "a=b"})
    sent = outgoing_headers()
    version, trace_id, span_id, flags = sent["traceparent"].split("-")
    assert (version, trace_id, flags) == ("00", PARENT["traceparent"].split("-")[1], "01")
    assert span_id != PARENT["traceparent"].split("-")[2]
    assert sent["tracestate"] == "a=b"
    span.end("GET", "/x", 200)
    assert not outgoing_headers()


@pytest.mark.usefixtures("_ids")
def test_without_a_trace_each_request_begins_one() -> None:
    found = set()
    for carrier in ({}, {}, {"traceparent": "nonsense"}):
        span = RequestSpan("GET", carrier)
        found.add(trace.get_current_span().get_span_context().trace_id)
        span.end("GET", "/x", 200)
    assert len(found) == 3
    assert 0 not in found


@pytest.mark.usefixtures("_ids")
def test_a_call_is_a_span_of_its_own_below_the_requests() -> None:
    span = RequestSpan("GET", {})
    outer = outgoing_headers()["traceparent"].split("-")
    with tracing.tracer.start_as_current_span("call", kind=trace.SpanKind.CLIENT, attributes={}):
        inner = outgoing_headers()["traceparent"].split("-")
    assert inner[1] == outer[1]
    assert inner[2] != outer[2]
    assert outgoing_headers()["traceparent"].split("-") == outer
    span.end("GET", "/x", 200)


@pytest.mark.parametrize(("ratio", "flags"), [(0.0, "00"), (1.0, "01")])
def test_the_sampling_of_a_new_trace_is_told_to_others(
    monkeypatch: pytest.MonkeyPatch, ratio: float, flags: str
) -> None:
    monkeypatch.setattr(tracing, "tracer", IdsOnly(ratio).get_tracer("test"))
    span = RequestSpan("GET", {})
    assert outgoing_headers()["traceparent"].endswith(flags)
    span.end("GET", "/x", 200)


def test_a_span_that_is_kept_has_the_route_and_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(tracing, "tracer", provider.get_tracer("test"))
    RequestSpan("GET", PARENT).end("GET", "/v1/things/{id}", 404)
    (span,) = kept.get_finished_spans()
    assert span.name == "GET /v1/things/{id}"
    assert span.parent is not None
    assert dict(span.attributes or {}) == {
        "http.request.method": "GET",
        "http.route": "/v1/things/{id}",
        "http.response.status_code": 404,
    }
