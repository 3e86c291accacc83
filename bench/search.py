"""`make bench-search`: a cached search against one that is not, in one run, interleaved.

The calls of aidb to its dependencies are counted from its own metrics: a cached search makes no
embedding call, and of PostgreSQL it asks one thing, the state of the collection.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from bench.stack import up

ROUNDS = 30
DOCUMENTS = 200


def calls(run_dir: Path) -> Counter[str]:
    """Calls of aidb so far, by dependency and operation; probes and background work left out."""
    transport = httpx.HTTPTransport(uds=str(run_dir / "aidb.sock"))
    with httpx.Client(transport=transport, base_url="http://localhost") as client:
        text = client.get("/metrics").text
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "aistack_dependency_calls_total":
                name = f"{sample.labels['dependency']} {sample.labels['operation']}"
                if name.startswith(("postgres search", "embeddings POST")):
                    found[name] += int(sample.value)
    return found


def fill(http: httpx.Client) -> None:
    """Documents to search in; returns when all are ready."""
    for number in range(DOCUMENTS):
        text = f"Document {number} tells of topic {number % 17}, and of nothing else. " * 5
        http.post("/v1/documents", json={"source": f"{number}", "text": text}).raise_for_status()
    while http.get("/v1/documents", params={"state": "ready", "limit": 1}).json()["data"] == []:
        time.sleep(0.1)
    for state in ("pending", "processing"):
        while http.get("/v1/documents", params={"state": state, "limit": 1}).json()["data"]:
            time.sleep(0.1)


def main() -> int:
    """Prints medians, their ratio and the counted calls; 1 when a cached search called too much."""
    with (
        tempfile.TemporaryDirectory(prefix="aistack-bench-") as directory,
        up(Path(directory) / "data") as said,
    ):
        return measure(said)


def measure(said: Mapping[str, Any]) -> int:
    """The run against a stack that is ready; `said` is its `endpoint.json`."""
    run_dir = Path(said["run_dir"])
    key = Path(said["key_file"]).read_text().strip()
    seconds: dict[str, list[float]] = {"first": [], "cached": []}
    counted: dict[str, Counter[str]] = {"first": Counter(), "cached": Counter()}
    with httpx.Client(
        base_url=said["base_url"], headers={"authorization": f"Bearer {key}"}, timeout=60
    ) as http:
        fill(http)
        for number in range(ROUNDS):
            for kind in ("first", "cached"):
                before = calls(run_dir)
                began = time.perf_counter()
                answer = http.post("/v1/search", json={"query": f"topic number {number}"})
                seconds[kind].append(time.perf_counter() - began)
                answer.raise_for_status()
                if answer.json()["cached"] != (kind == "cached"):
                    raise SystemExit(f"the {kind} search says cached={answer.json()['cached']}")
                counted[kind] += calls(run_dir) - before
    medians = {kind: statistics.median(values) * 1000 for kind, values in seconds.items()}
    print(f"search through the front door, median of {ROUNDS}, interleaved")
    for kind, median in medians.items():
        print(f"  {kind:6} {median:6.1f} ms  calls {dict(counted[kind])}")
    print(f"cached / first {medians['cached'] / medians['first']:.2f}")
    good = set(counted["cached"]) == {"postgres search.look"}
    print(f"a cached search embeds nothing and reads no document: {'yes' if good else 'NO'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
