"""Every service's metrics through the loopback listener, and what Prometheus has of them."""

from __future__ import annotations

from .client import CheckError, Client, parser, run, until

SERVICES = ("embeddings", "aidb", "coordinator")


def check() -> str:
    """The listener, then Prometheus."""
    options = parser(__doc__)
    options.add_argument("--listener", default="http://127.0.0.1:9180")
    options.add_argument("--prometheus", default="http://127.0.0.1:9090")
    asked = options.parse_args()
    listener = Client(asked.listener)
    for name in SERVICES:
        answer = listener.request("GET", f"/{name}/metrics")
        if answer.status != 200 or b"\naistack_ready 1" not in answer.body:
            raise CheckError(f"/{name}/metrics: {answer}")
    prometheus = Client(asked.prometheus)
    down = ["not asked"]

    def all_up() -> bool:
        targets = prometheus.expect(200, "GET", "/api/v1/targets?state=active")["data"]
        down[:] = [
            f"{one['scrapeUrl']}: {one['health']} {one['lastError']}"
            for one in targets["activeTargets"]
            if one["health"] != "up"
        ]
        return bool(targets["activeTargets"]) and not down

    until(all_up, 90, lambda: f"targets that are not up: {down}")
    probes = prometheus.expect(200, "GET", "/api/v1/query?query=probe_success")["data"]["result"]
    failed = [one["metric"] for one in probes if one["value"][1] != "1"]
    if failed or len(probes) < 2 * len(SERVICES):
        raise CheckError(f"{len(probes)} probes, of which failed: {failed}")
    return f"metrics: every target is up, {len(probes)} probes succeed"


if __name__ == "__main__":
    run(check)
