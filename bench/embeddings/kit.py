"""What the service around the encoder costs: with a no-op encoder, against a bare FastAPI route.

The kit is what every service has around its routes: keys, limits, errors, traces, metrics, the
access line. The bar is on the kit with the no-op encoder called in the route, as it is by default,
where ids of traces are made and passed on, and with every span exported to a collector. What lies
between route and encoder in the embeddings service (flights, the lanes' queue, a thread) is told
apart, since it is there to let a real encoder work in batches.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.embeddings.bars import Figure
from bench.embeddings.collector import collecting
from bench.embeddings.machine import CLIENT_CORE, ENCODER_CORE, Rates, Way, in_turns
from bench.embeddings.noop import EMBEDDER, KIT, WITHOUT
from bench.embeddings.service import Service, running
from bench.embeddings.texts import texts

CONNECTIONS = 16
REQUESTS = 1000
BAR = 0.45
BARE, WHOLE = "kit", ""
#: As `EMBEDDER`, its spans exported.
EXPORTING = f"{EMBEDDER},"


def measure(state: Path, rounds: int) -> list[Figure]:
    """Requests of one text each; the servers take turns on one core, the client has the other."""
    names = [BARE, WHOLE, EMBEDDER, EXPORTING, *(f"{EMBEDDER},{name}" for name in KIT)]
    with ExitStack() as stack:
        services: dict[str, Service] = {}
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aic-")))
        endpoint = stack.enter_context(collecting(place))
        for without in names:
            os.environ[WITHOUT] = without
            services[without] = stack.enter_context(
                running(
                    state,
                    cores=[ENCODER_CORE],
                    command=("-m", "bench.embeddings.noop"),
                    log_level="info",
                    spans_to=endpoint if without == EXPORTING else None,
                )
            )
        del os.environ[WITHOUT]
        if b'"noop"' not in services[WHOLE].get("/v1/models")[1]:
            raise SystemExit("the no-op encoder is not in its place")
        rates = in_turns({name: _way(service) for name, service in services.items()}, rounds)
    kit = _cost(rates, EMBEDDER)
    return [
        Figure("bare FastAPI route", rates.per_second(BARE), "requests/s"),
        Figure("kit with a no-op encoder", rates.per_second(EMBEDDER), "requests/s"),
        Figure("kit / bare route", rates.ratio(EMBEDDER, BARE), at_least=BAR),
        Figure("the same by CPU time of the server", rates.cpu_ratio(EMBEDDER, BARE)),
        Figure("with exported spans / bare route", rates.ratio(EXPORTING, BARE), at_least=BAR),
        Figure("CPU time of a request, bare", _cost(rates, BARE), "us"),
        Figure("CPU time of a request, kit", kit, "us"),
        Figure("CPU time of a request, with exported spans", _cost(rates, EXPORTING), "us"),
        *(
            Figure(f"of which {name}", kit - _cost(rates, f"{EMBEDDER},{name}"), "us")
            for name in KIT
        ),
        Figure("with the queue and the lane too", rates.per_second(WHOLE), "requests/s"),
        Figure("the same / bare route", rates.ratio(WHOLE, BARE)),
        Figure("CPU time of a request, with them", _cost(rates, WHOLE), "us"),
    ]


def _cost(rates: Rates, name: str) -> float:
    """CPU microseconds of a request."""
    return 1e6 / rates.per_cpu_second(name)


def _way(service: Service) -> Way:
    requests = service.requests([[text] for text in texts("short", REQUESTS)])
    return Way(
        lambda: service.send(requests, connections=CONNECTIONS),
        REQUESTS,
        CLIENT_CORE,
        service.pid,
    )
