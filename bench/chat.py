"""What the coordinator adds to the time to the first token of llama.cpp itself.

    python bench/chat.py [--rounds 9] [--json]

One llama.cpp server with the packaged model and one coordinator, each its own process on a unix
socket. The same request is streamed in turns to both (the order swaps every round, so that a slow
minute falls on both), after one warm-up each. The time is from the request to the first event that
has text. Two prompts: a short one, and one of about 220 tokens whose first words differ every time,
so that no prompt cache helps. A ratio is that of the medians; the added milliseconds are the median
of the differences within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import orjson

from aistack.service.key_setup import init_store
from aistack.service.keys import read_key
from aistack.stack import load_stack

START_SECONDS = 60.0
SHORT = "Say hello."
LONG = "The service reads every option of your own system and writes one line about it. " * 12


def client(socket: Path, key: str | None = None) -> httpx.Client:
    """An HTTP client over a unix socket."""
    return httpx.Client(
        # No kept connections on either side: llama.cpp's server drops one now and then.
        transport=httpx.HTTPTransport(
            uds=str(socket), limits=httpx.Limits(max_keepalive_connections=0)
        ),
        base_url="http://bench",
        headers={"authorization": f"Bearer {key}"} if key else {},
        timeout=120,
    )


def wait(http: httpx.Client, path: str, process: subprocess.Popen[bytes]) -> None:
    """Returns when `path` answers 200."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"{path}: the server ended with {process.returncode}")
        try:
            if http.get(path).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise SystemExit(f"{path}: not ready within {START_SECONDS:g} s")


def first_token(http: httpx.Client, prompt: str, nonce: str) -> float:
    """Milliseconds from the request to the first text; the rest of the answer is read too."""
    body = {
        "model": "local",
        "messages": [{"role": "user", "content": f"{nonce} {prompt}"}],
        "stream": True,
        "max_tokens": 4,
        "temperature": 0,
    }
    started = time.perf_counter()
    seen = None
    with http.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if seen is None and line.startswith("data: {"):
                choices = orjson.loads(line[6:])["choices"]
                if choices and choices[0]["delta"].get("content"):
                    seen = time.perf_counter()
    if seen is None:
        raise SystemExit("a stream without text")
    return (seen - started) * 1000


def measure(direct: httpx.Client, ours: httpx.Client, prompt: str, rounds: int) -> dict[str, float]:
    """Medians over the rounds, and the added time."""
    times: dict[str, list[float]] = {"direct": [], "ours": []}
    for number in range(-1, rounds):
        pair = [("direct", direct), ("ours", ours)]
        for name, http in pair if number % 2 else reversed(pair):
            spent = first_token(http, prompt, f"{number}{name}")
            if number >= 0:  # the first pair only warms up
                times[name].append(spent)
    added = [o - d for d, o in zip(times["direct"], times["ours"], strict=True)]
    medians = {name: statistics.median(spent) for name, spent in times.items()}
    return {
        "direct_ms": round(medians["direct"], 2),
        "coordinator_ms": round(medians["ours"], 2),
        "added_ms": round(statistics.median(added), 2),
        "ratio": round(medians["ours"] / medians["direct"], 3),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-chat-")))
        keys = init_store(folder / "keys", load_stack())
        llama, ours = folder / "llama.sock", folder / "coordinator.sock"
        config = {
            "log": {"level": "error"},
            "auth": {
                "keys_file": str(keys.keys_file),
                "pepper_file": str(keys.pepper_file),
                "internal_key_file": str(keys.internal_key_file("coordinator")),
            },
            "listen": {"socket": str(ours)},
            "llama": {"address": f"unix:{llama}"},
            "peers": {name: f"unix:{folder}/{name}.sock" for name in ("aidb", "embeddings")},
        }
        (folder / "config.json").write_text(json.dumps(config))
        threads = str(max(1, len(os.sched_getaffinity(0)) - 1))
        commands = {
            "llama": ["aistack.dev.llama_server", "--socket", str(llama), "--threads", threads],
            "ours": ["aistack", "serve", "coordinator", "--config", str(folder / "config.json")],
        }
        processes = {}
        for name, command in commands.items():
            processes[name] = process = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
        direct = stack.enter_context(client(llama))
        through = stack.enter_context(client(ours, read_key(keys.default_key_file)))
        wait(direct, "/health", processes["llama"])
        wait(through, "/readyz", processes["ours"])
        found = {
            name: measure(direct, through, prompt, arguments.rounds)
            for name, prompt in (("short", SHORT), ("long", LONG))
        }
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    print("prompt  direct ms  coordinator ms  added ms  ratio")
    for name, row in found.items():
        print(
            f"{name:6} {row['direct_ms']:10.1f} {row['coordinator_ms']:15.1f}"
            f" {row['added_ms']:9.1f} {row['ratio']:6.3f}"
        )


if __name__ == "__main__":
    main()
