"""Against infinity-emb, with the same model on the same cores; the cache of vectors is off.

It is installed into a virtual environment of its own under `$AISTACK_BENCH_DIR`, by default
`~/.cache/aistack-bench`; about 1.5 GB, once. Both listen on TCP.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from aistack.models import find_model
from bench.embeddings.bars import Figure
from bench.embeddings.closed_loop import Address, Load, closed_loop, once
from bench.embeddings.machine import CLIENT_CORE, pinned
from bench.embeddings.service import MODEL, all_cores, running
from bench.embeddings.texts import post, texts, vectors_of

VERSION = "0.0.78"
TORCH = "torch==2.13.0"
#: The versions that this release works with, found by trying.
PINS = (
    TORCH,
    f"infinity-emb[server,torch,logging]=={VERSION}",
    "transformers==4.48.3",
    "sentence-transformers==3.4.1",
    "numpy<2",
    "pyarrow<22",
    "datasets<4",
    "einops",
)
CLIENTS = 32
BARS = {"short": 2.5, "medium": 1.6}
REQUESTS = {"short": 320, "medium": 128}
START_SECONDS = 180


def environment() -> Path:
    """The peer's virtual environment, made when it is not there. Raises CalledProcessError."""
    base = Path(os.environ.get("AISTACK_BENCH_DIR", "~/.cache/aistack-bench")).expanduser()
    venv = base / f"infinity-{VERSION}"
    if not (venv / ".complete").exists():
        print(f"installing infinity-emb {VERSION} into {venv}", flush=True)
        base.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        install: list[str | Path] = [
            venv / "bin/pip",
            "install",
            "-q",
            "--disable-pip-version-check",
        ]
        # First alone: its pin decides which of torch's many builds the others find.
        subprocess.run([*install, TORCH], check=True)
        subprocess.run([*install, *PINS], check=True)
        (venv / ".complete").touch()
    return venv


@contextmanager
def infinity(venv: Path, port: int, log: Path) -> Iterator[tuple[int, Address]]:
    """The peer until the end of the block: its process and its address."""
    model = find_model(None).directory
    with log.open("wb") as handle:
        process = subprocess.Popen(
            [
                venv / "bin/python", venv / "bin/infinity_emb", "v2", "--model-id", model,
                "--served-model-name", MODEL, "--engine", "torch", "--no-bettertransformer",
                "--url-prefix", "/v1", "--host", "127.0.0.1", "--port", str(port),
            ],
            stdout=handle,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1",
                 "INFINITY_ANONYMOUS_USAGE_STATS": "0", "PYTHONPATH": ""},
        )  # fmt: skip
    address = ("127.0.0.1", port)
    try:
        end = time.monotonic() + START_SECONDS
        while not _answers(address):
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"infinity-emb did not start:\n{log.read_text()[-4000:]}")
            time.sleep(0.2)
        yield process.pid, address
    finally:
        process.terminate()
        process.wait(30)


def _answers(address: tuple[str, int]) -> bool:
    try:
        return once(address, _request(["ready?"], key=None))[0] == 200
    except OSError:
        return False


def measure(state: Path, rounds: int) -> list[Figure]:
    """32 clients of one text each, in turns; the client works on the second core beside them."""
    venv = environment()
    ports = [_free_port(), _free_port()]
    options: dict[str, Any] = {"lanes": None, "lane_cores": None}
    figures: list[Figure] = []
    with (
        pinned(*all_cores()),
        infinity(venv, ports[0], state / "infinity.log") as (_, theirs),
        running(state, cores=all_cores(), options=options, port=ports[1]) as service,
    ):
        ours: Address = ("127.0.0.1", ports[1])
        cosine = _cosine(theirs, ours, service.key)
        figures.append(Figure("mean cosine of the two", cosine, at_least=0.999))
        for shape, bar in BARS.items():
            figures += _shape(shape, bar, {"theirs": theirs, "ours": ours}, service.key, rounds)
    return figures


def _shape(
    shape: str, bar: float, servers: dict[str, Address], key: str, rounds: int
) -> list[Figure]:
    total = REQUESTS[shape]
    requests = [_request([text], key=key) for text in texts(shape, total)]
    loads: dict[str, list[Load]] = {name: [] for name in servers}
    with pinned(CLIENT_CORE):
        for turn in range(rounds + 1):
            for name, address in servers.items():
                load = closed_loop(address, requests, connections=CLIENTS, total=total)
                if load.count() != total:
                    raise SystemExit(f"{name}: answers by status: {load.statuses()}")
                if turn:
                    loads[name].append(load)
    rates = {name: [total / load.seconds for load in found] for name, found in loads.items()}
    late = {name: [load.quantile(0.99) for load in found] for name, found in loads.items()}
    ratio = statistics.median(a / b for a, b in zip(rates["ours"], rates["theirs"], strict=True))
    p99 = statistics.median(a / b for a, b in zip(late["ours"], late["theirs"], strict=True))
    return [
        Figure(f"{shape}: infinity-emb", statistics.median(rates["theirs"]), "texts/s"),
        Figure(f"{shape}: aistack", statistics.median(rates["ours"]), "texts/s"),
        Figure(f"{shape}: ratio", ratio, at_least=bar),
        Figure(f"{shape}: p99 of infinity-emb", 1e3 * statistics.median(late["theirs"]), "ms"),
        Figure(f"{shape}: p99 of aistack", 1e3 * statistics.median(late["ours"]), "ms"),
        Figure(f"{shape}: ratio of the p99", p99, at_most=1.0),
    ]


def _request(batch: Sequence[str], key: str | None) -> bytes:
    # Numbers, not base64: the peer's base64 is another one.
    body = orjson.dumps({"model": MODEL, "input": list(batch)})
    return post("/v1/embeddings", body, key=key, host="127.0.0.1")


def _cosine(theirs: Address, ours: Address, key: str) -> float:
    given = texts("mixed", 32)
    found = []
    for address in (theirs, ours):
        status, body = once(address, _request(given, key))
        if status != 200:
            raise SystemExit(f"{address}: {status} {body[:400]!r}")
        vectors = np.array(vectors_of(body), dtype=np.float64)
        found.append(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    return float(np.einsum("nd,nd->n", *found).mean())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
