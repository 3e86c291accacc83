"""From texts to vectors: look in the cache, encode the rest once, remember them.

Equal texts, within a request and in requests that run at the same time, are looked up and encoded
once: the first one's flight carries the others. A flight that nobody waits for any more is
cancelled, and leaves the scheduler's queue before it costs a pass. Texts that find no place in
that queue are refused before anything is done for them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from aistack.embeddings import metrics
from aistack.embeddings.cache import Embedding, VectorCache, text_digest
from aistack.embeddings.encoder import Encoder, Tokens, Vectors, stacked
from aistack.embeddings.scheduler import Reservation, Scheduler
from aistack.models import UNIT_TOLERANCE
from aistack.service.errors import Unavailable

#: Characters of a request that are tokenized at once, on the event loop: about a tenth of a
#: millisecond, and no way to a thread and back.
INLINE_CHARACTERS = 512
#: Threads that tokenize: a second one, so that one huge text does not hold up the others.
TOKENIZER_THREADS = 2
#: Seconds that a stop waits for cache writes that are under way.
CLOSE_SECONDS = 2.0

_ENCODED, _FROM_CACHE, _JOINED = map(metrics.TEXTS.labels, ("encoded", "cache", "joined"))
_PHASES = {
    phase: metrics.PHASE_SECONDS.labels(phase) for phase in ("cache", "tokenize", "queue", "encode")
}


@dataclass(slots=True)
class Timings:
    """Where the seconds of a request went. Times of parts that were not needed are 0."""

    cache: float = 0.0
    tokenize: float = 0.0
    queue: float = 0.0
    encode: float = 0.0

    def phases(self) -> dict[str, float]:
        """The seconds by the name of the part."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Embedded:
    """The answer for one request.

    `vectors` (n, d) float32, unit length, in the order of the texts; `tokens` is the sum of the
    tokens that the model reads of each text, special tokens included; `truncated` the indices of
    the texts that were cut; `cached` how many distinct texts came out of the cache.
    """

    vectors: Vectors
    tokens: int
    truncated: tuple[int, ...]
    cached: int
    timings: Timings


@dataclass(slots=True, eq=False)
class _Flight:
    """Distinct texts on their way, and how many requests wait for them."""

    texts: dict[bytes, str]
    places: Reservation
    timings: Timings = field(default_factory=Timings)
    hits: frozenset[bytes] = frozenset()
    waiters: int = 0
    task: asyncio.Task[dict[bytes, Embedding]] = field(init=False)


