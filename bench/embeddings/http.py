"""The service over HTTP against the raw encoder, on the same texts.

The encoder lane and the raw encoder take turns on one core; the service's other threads and the
client have the second. The ratio by CPU time counts the service's lane and tokenizers and not its
event loop, which has the other core: it is what is left when nothing else runs on the machine.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from bench.embeddings.bars import Figure
from bench.embeddings.closed_loop import once
from bench.embeddings.machine import CLIENT_CORE, ENCODER_CORE, Way, in_turns
from bench.embeddings.raw import Raw
from bench.embeddings.service import Service, lane_options, running
from bench.embeddings.texts import SHAPES, batches, texts, vectors_of

BATCH = 32
#: Texts of a turn, 1.4 s of work: in one of .3 s, connecting and the first passes are 4 % of it.
TURN = {"short": 1920, "medium": 320, "mixed": 192}
#: Requests at once: of batches, and of single texts.
BATCH_CLIENTS, CLIENTS = 2, 32
BATCH_BAR, SINGLE_BAR = 0.95, 0.90
#: Components of one text's vector that may differ: another batch rounds otherwise.
TOLERANCE = 0.02


def measure(state: Path, rounds: int) -> list[Figure]:
    """Batches of 32, then 32 clients of one text each."""
    raw = Raw(state)
    figures: list[Figure] = []
    with running(state) as service:
        _same(raw, service)
        for shape in SHAPES:
            figures += _shape(raw, service, shape, rounds)
    cores = (ENCODER_CORE, CLIENT_CORE)
    with running(state, options=lane_options(*cores)) as service:
        figures += _lanes(raw, service, rounds)
    return figures


def _same(raw: Raw, service: Service) -> None:
    """Both give the same vectors, or nothing is compared. Raises SystemExit."""
    given = texts("mixed", 8)
    status, body = once(service.address, service.requests([given])[0])
    if status != 200:
        raise SystemExit(f"the service answered {status}: {body[:400]!r}")
    found = np.stack([np.frombuffer(base64.b64decode(one), "<f4") for one in vectors_of(body)])
    if np.abs(found - raw.encoder.encode(raw.encoder.tokenize(given))).max() > TOLERANCE:
        raise SystemExit("the service and the raw encoder differ: another engine?")


def _shape(raw: Raw, service: Service, shape: str, rounds: int) -> list[Figure]:
    given = texts(shape, TURN[shape])
    size, cut = raw.best_size(given)
    parts = service.requests(batches(given, BATCH))
    singles = service.requests([[text] for text in given])
    ways = {
        "raw": Way(lambda: raw.padded(given, BATCH), len(given), ENCODER_CORE),
        "raw cut": Way(lambda: raw.cut(given, BATCH), len(given), ENCODER_CORE),
        "best": Way(lambda: raw.run(given, size, cut_=cut), len(given), ENCODER_CORE),
        "batches": Way(
            lambda: service.send(parts, connections=BATCH_CLIENTS),
            len(given),
            CLIENT_CORE,
            service.pid,
            main=False,
        ),
        "singles": Way(
            lambda: service.send(singles, connections=CLIENTS),
            len(given),
            CLIENT_CORE,
            service.pid,
            main=False,
        ),
    }
    rates = in_turns(ways, rounds)
    yard = max(("raw", "raw cut"), key=rates.per_second)
    best = max(("raw", "raw cut", "best"), key=rates.per_second)
    how = f"batches of {size}{', cut' if cut else ''}" if best == "best" else f"{best}, of {BATCH}"
    return [
        Figure(f"{shape}: raw, batches of {BATCH}", rates.per_second(yard), "texts/s"),
        Figure(f"{shape}: raw at its best", rates.per_second(best), "texts/s", note=how),
        Figure(f"{shape}: HTTP, batches of {BATCH}", rates.per_second("batches"), "texts/s"),
        Figure(f"{shape}: HTTP, {CLIENTS} clients x 1", rates.per_second("singles"), "texts/s"),
        Figure(f"{shape}: batches / raw", rates.ratio("batches", yard), at_least=BATCH_BAR),
        Figure(f"{shape}: the same by CPU time of the lane", rates.cpu_ratio("batches", yard)),
        Figure(f"{shape}: singles / raw", rates.ratio("singles", best), at_least=SINGLE_BAR),
        Figure(f"{shape}: the same by CPU time of the lane", rates.cpu_ratio("singles", best)),
    ]


def _lanes(raw: Raw, service: Service, rounds: int) -> list[Figure]:
    """A lane on each core, by the CPU time of the service; nothing else can be said with two."""
    figures = []
    for shape in SHAPES:
        given = texts(shape, TURN[shape])
        parts = service.requests(batches(given, BATCH))
        alone: Callable[[], object] = partial(raw.cut, given, BATCH)
        sent: Callable[[], object] = partial(service.send, parts, connections=2 * BATCH_CLIENTS)
        ways = {
            "raw": Way(alone, len(given), ENCODER_CORE),
            "lanes": Way(sent, len(given), CLIENT_CORE, service.pid),
        }
        rates = in_turns(ways, rounds)
        figures += [
            Figure(f"{shape}: a lane on each core", rates.per_second("lanes"), "texts/s"),
            Figure(f"{shape}: the same", rates.per_cpu_second("lanes"), "texts/cpu-s"),
            Figure(f"{shape}: by CPU time / raw", rates.cpu_ratio("lanes", "raw")),
        ]
    return figures
