"""Prometheus metrics that every service has. Labels are bounded: route templates, never paths."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)

REQUESTS = Counter(
    "aistack_http_requests_total", "Requests answered", ["method", "route", "status"]
)
REQUEST_SECONDS = Histogram(
    "aistack_http_request_seconds",
    "Seconds from the first byte in to the last byte out",
    ["method", "route"],
    buckets=SECONDS,
)
IN_FLIGHT = Gauge("aistack_http_requests_in_flight", "Requests being answered")
REFUSED = Counter(
    "aistack_http_refused_total", "Requests refused before their route ran", ["reason"]
)
ABORTED = Counter("aistack_http_aborted_total", "Answers cut off after their first byte", ["route"])

READY = Gauge("aistack_ready", "1 when the service has done its start work and is not draining")
NEED_UP = Gauge("aistack_need_up", "1 when the last probe of a need was good", ["need", "kind"])

DEPENDENCY_CALLS = Counter(
    "aistack_dependency_calls_total",
    "Calls to a dependency: ok, rejected (its own 4xx), failed, refused (breaker open), full",
    ["dependency", "operation", "outcome"],
)
DEPENDENCY_SECONDS = Histogram(
    "aistack_dependency_call_seconds",
    "Seconds of one attempt",
    ["dependency", "operation"],
    buckets=SECONDS,
)
DEPENDENCY_RETRIES = Counter(
    "aistack_dependency_retries_total", "Second and later attempts", ["dependency", "operation"]
)
BREAKER_STATE = Gauge(
    "aistack_dependency_breaker_state", "0 closed, 1 half open, 2 open", ["dependency"]
)
BREAKER_CHANGES = Counter(
    "aistack_dependency_breaker_changes_total", "Breaker transitions", ["dependency", "to"]
)
WATCHDOG_SKIPPED = Counter(
    "aistack_watchdog_skipped_total", "Keep-alives withheld because a worker did not advance"
)