class Embedder:
    """Cache, tokenizer threads and scheduler behind one call. Belongs to one event loop."""

    def __init__(self, encoder: Encoder, scheduler: Scheduler, cache: VectorCache | None) -> None:
        self._encoder = encoder
        self._scheduler = scheduler
        self._cache = cache
        self._tokenizers = ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="tokenizer")
        self._flights: dict[bytes, _Flight] = {}
        self._writes: set[asyncio.Task[None]] = set()

    @property
    def queued(self) -> int:
        """Texts that wait for the encoder."""
        return self._scheduler.depth

    @property
    def in_flight(self) -> int:
        """Distinct texts under way, their cache writes included."""
        return len(self._flights)

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """Vectors of `texts` (at least one). Raises Overloaded, Unavailable."""
        digests = [text_digest(text) for text in texts]
        flights = self._board(dict(zip(digests, texts, strict=True)))
        try:
            await asyncio.wait({flight.task for flight in flights})
        finally:
            for flight in flights:
                self._leave(flight)
        found: dict[bytes, Embedding] = {}
        for flight in flights:
            found.update(flight.task.result())
        answers = [found[digest] for digest in digests]
        truncated = tuple(i for i, answer in enumerate(answers) if answer.truncated)
        hits = set().union(*(flight.hits for flight in flights)) & set(digests)
        metrics.TRUNCATED.inc(len(truncated))
        return Embedded(
            vectors=stacked([answer.vector for answer in answers]),
            tokens=sum(answer.tokens for answer in answers),
            truncated=truncated,
            cached=len(hits),
            timings=_longest([flight.timings for flight in flights]),
        )

    async def truncated(self, texts: Sequence[str]) -> list[int]:
        """Indices of `texts` that would be cut. Raises Overloaded, Unavailable."""
        with self._scheduler.reserve(len(texts)):
            tokens = await self._tokenize(texts)
        return [index for index, read in enumerate(tokens) if read.truncated]

    async def _tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        if sum(map(len, texts)) <= INLINE_CHARACTERS:
            return self._encoder.tokenize(texts)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._tokenizers, self._encoder.tokenize, texts)

    async def close(self) -> None:
        """Wait for the cache writes under way, and end the threads."""
        if self._writes:
            await asyncio.wait(self._writes, timeout=CLOSE_SECONDS)
        self._tokenizers.shutdown(wait=False, cancel_futures=True)

    def _board(self, texts: Mapping[bytes, str]) -> list[_Flight]:
        new = {digest: text for digest, text in texts.items() if digest not in self._flights}
        if new:
            flight = _Flight(new, self._scheduler.reserve(len(new)))
            flight.task = asyncio.create_task(self._fly(flight))
            # Not a closure: `flight` is another one further down.
            flight.task.add_done_callback(partial(self._landed, flight))
            for digest in new:
                self._flights[digest] = flight
        _JOINED.inc(len(texts) - len(new))
        flights = list({id(flight): flight for flight in map(self._flights.get, texts)}.values())
        boarded = [flight for flight in flights if flight is not None]
        for flight in boarded:
            flight.waiters += 1
        return boarded

    def _leave(self, flight: _Flight) -> None:
        flight.waiters -= 1
        if not flight.waiters and not flight.task.done():
            # Off the board at once, so that nobody joins a flight that is being called off.
            self._forget(flight)
            flight.task.cancel()

    def _landed(self, flight: _Flight, task: asyncio.Task[dict[bytes, Embedding]]) -> None:
        # Here and not in the task: one that is cancelled before its first step runs nothing.
        flight.places.release()
        if task.cancelled() or task.exception() is not None:
            self._forget(flight)
            return
        fresh = {d: e for d, e in task.result().items() if d not in flight.hits}
        if self._cache is None or not fresh:
            self._forget(flight)
            return
        # The flight stays joinable until its vectors can be found in the cache.
        write = asyncio.create_task(self._cache.put(fresh))
        self._writes.add(write)

        def written(done: asyncio.Task[None]) -> None:
            self._writes.discard(done)
            self._forget(flight)

        write.add_done_callback(written)

    def _forget(self, flight: _Flight) -> None:
        for digest in flight.texts:
            if self._flights.get(digest) is flight:
                del self._flights[digest]

    async def _fly(self, flight: _Flight) -> dict[bytes, Embedding]:
        found: dict[bytes, Embedding] = {}
        timings = flight.timings
        if self._cache is not None:
            began = time.perf_counter()
            found = await self._cache.get(list(flight.texts))
            flight.hits = frozenset(found)
            timings.cache = _observed("cache", time.perf_counter() - began)
            _FROM_CACHE.inc(len(found))
        missing = [digest for digest in flight.texts if digest not in found]
        flight.places.release(keep=len(missing))
        if not missing:
            return found
        began = time.perf_counter()
        tokens = await self._tokenize([flight.texts[digest] for digest in missing])
        timings.tokenize = _observed("tokenize", time.perf_counter() - began)
        encoded = await self._scheduler.submit(tokens, flight.places)
        timings.queue = _observed("queue", encoded.queue_seconds)
        timings.encode = _observed("encode", encoded.encode_seconds)
        _check(encoded.vectors)
        _ENCODED.inc(len(missing))
        for digest, cut, vector in zip(missing, tokens, encoded.vectors, strict=True):
            found[digest] = Embedding(vector, len(cut), cut.truncated)
        return found


def _observed(phase: str, seconds: float) -> float:
    _PHASES[phase].observe(seconds)
    return seconds


def _check(vectors: Vectors) -> None:
    """A vector that is not finite and of unit length is a failure, never an answer."""
    squares = np.einsum("nd,nd->n", vectors, vectors)
    # Written so that a NaN, which compares false, fails as well.
    if not bool(np.all(np.abs(squares - 1.0) <= UNIT_TOLERANCE)):
        raise Unavailable("The texts could not be encoded.")


def _longest(timings: Sequence[Timings]) -> Timings:
    if len(timings) == 1:
        return timings[0]
    return Timings(
        cache=max(t.cache for t in timings),
        tokenize=max(t.tokenize for t in timings),
        queue=max(t.queue for t in timings),
        encode=max(t.encode for t in timings),
    )
