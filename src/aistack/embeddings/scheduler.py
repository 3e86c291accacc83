"""Batches for one encoder thread: cut when the thread is free, by tokens, never by a timer.

Not a queue of batches and no linger: texts wait one by one, sorted by length, and the thread takes
the best batch at the moment it can run it. An idle service encodes a lone text at once; under load
the batches grow by themselves. Every second pass starts from the text that has waited longest and
the others from the shortest text, so that a short query is not stuck behind a bulk of long texts
and a long text is not starved by a stream of short ones: with k older texts before it, a text is
encoded within 2 (k + 1) passes.

Knows no HTTP and no model library: `encode` is any function from tokens to vectors.
"""

from __future__ import annotations

import asyncio
import threading
import time
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

import numpy as np
import structlog

from aistack.embeddings.encoder import EncoderError, Tokens, Vectors
from aistack.service.errors import Overloaded, Unavailable

log = structlog.get_logger()

#: Share of real tokens that padding may add to a batch, beyond the fixed cost of a pass.
PADDING_SHARE = 0.1
#: Seconds after which an idle encoder thread wakes up to show that it lives.
IDLE_SECONDS = 1.0
#: Bounds of the advice in Retry-After, in seconds.
RETRY_SECONDS = (1.0, 30.0)


@dataclass(frozen=True, slots=True)
class Encoded:
    """The vectors of one request, (n, d) float32 in its order, and where the seconds went."""

    vectors: Vectors
    queue_seconds: float
    encode_seconds: float


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass, for the metrics. `padded` = longest x texts."""

    texts: int
    tokens: int
    padded: int
    seconds: float
    failed: bool


@dataclass(slots=True, eq=False)
class _Request:
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Encoded]
    vectors: list[Vectors | None]
    remaining: int
    queued: float
    started: float = 0.0
    ended: bool = False


@dataclass(slots=True, eq=False)
class _Entry:
    request: _Request
    index: int
    tokens: Tokens
    key: tuple[int, int] = field(init=False)
    gone: bool = False


def cut(lengths: Sequence[int], anchor: int, budget: int, pass_tokens: int) -> tuple[int, int]:
    """The window [low, high) of the ascending `lengths` that is one batch and holds `anchor`.

    It grows to shorter texts first (they cost their padding only), then to longer ones, while
    longest x count is within `budget` and the padding is within a tenth of the real tokens plus
    the fixed cost of the pass that it saves. The anchor is always in, however long.
    """
    low, high, real = anchor, anchor + 1, lengths[anchor]

    def fits(longest: int, count: int, tokens: int) -> bool:
        padded = longest * count
        return padded <= budget and padded - tokens <= pass_tokens + PADDING_SHARE * tokens

    while low and fits(lengths[high - 1], high - low + 1, real + lengths[low - 1]):
        low -= 1
        real += lengths[low]
    while high < len(lengths) and fits(lengths[high], high - low + 1, real + lengths[high]):
        real += lengths[high]
        high += 1
    return low, high


class Scheduler:
    """The queue, the thread that empties it, and what it does when there is too much."""

    def __init__(
        self,
        encode: Callable[[Sequence[Tokens]], Vectors],
        *,
        batch_tokens: int,
        queue_texts: int,
        pass_tokens: int = 16,
        idle_seconds: float = IDLE_SECONDS,
        observe: Callable[[Pass], None] | None = None,
    ) -> None:
        """`observe` is called in the encoder thread after each pass."""
        self._encode = encode
        self._batch_tokens = batch_tokens
        self._queue_texts = queue_texts
        self._pass_tokens = pass_tokens
        self._idle_seconds = idle_seconds
        self._observe = observe
        self._changed = threading.Condition()
        self._by_length: list[_Entry] = []
        self._by_age: deque[_Entry] = deque()
        self._queued_tokens = 0
        self._sequence = 0
        self._passes = 0
        self._beats = 0
        self._tokens_per_second = 0.0
        self._closing = False
        self._dead = False
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)

    def start(self) -> None:
        """Start the encoder thread."""
        self._thread.start()

    async def stop(self, timeout: float) -> bool:
        """Take nothing more, encode what is queued, end the thread; False after `timeout` seconds.

        What is still queued then ends with Unavailable.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if not self._thread.is_alive():
            return True
        await asyncio.to_thread(self._thread.join, timeout)
        if not self._thread.is_alive():
            return True
        self._drop_all()
        return False

    def heartbeat(self) -> int:
        """Advances while the encoder thread lives, idle or busy."""
        return self._beats

    @property
    def alive(self) -> bool:
        """Whether the encoder thread runs."""
        return self._thread.is_alive()

    @property
    def depth(self) -> int:
        """Texts that wait."""
        return len(self._by_length)

    async def submit(self, texts: Sequence[Tokens]) -> Encoded:
        """Encode `texts` (at least one), in order.

        Raises Overloaded when the queue has no room for them, Unavailable while stopping and when
        a pass failed. A cancelled call leaves the queue at once.
        """
        loop = asyncio.get_running_loop()
        count = len(texts)
        request = _Request(loop, loop.create_future(), [None] * count, count, time.perf_counter())
        with self._changed:
            if self._closing or self._dead:
                raise Unavailable("The encoder is not running.")
            if len(self._by_length) + count > self._queue_texts:
                raise Overloaded(
                    f"{len(self._by_length)} texts are waiting to be encoded.",
                    retry_after=self._retry_after(),
                )
            for index, tokens in enumerate(texts):
                entry = _Entry(request, index, tokens)
                entry.key = (len(tokens), self._sequence)
                self._sequence += 1
                insort(self._by_length, entry, key=attrgetter("key"))
                self._by_age.append(entry)
                self._queued_tokens += len(tokens)
            self._changed.notify_all()
        try:
            return await request.future
        finally:
            if not request.future.done() or request.future.cancelled():
                self._abandon(request)

    def _abandon(self, request: _Request) -> None:
        with self._changed:
            self._end(request)

    def _end(self, request: _Request) -> None:
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
        if not self._tokens_per_second:
            return low
        return min(high, max(low, self._queued_tokens / self._tokens_per_second))

    # -- the encoder thread --------------------------------------------------------------------

    def _run(self) -> None:
        batch: list[_Entry] | None = []
        try:
            while (batch := self._next_batch()) is not None:
                if batch:
                    self._run_pass(batch)
        finally:
            # Reached by an error that no engine announces, too: the callers get an answer now,
            # and the heartbeat, which stops, gets the process restarted.
            with self._changed:
                self._dead = True
            self._fail(batch or [])
            self._drop_all()

    def _next_batch(self) -> list[_Entry] | None:
        """The next batch; empty after an idle interval; None when all is done."""
        with self._changed:
            self._beats += 1
            if not self._by_length:
                if self._closing:
                    return None
                self._changed.wait(self._idle_seconds)
            if not self._by_length:
                return []
            return self._take()

    def _take(self) -> list[_Entry]:
        anchor = 0
        self._passes += 1
        while self._by_age[0].gone:
            self._by_age.popleft()
        if self._passes % 2:
            oldest = self._by_age[0]
            anchor = bisect_left(self._by_length, oldest.key, key=attrgetter("key"))
        lengths = [entry.key[0] for entry in self._by_length]
        low, high = cut(lengths, anchor, self._batch_tokens, self._pass_tokens)
        batch = self._by_length[low:high]
        del self._by_length[low:high]
        now = time.perf_counter()
        for entry in batch:
            entry.gone = True
            self._queued_tokens -= len(entry.tokens)
            entry.request.started = entry.request.started or now
        return batch

    def _run_pass(self, batch: list[_Entry]) -> None:
        began = time.perf_counter()
        try:
            vectors = self._encode([entry.tokens for entry in batch])
        except EncoderError as error:
            log.error("pass_failed", texts=len(batch), exc_info=error)
            self._fail(batch)
            self._report(batch, time.perf_counter() - began, failed=True)
            return
        self._report(batch, time.perf_counter() - began, failed=False)
        for entry, vector in zip(batch, vectors, strict=True):
            request = entry.request
            request.vectors[entry.index] = vector
            request.remaining -= 1
            if not request.remaining and not request.ended:
                self._deliver(request)

    def _report(self, batch: list[_Entry], seconds: float, *, failed: bool) -> None:
        tokens = sum(len(entry.tokens) for entry in batch)
        if not failed and seconds > 0:
            rate = tokens / seconds
            previous = self._tokens_per_second or rate
            self._tokens_per_second = 0.8 * previous + 0.2 * rate
        if self._observe is not None:
            padded = len(batch) * max(len(entry.tokens) for entry in batch)
            self._observe(Pass(len(batch), tokens, padded, seconds, failed))

    def _deliver(self, request: _Request) -> None:
        now = time.perf_counter()
        result = Encoded(
            np.stack([vector for vector in request.vectors if vector is not None]),
            request.started - request.queued,
            now - request.started,
        )
        _resolve(request, result)

    def _fail(self, batch: Sequence[_Entry]) -> None:
        for request in {id(entry.request): entry.request for entry in batch}.values():
            with self._changed:
                if request.ended:
                    continue
                self._end(request)
            _resolve(request, Unavailable("The texts could not be encoded."))

    def _drop_all(self) -> None:
        with self._changed:
            waiting = list(self._by_length)
        self._fail(waiting)


def _resolve(request: _Request, result: Encoded | Unavailable) -> None:
    def settle() -> None:
        if request.future.done():
            return
        if isinstance(result, Encoded):
            request.future.set_result(result)
        else:
            request.future.set_exception(result)

    # The loop of a process that is being torn down may be gone, and its callers with it.
    if not request.loop.is_closed():
        request.loop.call_soon_threadsafe(settle)
