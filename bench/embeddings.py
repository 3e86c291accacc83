"""HTTP embeddings in client batches of 32 against the raw encoder, on the same texts, in one run.

    python bench/embeddings.py [--rounds 7] [--json]

The service (its own process, on a unix socket, cache off) and the raw encoder (this process) take
turns on core 0; the HTTP client works on core 1. The raw encoder is the same engine, called
directly with the same texts in their batches of 32, tokenizing included: once as one padded batch
each, once cut as the scheduler cuts; the faster one is the yardstick. A ratio is that of the
medians over the rounds, so that a slow minute of the machine falls on both. `cpu ratio` is the same
by the CPU seconds of the process that encodes, which other load on the machine hardly moves.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import orjson
import psutil

from aistack.config import EmbeddingsConfig
from aistack.embeddings.encoder import Encoder, Tokens
from aistack.embeddings.engines import open_encoder
from aistack.embeddings.scheduler import cut
from aistack.service.key_setup import init_store
from aistack.service.keys import read_key
from aistack.stack import load_stack

BATCH = 32
ENCODER_CORE, CLIENT_CORE = 0, 1
GOAL = 0.90
SENTENCES = (
    "the service reads every option of your own system and writes one line when a disk is full or",
    "a network card has gone while documents are cut into chunks and each chunk gets a vector",
)


def texts(words: tuple[int, int], count: int, seed: int) -> list[str]:
    """Distinct texts of so many words."""
    random_ = random.Random(seed)
    words_ = " ".join(SENTENCES).split()
    return [
        " ".join(random_.choice(words_) for _ in range(random_.randint(*words)))
        for _ in range(count)
    ]


SHAPES = {
    "short": ((6, 14), 320),
    "medium": ((50, 75), 96),
    "mixed": ((3, 200), 96),
}


def main() -> int:
    """Run, print, and return 1 when a ratio is under the goal."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clients", type=int, default=2, help="requests at once")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="aib-"))
    process: subprocess.Popen[bytes] | None = None
    try:
        os.sched_setaffinity(0, {ENCODER_CORE})
        _, encoder = open_encoder(EmbeddingsConfig(state_dir=directory))
        process, key = start_service(directory)
        results = {}
        with client(directory, key) as http:
            wait_ready(http, process, directory)
            for name, (words, count) in SHAPES.items():
                results[name] = measure(
                    encoder, http, process.pid, texts(words, count, len(name)), arguments
                )
    finally:
        if process is not None:
            process.terminate()
            process.wait(20)
        shutil.rmtree(directory)
    report(results, as_json=arguments.json)
    return 0 if min(r["ratio"] for r in results.values()) >= GOAL else 1


def start_service(directory: Path) -> tuple[subprocess.Popen[bytes], str]:
    """`aistack serve embeddings` pinned to the encoder's core, and a key."""
    keys = init_store(directory / "keys", load_stack())
    config = {
        "log": {"level": "warning"},
        "auth": {"keys_file": str(keys.keys_file), "pepper_file": str(keys.pepper_file)},
        "listen": {"socket": str(directory / "s.sock")},
        "embeddings": {"state_dir": str(directory), "cache_seconds": 0},
    }
    path = directory / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    code = (
        "import sys; from pathlib import Path; from aistack.service.run import serve;"
        "sys.exit(serve('embeddings', Path(sys.argv[1])))"
    )
    with (directory / "service.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdout=log, stderr=subprocess.STDOUT
        )
    return process, read_key(keys.default_key_file)


def client(directory: Path, key: str) -> httpx.Client:
    """Straight to the socket."""
    return httpx.Client(
        transport=httpx.HTTPTransport(uds=str(directory / "s.sock")),
        base_url="http://embeddings",
        headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
        timeout=120,
    )


def wait_ready(http: httpx.Client, process: subprocess.Popen[bytes], directory: Path) -> None:
    """Poll `/readyz` for a minute."""
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        try:
            if http.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.02)
    raise SystemExit((directory / "service.log").read_text(encoding="utf-8"))


def measure(
    encoder: Encoder,
    http: httpx.Client,
    pid: int,
    given: Sequence[str],
    arguments: argparse.Namespace,
) -> dict[str, float]:
    """Texts per second of each way, in turns; medians."""
    batches = [given[i : i + BATCH] for i in range(0, len(given), BATCH)]
    bodies = [
        orjson.dumps({"model": encoder.identity.model, "input": batch, "encoding_format": "base64"})
        for batch in batches
    ]
    budget = EmbeddingsConfig().batch_tokens

    def raw() -> None:
        for batch in batches:
            encoder.encode(encoder.tokenize(batch))

    def raw_cut() -> None:
        for batch in batches:
            for part in parts(encoder, batch, budget):
                encoder.encode(part)

    pool = ThreadPoolExecutor(arguments.clients)

    def post(body: bytes) -> None:
        response = http.post("/v1/embeddings", content=body)
        response.raise_for_status()
        orjson.loads(response.content)

    def over_http() -> None:
        list(pool.map(post, bodies))

    ways: dict[str, tuple[Callable[[], None], int]] = {
        "raw": (raw, ENCODER_CORE),
        "raw_cut": (raw_cut, ENCODER_CORE),
        "http": (over_http, CLIENT_CORE),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(arguments.rounds + 1):
        for name, (way, core) in ways.items():
            os.sched_setaffinity(0, {core})
            began, spent = time.perf_counter(), cpu_seconds(pid if way is over_http else None)
            way()
            if turn:  # the first turn warms up
                seconds[name].append(time.perf_counter() - began)
                cpu[name].append(cpu_seconds(pid if way is over_http else None) - spent)
    pool.shutdown()
    rates = {name: len(given) / statistics.median(taken) for name, taken in seconds.items()}
    spent_ = {name: statistics.median(taken) for name, taken in cpu.items()}
    return {
        **rates,
        "ratio": rates["http"] / max(rates["raw"], rates["raw_cut"]),
        "cpu_ratio": min(spent_["raw"], spent_["raw_cut"]) / spent_["http"],
    }


def cpu_seconds(pid: int | None) -> float:
    """CPU seconds that a process (or this one) has used."""
    if pid is None:
        return time.process_time()
    used = psutil.Process(pid).cpu_times()
    return float(used.user + used.system)


def parts(encoder: Encoder, batch: Sequence[str], budget: int) -> list[list[Tokens]]:
    """`batch` in passes, as the scheduler would cut it."""
    queue = sorted(encoder.tokenize(batch), key=len)
    made = []
    while queue:
        _, high = cut([len(tokens) for tokens in queue], 0, budget, encoder.pass_tokens)
        made.append(queue[:high])
        del queue[:high]
    return made


def report(results: dict[str, dict[str, float]], *, as_json: bool) -> None:
    """A table for people, or JSON."""
    if as_json:
        print(json.dumps({"embeddings": results, "goal": GOAL}))
        return
    print(f"embeddings over HTTP in batches of {BATCH} / raw encoder (texts/s; goal {GOAL:.2f})")
    print(f"{'texts':8}{'raw':>10}{'raw cut':>10}{'http':>10}{'ratio':>8}{'cpu ratio':>11}")
    for name, row in results.items():
        print(
            f"{name:8}{row['raw']:10.1f}{row['raw_cut']:10.1f}{row['http']:10.1f}"
            f"{row['ratio']:8.3f}{row['cpu_ratio']:11.3f}"
        )


if __name__ == "__main__":
    sys.exit(main())
