"""Steady requests of every kind that must all be answered, while something else goes on.

Half of the workers keep their connection, the others make one for each request. 429 with
Retry-After is waited out and counted; anything else that is not 2xx is a failure.
"""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .client import CheckError, Client, client, parser, run
from .documents import put

Request = tuple[str, str, object]


def requests(kind: str, collection: str) -> Iterator[Request]:
    """Endless requests of one kind; texts differ, so that no cache answers."""
    for number in itertools.count():
        text = f"{kind} {number} of {time.monotonic_ns()}"
        if kind == "embed":
            yield "POST", "/v1/embeddings", {"model": "all-minilm-l6-v2", "input": text}
        elif kind == "search":
            yield "POST", "/v1/search", {"query": text, "collection": collection}
        elif kind == "models":
            yield "GET", "/v1/models", None
        elif kind == "ingest":
            body = {"collection": collection, "source": f"load-{number % 20}", "text": text}
            yield "POST", "/v1/documents", body
        elif kind == "chat":
            messages = [{"role": "user", "content": "Say hello."}]
            yield (
                "POST",
                "/v1/chat/completions",
                {
                    "model": "local",
                    "messages": messages,
                    "max_tokens": 4,
                    "stream": number % 2 == 1,
                },
            )
        else:
            raise CheckError(f"no such kind of request: {kind}")


@dataclass
class Tally:
    """What the workers saw; they share it."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    waited: int = 0
    answered: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def report(self) -> dict[str, Any]:
        """Figures; times in milliseconds."""
        every = sorted(itertools.chain.from_iterable(self.seconds.values()))
        return {
            "requests": len(every) + len(self.failures),
            "failed": len(self.failures),
            "waited_429": self.waited,
            "p50_ms": _percentile(every, 0.50),
            "p99_ms": _percentile(every, 0.99),
            "by_kind": {kind: len(times) for kind, times in sorted(self.seconds.items())},
            "failures": self.failures[:20],
        }


def _percentile(values: list[float], share: float) -> float:
    return round(values[min(len(values) - 1, int(len(values) * share))] * 1000, 1) if values else 0


def broken(kind: str, body: bytes) -> bool:
    """Whether an answer of 200 is a stream that did not come to its end."""
    return kind == "chat" and body.startswith(b"data:") and b"data: [DONE]" not in body


def worker(
    stack: Client, kind: str, collection: str, tally: Tally, pause: float, over: Callable[[], bool]
) -> None:
    """One request after the other until it is over."""
    for method, path, body in requests(kind, collection):
        if over():
            return
        begun = time.monotonic()
        try:
            answer = stack.request(method, path, body)
        except (OSError, http.client.HTTPException) as error:
            with tally.lock:
                tally.failures.append(f"{path}: {type(error).__name__}: {error}")
            continue
        took = time.monotonic() - begun
        with tally.lock:
            if answer.status == 429 and answer.headers.get("retry-after", "").isdigit():
                tally.waited += 1
                wait = float(answer.headers["retry-after"])
            elif not 200 <= answer.status < 300 or broken(kind, answer.body):
                headers = {name: answer.headers.get(name) for name in ("retry-after", "date")}
                tally.failures.append(f"{path}: {answer} {headers}")
                wait = pause
            else:
                tally.seconds.setdefault(kind, []).append(took)
                tally.answered += 1
                wait = pause
        time.sleep(wait)


def check() -> str:
    """Until a file exists, or for some seconds."""
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=600.0, help="at most")
    options.add_argument("--until", type=Path, help="end when this file exists")
    options.add_argument("--report", type=Path, help="write the figures there as JSON")
    options.add_argument("--progress", type=Path, help="write the number of answers there, often")
    options.add_argument("--kinds", default="embed,search,models,ingest,chat")
    options.add_argument("--workers", type=int, default=2, help="of each kind")
    options.add_argument("--pause", type=float, default=0.2, help="seconds between two requests")
    options.add_argument("--collection", default="check-load")
    asked = options.parse_args()
    end = time.monotonic() + asked.seconds

    def over() -> bool:
        return time.monotonic() > end or (asked.until is not None and asked.until.exists())

    tally = Tally()
    first = client(asked)
    put(first, asked.collection)
    threads = []
    for kind in asked.kinds.split(","):
        for number in range(asked.workers):
            stack = client(asked)
            stack.keep = number % 2 == 1
            given = (stack, kind, asked.collection, tally, asked.pause, over)
            threads.append(threading.Thread(target=worker, args=given, name=f"{kind}-{number}"))
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if asked.progress:
            asked.progress.write_text(str(tally.answered))
        time.sleep(0.2)
    report = tally.report()
    if asked.report:
        asked.report.write_text(json.dumps(report))
    if tally.failures or not tally.seconds:
        raise CheckError(f"{report['failed']} of {report['requests']} failed: {tally.failures[:3]}")
    return f"load: {json.dumps(report)}"


if __name__ == "__main__":
    run(check)
