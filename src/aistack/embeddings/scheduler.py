"""Batches for the encoder's lanes: cut when a lane is free, by tokens, never by a timer.

Not a queue of batches and no linger: texts wait one by one, sorted by length, and a lane takes the
best batch at the moment it can run it. An idle service encodes a lone text at once; under load
the batches grow by themselves. A pass starts from the text that has waited longest; every second
one from the shortest text where that is less than half as long, so that a short query is not stuck
behind a bulk of long texts, and a long text is not starved by a stream of short ones: with k older
texts before it, a text is in one of the next 2 (k + 1) passes, whichever lanes run them.

Texts that are requests of their own go in even passes: a lane takes at most its share of what waits
and of what the last passes took, whose callers are being answered and may come back. Else a burst
would keep the form in which it began, everybody in one pass and one text in the next, and lanes
and event loop would wait for each other in turns.

A caller may hold places before it has its tokens: what does not fit is refused before anything is
done for it.

Knows no HTTP and no model library: `encode` is any function from tokens to vectors.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Self

import structlog

from aistack.embeddings.cut import Cost, cut
from aistack.embeddings.encoder import EncoderError, Tokens, Vectors
from aistack.embeddings.lanes import Lanes
from aistack.embeddings.request import Encoded, Entry, Request, deliver
from aistack.service.errors import Overloaded, Unavailable

log = structlog.get_logger()

#: Seconds after which an idle lane wakes up to show that it lives.
IDLE_SECONDS = 1.0
#: Bounds of the advice in Retry-After, in seconds.
RETRY_SECONDS = (1.0, 30.0)
#: How many times as long as the shortest text the oldest must be for the shortest to go first.
MUCH_LONGER = 2


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass, for the metrics. `padded` = longest x texts."""

    texts: int
    tokens: int
    padded: int
    seconds: float
    failed: bool


