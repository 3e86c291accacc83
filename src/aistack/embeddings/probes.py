"""Built-in texts that engines are compared on, and how near their vectors and speeds are.

64 texts of about 10 to 150 tokens: questions, prose, code, other scripts, most of them short. They
are few enough that a first start is not held up for more than two seconds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from aistack.embeddings.encoder import Encoder, Tokens, Vectors

_SENTENCES = (
    "How do I enable the SSH daemon?",
    "services.nginx.virtualHosts.<name>.forceSSL",
    "The harbour froze in January and no ship came in until the thaw.",
    "def mean(values): return sum(values) / len(values)",
    "Quarterly revenue rose by 4.2%, mostly from the new region.",
    "Wie wird eine Sicherungskopie der Datenbank zurückgespielt?",
    "Error: connection refused (os error 111) while contacting 127.0.0.1:5432",
    "Mix the flour with cold butter, then let the dough rest for an hour.",
    "La capitale de l'Australie est Canberra, et non Sydney.",
    "SELECT name, count(*) FROM orders GROUP BY name HAVING count(*) > 3;",
    "Supersonic flow over a slender wing separates behind the leading edge.",
    "今日は天気が良いので、散歩に行きましょう。",
    "The patient was given 5 mg twice a day and recovered within a week.",
    "An appeal must be filed within thirty days of the judgment.",
    "What is the difference between a mutex and a semaphore?",
    "Птицы улетают на юг, когда дни становятся короче.",
)
#: How many sentences each of the 64 texts has.
_PARTS = (1,) * 52 + (2,) * 8 + (4,) * 3 + (8,)

PROBES = tuple(
    " ".join(_SENTENCES[(5 * index + part) % len(_SENTENCES)] for part in range(parts))
    for index, parts in enumerate(_PARTS)
)
#: Encoded at every start to see that an engine still gives what it gave.
CHECKED = PROBES[:8]
#: Encoded when engines are timed: some of every length.
TIMED = (*PROBES[:52:13], *PROBES[52:60:4], *PROBES[62:])
#: Padded tokens of a batch here; a cut like the scheduler's on a CPU.
_BATCH_TOKENS = 512
#: Timings of which the median counts.
ROUNDS = 5


def vectors_of(encoder: Encoder, texts: Sequence[str]) -> Vectors:
    """(n, d) float32, in order. Raises EncoderError."""
    tokens = encoder.tokenize(texts)
    vectors = np.empty((len(tokens), encoder.identity.dimension), dtype=np.float32)
    for batch in _batches(tokens):
        vectors[batch] = encoder.encode([tokens[index] for index in batch])
    return vectors


def _batches(tokens: Sequence[Tokens]) -> Iterable[list[int]]:
    batch: list[int] = []
    for index in sorted(range(len(tokens)), key=lambda index: len(tokens[index])):
        if batch and len(tokens[index]) * (len(batch) + 1) > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(index)
    yield batch


def mean_cosine(given: Vectors, reference: Vectors) -> float:
    """Of rows of unit length; NaN where a vector is none."""
    return float(np.einsum("nd,nd->n", given, reference).mean())


def speeds(
    encoders: Sequence[Encoder], clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Texts per second of each. In turns, so that a load that comes and goes meets all alike."""
    seconds: list[list[float]] = [[] for _ in encoders]
    for _ in range(ROUNDS):
        for encoder, times in zip(encoders, seconds, strict=True):
            began = clock()
            vectors_of(encoder, TIMED)
            times.append(clock() - began)
    return [len(TIMED) / statistics.median(times) for times in seconds]
