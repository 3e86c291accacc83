"""From a query and documents to scores: a cross-encoder reads each pair.

Its batches are cut by a scheduler of its own, as those of the encoder are. Places in the queue are
taken before anything is done; a request that is given up leaves the queue at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from aistack.embeddings import rerank_metrics as metrics
from aistack.embeddings.encoder import EncoderError, Tokens, Vectors
from aistack.embeddings.rerank_engines import PairTokenizer, Scorer
from aistack.embeddings.scheduler import Pass, Scheduler
from aistack.embeddings.warm_up import WARM_UP, shapes
from aistack.service.errors import TooLarge, Unavailable

#: Threads that tokenize: a second one, so that one huge text does not hold up the others.
TOKENIZER_THREADS = 2


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the seconds of a request went."""

    tokenize: float
    queue: float
    encode: float


@dataclass(frozen=True, slots=True)
class Scores:
    """The answer for one request.

    `order` are the indices of the documents, best first, equal scores by index; `scores` (n,)
    float64 in 0..1 in the order of the documents; `tokens` the sum over the pairs of what the model
    reads, special tokens included; `truncated` the indices of the documents that were cut.
    """

    order: tuple[int, ...]
    scores: Sequence[float]
    tokens: int
    truncated: tuple[int, ...]
    timings: Timings


class Reranker:
    """Tokenizer threads and scheduler behind one call. Belongs to one event loop."""

    def __init__(self, tokenizer: PairTokenizer, scheduler: Scheduler) -> None:
        self._tokenizer = tokenizer
        self._scheduler = scheduler
        self._threads = ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="pairs")

    async def score(self, query: str, documents: Sequence[str]) -> Scores:
        """Score `documents` (at least one). Raises TooLarge, Overloaded, Unavailable.

        TooLarge where the query has more tokens than half of what the model reads: it is never cut.
        """
        loop = asyncio.get_running_loop()
        began = time.perf_counter()
        with self._scheduler.reserve(len(documents)) as places:
            pairs = await loop.run_in_executor(self._threads, self._pairs, query, documents)
            tokenized = time.perf_counter() - began
            encoded = await self._scheduler.submit(pairs, places)
        scores = sigmoid(encoded.vectors[:, 0])
        truncated = tuple(index for index, pair in enumerate(pairs) if pair.truncated)
        tokens = sum(map(len, pairs))
        metrics.PAIRS.inc(len(pairs))
        metrics.TRUNCATED.inc(len(truncated))
        timings = Timings(tokenized, encoded.queue_seconds, encoded.encode_seconds)
        for phase in ("tokenize", "queue", "encode"):
            metrics.PHASE_SECONDS.labels(phase).observe(getattr(timings, phase))
        return Scores(ranked(scores), scores, tokens, truncated, timings)

    def _pairs(self, query: str, documents: Sequence[str]) -> list[Tokens]:
        count, most = self._tokenizer.count(query), self._tokenizer.query_tokens
        if count > most:
            raise TooLarge(
                f"query has {count} tokens; at most {most} are read, half of what the reranking"
                " model reads of a query and a document: ask a shorter one.",
                param="query",
            )
        return self._tokenizer.tokenize(query, documents)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def sigmoid(logits: Vectors) -> list[float]:
    """Scores in 0..1 of the (n,) logits. Raises Unavailable where one is not finite."""
    if not bool(np.all(np.isfinite(logits))):
        raise Unavailable("The documents could not be scored.")
    # 1 / (1 + exp(-x)), whatever the size of x.
    scores: list[float] = np.exp(-np.logaddexp(0.0, -logits.astype(np.float64))).tolist()
    return scores


def ranked(scores: Sequence[float]) -> tuple[int, ...]:
    """The indices of `scores`, highest first; equal ones by index."""
    return tuple(sorted(range(len(scores)), key=lambda index: (-scores[index], index)))


def warm_up(scorer: Scorer, tokenizer: PairTokenizer, batch_tokens: int) -> None:
    """Run a pass of each shape in this thread. Raises EncoderError, also for unusable scores."""
    (read,) = tokenizer.tokenize(WARM_UP, [WARM_UP])
    for pairs, length in shapes(batch_tokens, tokenizer.max_tokens):
        types = None if read.types is None else np.resize(read.types, length)
        logits = scorer.score([Tokens(np.resize(read.ids, length), False, types)] * pairs)
        if logits.shape != (pairs, 1) or not bool(np.all(np.isfinite(logits))):
            raise EncoderError(
                f"a pass over {pairs} pairs of {length} tokens gave no scores, but"
                f" {logits.shape} numbers"
            )


def observe(done: Pass) -> None:
    """Count one pass."""
    metrics.PASSES.labels("failed" if done.failed else "ok").inc()
    metrics.PASS_SECONDS.observe(done.seconds)
    metrics.TOKENS.inc(done.tokens)
    metrics.PADDED.inc(done.padded)