class Reservation:
    """Places in the queue that are held until they are used or given back.

    A context manager that gives back what is left; to give back twice is harmless.
    """

    def __init__(self, scheduler: Scheduler, places: int) -> None:
        self._scheduler = scheduler
        self.places = places

    def release(self, *, keep: int = 0) -> None:
        """Give back all but `keep` places."""
        self._scheduler._keep(self, keep)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Scheduler:
    """The queue, the lanes that empty it, and what it does when there is too much."""

    def __init__(
        self,
        encode: Callable[[Sequence[Tokens]], Vectors],
        *,
        batch_tokens: int,
        queue_texts: int,
        cost: Cost,
        lanes: int = 1,
        cores: Sequence[int] = (),
        idle_seconds: float = IDLE_SECONDS,
        observe: Callable[[Pass], None] | None = None,
    ) -> None:
        """`encode` and `observe` (after each pass) are called in the lanes: by several at once."""
        self._encode = encode
        self._batch_tokens = batch_tokens
        self._queue_texts = queue_texts
        self._cost = cost
        self._idle_seconds = idle_seconds
        self._observe = observe
        self._changed = threading.Condition()
        self._by_length: list[Entry] = []
        self._by_age: deque[Entry] = deque()
        self._queued_tokens = 0
        self._reserved = 0
        self._sequence = 0
        self._passes = 0
        self._last_pass = [0] * lanes
        self._tokens_per_second = 0.0
        self._closing = False
        self._dead = False
        self._lanes = Lanes(self._step, ended=self._lanes_ended, count=lanes, cores=cores)

    async def start(self, prepare: Callable[[], None] = lambda: None) -> None:
        """Start the lanes; back when each has run `prepare`. Raises what one of them raised."""
        prepared = [asyncio.wrap_future(future) for future in self._lanes.start(prepare)]
        ready = False
        try:
            for ended in await asyncio.gather(*prepared, return_exceptions=True):
                if ended is not None:
                    raise ended
            ready = True
        finally:
            if not ready:
                self._close()

    async def stop(self, timeout: float) -> bool:
        """Take nothing more, encode what is queued, end the lanes; False after `timeout` seconds.

        What is still queued then ends with Unavailable.
        """
        self._close()
        if not self._lanes.alive or await asyncio.to_thread(self._lanes.join, timeout):
            return True
        self._drop_all()
        return False

    def _close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def heartbeat(self) -> int:
        """Advances while every lane lives, idle or busy."""
        return self._lanes.heartbeat()

    @property
    def alive(self) -> int:
        """Lanes that run."""
        return self._lanes.alive

    @property
    def depth(self) -> int:
        """Texts that wait."""
        return len(self._by_length)

    @property
    def reserved(self) -> int:
        """Places that are held for texts to come."""
        return self._reserved

    def reserve(self, count: int) -> Reservation:
        """Hold places for `count` texts, or raise Overloaded; Unavailable while stopping."""
        with self._changed:
            if self._closing or self._dead:
                raise Unavailable("The encoder is not running.")
            taken = len(self._by_length) + self._reserved
            if taken + count > self._queue_texts:
                raise Overloaded(
                    f"{taken} texts are waiting to be encoded.", retry_after=self._retry_after()
                )
            self._reserved += count
            return Reservation(self, count)

    async def submit(
        self, texts: Sequence[Tokens], reservation: Reservation | None = None
    ) -> Encoded:
        """Encode `texts` (at least one), in order, on the places of `reservation`.

        Without one, places are looked for now: raises Overloaded when there are too few. Raises
        Unavailable while stopping and when a pass failed. A cancelled call leaves the queue at
        once. Places of the reservation beyond the texts are given back.
        """
        loop = asyncio.get_running_loop()
        count = len(texts)
        request = Request(loop, loop.create_future(), [None] * count, count, time.perf_counter())
        with self._changed, reservation or self.reserve(count) as held:
            if self._closing or self._dead:
                raise Unavailable("The encoder is not running.")
            if held.places < count:
                raise ValueError(f"{count} texts on {held.places} places")
            for index, tokens in enumerate(texts):
                entry = Entry(request, index, tokens, self._sequence)
                self._sequence += 1
                insort(self._by_length, entry, key=attrgetter("key"))
                self._by_age.append(entry)
                self._queued_tokens += len(tokens)
            self._changed.notify(count)
        try:
            return await request.future
        finally:
            if not request.future.done() or request.future.cancelled():
                self._abandon(request)

    def _keep(self, reservation: Reservation, count: int) -> None:
        with self._changed:
            given = max(0, reservation.places - count)
            reservation.places -= given
            self._reserved -= given

    def _abandon(self, request: Request) -> None:
        with self._changed:
            self._end(request)

    def _end(self, request: Request) -> None:
        # Under the lock: nothing of the request is encoded from here on.
        request.ended = True
        kept = []
        for entry in self._by_length:
            if entry.request is request:
                entry.gone = True
                self._queued_tokens -= len(entry.tokens)
            else:
                kept.append(entry)
        self._by_length = kept

    def _retry_after(self) -> float:
        low, high = RETRY_SECONDS
        rate = self._tokens_per_second * self._lanes.alive
        return min(high, max(low, self._queued_tokens / rate)) if rate else low

    # -- in the lanes --------------------------------------------------------------------------

    def _step(self, lane: int) -> bool:
        batch = self._next_batch(lane)
        if batch:
            self._run_pass(batch)
        return batch is not None

    def _lanes_ended(self) -> None:
        # Reached by errors that no engine announces, too: the callers get an answer now, and the
        # heartbeat, which stops, gets the process restarted.
        with self._changed:
            self._dead = True
        self._drop_all()

    def _next_batch(self, lane: int) -> list[Entry] | None:
        """The next batch; empty after an idle interval; None when all is done."""
        with self._changed:
            if not self._by_length:
                if self._closing:
                    return None
                self._changed.wait(self._idle_seconds)
            return self._take(lane) if self._by_length else []

    def _take(self, lane: int) -> list[Entry]:
        anchor = 0
        self._passes += 1
        while self._by_age[0].gone:
            self._by_age.popleft()
        oldest = self._by_age[0]
        if self._passes % 2 or oldest.key[0] < MUCH_LONGER * self._by_length[0].key[0]:
            anchor = bisect_left(self._by_length, oldest.key, key=attrgetter("key"))
        lengths = [entry.key[0] for entry in self._by_length]
        low, high = cut(lengths, anchor, self._batch_tokens, self._cost, most=self._share())
        batch = self._by_length[low:high]
        del self._by_length[low:high]
        self._last_pass[lane] = len(batch)
        now = time.perf_counter()
        for entry in batch:
            entry.gone = True
            self._queued_tokens -= len(entry.tokens)
            entry.request.started = entry.request.started or now
        return batch

    def _share(self) -> int | None:
        """How many texts a lane takes at most, so that passes are even; None: as many as fit.

        A request of several texts is answered when the last one has its vector: to divide it gains
        nothing.
        """
        if any(entry.request.remaining > 1 for entry in self._by_length):
            return None
        return math.ceil((sum(self._last_pass) + len(self._by_length)) / (len(self._last_pass) + 1))

    def _run_pass(self, batch: list[Entry]) -> None:
        began = time.perf_counter()
        vectors: Vectors | None = None
        try:
            vectors = self._encode([entry.tokens for entry in batch])
            if len(vectors) != len(batch):
                raise EncoderError(f"{len(vectors)} vectors for {len(batch)} texts")
        except EncoderError as error:
            vectors = None
            log.error("pass_failed", texts=len(batch), exc_info=error)
        finally:
            # An error that no engine announces ends the lane; its callers are answered first.
            if vectors is None:
                self._fail(batch)
        self._report(batch, time.perf_counter() - began, failed=vectors is None)
        if vectors is not None:
            deliver(self._fill(batch, vectors))

    def _fill(self, batch: list[Entry], vectors: Vectors) -> list[Request]:
        """Put the vectors where they belong; the requests that are complete by them."""
        complete = []
        with self._changed:
            for entry, vector in zip(batch, vectors, strict=True):
                request = entry.request
                request.vectors[entry.index] = vector
                request.remaining -= 1
                if not request.remaining and not request.ended:
                    complete.append(request)
        return complete

    def _report(self, batch: list[Entry], seconds: float, *, failed: bool) -> None:
        tokens = sum(len(entry.tokens) for entry in batch)
        if not failed and seconds > 0:
            rate = tokens / seconds
            with self._changed:
                previous = self._tokens_per_second or rate
                self._tokens_per_second = 0.8 * previous + 0.2 * rate
        if self._observe is not None:
            padded = len(batch) * max(len(entry.tokens) for entry in batch)
            self._observe(Pass(len(batch), tokens, padded, seconds, failed))

    def _fail(self, batch: Sequence[Entry]) -> None:
        for request in {id(entry.request): entry.request for entry in batch}.values():
            with self._changed:
                if request.ended:
                    continue
                self._end(request)
            request.fail(Unavailable("The texts could not be encoded."))

    def _drop_all(self) -> None:
        with self._changed:
            waiting = list(self._by_length)
        self._fail(waiting)
