# Service level objectives: error ratios over seven windows, and alerts on how fast the error budget
# burns. Windows and factors are the multi-window, multi-burn-rate table of "The Site Reliability
# Workbook" (chapter 5, "Alerting on SLOs"): 2 % of a 30-day budget in an hour, 5 % in six hours,
# 10 % in three days. A short window beside each long one ends the alert soon after the fault ends.
{
  lib,
  services,
  slo,
  alert,
}:
let
  windows = [
    "5m"
    "30m"
    "1h"
    "2h"
    "6h"
    "1d"
    "3d"
  ];
  # Probes are no user's requests, and /readyz is 503 by design while a service drains.
  requests = ''aistack_http_requests_total{job="aistack",route!~"/(livez|readyz|metrics)"'';
  seconds = kind: service: ''aistack_http_request_seconds_${kind}{job="aistack",service="${service}",route!~"/(livez|readyz|metrics)"'';

  errors = window: {
    record = "aistack:http_errors:ratio_rate${window}";
    expr =
      ''sum by (service) (rate(${requests},status=~"5.."}[${window}]))''
      + " / sum by (service) (rate(${requests}}[${window}]))";
  };
  # `le` as the Python client writes it: always with a decimal point.
  bucket =
    value:
    let
      text = builtins.toJSON value;
    in
    if lib.hasInfix "." text then text else "${text}.0";
  slow = window: service: {
    record = "aistack:http_slow:ratio_rate${window}";
    expr =
      ''1 - sum (rate(${seconds "bucket" service},le="${bucket slo.latencySeconds.${service}}"}[${window}]))''
      + " / sum (rate(${seconds "count" service}}[${window}]))";
    labels = { inherit service; };
  };
  volume = window: {
    record = "aistack:http_requests:increase${window}";
    expr = "sum by (service) (increase(${requests}}[${window}]))";
  };

  burns =
    metric: objective: long: short: factor:
    let
      # The budget is what the objective leaves; written out, so that a reader sees both numbers.
      threshold = "${factor} * (1 - ${builtins.toJSON objective})";
    in
    "(${metric}${long} > ${threshold} and ${metric}${short} > ${threshold}"
    # Few requests say little: one failure of three is no outage.
    + " and on (service) aistack:http_requests:increase${long} >= ${toString slo.minRequests})";

  burn = metric: objective: {
    fast = "${burns metric objective "1h" "5m" "14.4"} or ${burns metric objective "6h" "30m" "6"}";
    slow = "${burns metric objective "1d" "2h" "3"} or ${burns metric objective "3d" "6h" "1"}";
  };
  availability = burn "aistack:http_errors:ratio_rate" slo.availability;
  latency = burn "aistack:http_slow:ratio_rate" slo.latency;
  percent = ratio: "${builtins.toJSON (builtins.floor (ratio * 10000 + 0.5) / 100.0)} %";
in
[
  {
    name = "aistack-slo-records";
    interval = "30s";
    rules =
      map errors windows
      ++ map volume [
        "1h"
        "6h"
        "1d"
        "3d"
      ]
      ++ lib.concatMap (window: map (slow window) services) windows;
  }
  {
    name = "aistack-slo";
    interval = "30s";
    rules = lib.mapAttrsToList alert {
      AistackErrorBudgetBurnFast = {
        expr = availability.fast;
        severity = "critical";
        summary = "{{ $labels.service }} answers too many requests with an error";
        description = "{{ $value | humanizePercentage }} of the requests to {{ $labels.service }} fail; at this rate the error budget of 30 days (availability ${percent slo.availability}) is gone within days.";
      };
      AistackErrorBudgetBurnSlow = {
        expr = availability.slow;
        severity = "warning";
        for = "15m";
        summary = "{{ $labels.service }} uses up its error budget";
        description = "{{ $value | humanizePercentage }} of the requests to {{ $labels.service }} fail, steadily; the objective is ${percent slo.availability}.";
      };
      AistackLatencyBudgetBurnFast = {
        expr = latency.fast;
        severity = "critical";
        summary = "{{ $labels.service }} answers too slowly";
        description = "{{ $value | humanizePercentage }} of the requests to {{ $labels.service }} take longer than its objective; ${percent slo.latency} should not.";
      };
      AistackLatencyBudgetBurnSlow = {
        expr = latency.slow;
        severity = "warning";
        for = "15m";
        summary = "{{ $labels.service }} is slower than its objective";
        description = "{{ $value | humanizePercentage }} of the requests to {{ $labels.service }} take longer than its objective, steadily; ${percent slo.latency} should not.";
      };
    };
  }
]
