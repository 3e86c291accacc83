"""`make bench-profile`: what each part takes, idle and under load; writes nix/profile.toml.

The limits of the systemd units follow from that file (nix/lib.nix). Resident memory is the
kernel's: VmRSS after the start, VmHWM (the highest since the start) after the load; of a part with
several processes their sum, which counts shared pages once a process and so errs upwards. Tasks are
threads.

The load, all at once: a document of half the largest size and more small ones than are embedded
meanwhile (so that `aidb.workers` of them are under way), searches in every mode, large batches of
embeddings, and streamed answers; then what is left of the documents until the large one is ready.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from aistack.config import AidbConfig, EmbeddingsConfig
from aistack.dev.state import read_state
from aistack.stack import load_stack
from bench.stack import up

TARGET = Path(__file__).parent.parent / "nix" / "profile.toml"
LOAD_SECONDS = 60.0
#: For the large document from its upload on; the whole run is within six minutes.
LONGEST_SECONDS = 300.0
SEARCHERS = 8
CHATTERS = 4
#: Answers below which nothing was under load.
LEAST = {"large": 1, "ingest": 30, "embed": 3, "search": 200, "chat": 20}
DOCS = Path(__file__).parent.parent / "docs"
#: Real words, in no order: a text of them repeats few phrases, which is the hard case.
VOCABULARY = sorted(
    {
        word
        for page in DOCS.glob("*.md")
        for word in page.read_text(encoding="utf-8").split()
        if word.isascii()
    }
)


@dataclass(slots=True)
class Usage:
    """Of one part; MiB, threads, seconds."""

    rss_idle: float
    rss_peak: float = 0.0
    tasks_peak: int = 0
    cpu_seconds: float = 0.0


def tree(pid: int) -> list[psutil.Process]:
    """A process and all below it."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def resident(processes: list[psutil.Process], field: str) -> float:
    """The sum of one field of /proc/PID/status, in MiB."""
    total = 0
    for process in processes:
        try:
            text = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        except FileNotFoundError:  # it ended meanwhile
            continue
        line = next((line for line in text.splitlines() if line.startswith(field + ":")), None)
        total += int(line.split()[1]) if line else 0
    return total / 1024


def threads(processes: list[psutil.Process]) -> int:
    """Threads of all of them."""
    count = 0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            count += process.num_threads()
    return count


class Load:
    """Clients that work until the time is over; the first error ends the run."""

    def __init__(self, said: Mapping[str, Any], seconds: float) -> None:
        self._base = str(said["base_url"])
        self._key = Path(said["key_file"]).read_text().strip()
        self._end = time.monotonic() + seconds
        self.errors: list[str] = []
        self.done: dict[str, int] = {}
        self.refused: dict[str, int] = {}

    def run(self, watch: Callable[[], None]) -> None:
        """Every kind of client at once, `watch` called four times a second meanwhile."""
        work = [self.large, self.ingest, self.embed]
        work += [self.search] * SEARCHERS + [self.chat] * CHATTERS
        running = [threading.Thread(target=self._loop, args=(one, n)) for n, one in enumerate(work)]
        for thread in running:
            thread.start()
        while any(thread.is_alive() for thread in running):
            watch()
            running[0].join(0.25)

    def _loop(self, work: Callable[[httpx.Client, random.Random], bool], number: int) -> None:
        rng = random.Random(number)
        headers = {"authorization": f"Bearer {self._key}"}
        with httpx.Client(base_url=self._base, headers=headers, timeout=180) as http:
            name = work.__name__
            while time.monotonic() < self._end and not self.errors:
                try:
                    answered = work(http, rng)
                except (httpx.HTTPError, LookupError, ValueError) as error:
                    self.errors.append(f"{name}: {error!r}")
                    return
                which = self.done if answered else self.refused
                which[name] = which.get(name, 0) + 1
                if work == self.large:
                    return

    def _accepted(self, answer: httpx.Response) -> bool:
        if answer.status_code in (429, 503) and "retry-after" in answer.headers:
            time.sleep(0.2)  # overload, told as it should be
            return False
        answer.raise_for_status()
        return True

    def ingest(self, http: httpx.Client, rng: random.Random) -> bool:
        """Small documents, more than are embedded meanwhile: every worker has one."""
        source = f"{self.done.get('ingest', 0)}.txt"
        body = {"source": source, "text": words(rng, 4000)}
        time.sleep(0.05)
        return self._accepted(http.post("/v1/documents", json=body))

    def large(self, http: httpx.Client, rng: random.Random) -> bool:
        """A large document, until it is searchable."""
        # As large as may be, it would make more chunks than one document may (20,000). Its
        # pages repeat: most vectors come from the cache, else they would take ten minutes.
        page = "\n\n".join(words(rng, 600) for _ in range(100)) + "\n\n"
        text = page * (AidbConfig().document_bytes // 2 // len(page))
        answer = http.post("/v1/documents", json={"source": "large.txt", "text": text})
        answer.raise_for_status()
        path = f"/v1/documents/{answer.json()['id']}"
        began = time.monotonic()
        while (document := http.get(path).json())["state"] != "ready":
            if document["state"] == "failed" or time.monotonic() - began > LONGEST_SECONDS:
                self.errors.append(f"the large document: {document}")
                return False
            time.sleep(0.5)
        return True

    def embed(self, http: httpx.Client, rng: random.Random) -> bool:
        """A whole request's worth of texts."""
        texts = [words(rng, 600) for _ in range(EmbeddingsConfig().client_batch // 4)]
        body = {"model": "all-minilm-l6-v2", "input": texts}
        return self._accepted(http.post("/v1/embeddings", json=body))

    def search(self, http: httpx.Client, rng: random.Random) -> bool:
        """Each mode in turn, never from the cache."""
        mode = ("hybrid", "dense", "lexical")[self.done.get("search", 0) % 3]
        body = {"query": words(rng, 60), "mode": mode, "limit": 50}
        return self._accepted(http.post("/v1/search", json=body))

    def chat(self, http: httpx.Client, rng: random.Random) -> bool:
        """A streamed answer from the documents."""
        body = {
            "model": "aistack",
            "stream": True,
            "max_tokens": 64,
            "messages": [{"role": "user", "content": words(rng, 80)}],
        }
        with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            for _ in answer.iter_bytes():
                pass
            return self._accepted(answer)


def words(rng: random.Random, length: int) -> str:
    """About `length` characters of words."""
    return " ".join(rng.choices(VOCABULARY, k=length // 6 + 1))[:length]


def measure(said: Mapping[str, Any], seconds: float) -> dict[str, Usage]:
    """Usage of every part that the supervisor runs."""
    state = read_state(Path(said["run_dir"]) / "state.json")
    pids = {name: unit["pid"] for name, unit in state.items() if unit["pid"]}
    usage = {name: Usage(rss_idle=resident(tree(pid), "VmRSS")) for name, pid in pids.items()}

    def watch() -> None:
        for name, pid in pids.items():
            processes = tree(pid)
            found = usage[name]
            found.tasks_peak = max(found.tasks_peak, threads(processes))
            # A server with a process per connection: the peak is of one moment.
            found.rss_peak = max(found.rss_peak, resident(processes, "VmRSS"))

    load = Load(said, seconds)
    load.run(watch)
    if load.errors:
        raise SystemExit(f"the load failed: {load.errors[0]}")
    print("answered:", load.done, "refused:", load.refused, file=sys.stderr)
    if missing := [name for name, least in LEAST.items() if load.done.get(name, 0) < least]:
        raise SystemExit(f"too few answers to speak of a load: {', '.join(missing)}")
    for name, pid in pids.items():
        processes = tree(pid)
        if len(processes) == 1:
            usage[name].rss_peak = max(usage[name].rss_peak, resident(processes, "VmHWM"))
        times = psutil.Process(pid).cpu_times()
        usage[name].cpu_seconds = times.user + times.system
    return usage


def document(usage: Mapping[str, Usage]) -> str:
    """The file."""
    services = load_stack().services
    lines = [
        "# What each part takes; its limits follow from this (nix/lib.nix). Written by",
        "# `make bench-profile`: `aistack up` under ingestion, embeddings, searches and answers at",
        f"# once, on {os.cpu_count()} cores, with the light encoder and the packaged model.",
        "#",
        "# rss_mib_idle  resident memory once ready, MiB",
        "# rss_mib_peak  highest resident memory under load, MiB",
        "# tasks_peak    most threads of all its processes",
        "# cpu_seconds   processor time of its main process until the end",
    ]
    for name, found in sorted(usage.items(), key=lambda item: (item[0] not in services, item[0])):
        kind = "services" if name in services else "servers"
        lines += [
            "",
            f"[{kind}.{name}]",
            f"rss_mib_idle = {found.rss_idle:.0f}",
            f"rss_mib_peak = {found.rss_peak:.0f}",
            f"tasks_peak = {found.tasks_peak}",
            f"cpu_seconds = {found.cpu_seconds:.0f}",
        ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measures and writes; prints the same."""
    parser = argparse.ArgumentParser(description="Profile the running stack.")
    parser.add_argument("--seconds", type=float, default=LOAD_SECONDS)
    parser.add_argument("--output", type=Path, default=TARGET)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="aistack-bench-") as directory,
        up(Path(directory) / "data") as said,
    ):
        text = document(measure(said, options.seconds))
    options.output.write_text(text, encoding="utf-8")
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
