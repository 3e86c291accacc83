"""`python -m bench.embeddings`: every part, or one of them."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from bench.embeddings import engines, http, kit, memory, overload, peer
from bench.embeddings.bars import Figure, show

Part = Callable[[Path, int], list[Figure]]

#: Name → what it measures. A part gets a directory that keeps the made graph, and the rounds.
PARTS: dict[str, tuple[str, Part]] = {
    "http": ("The service over HTTP / its raw encoder on the same texts", http.measure),
    "kit": ("A no-op encoder through the kit / a bare FastAPI route", kit.measure),
    "overload": (f"{overload.TIMES} times the peak, offered at a fixed rate", overload.measure),
    "engines": ("The default encoder / sentence-transformers fp32", engines.measure),
    "peer": (f"The service / infinity-emb {peer.VERSION}, 32 clients x 1 text", peer.measure),
}

MEMORY = "memory"


def main() -> int:
    """Run, print, and return 1 when a figure is under its bar."""
    parser = argparse.ArgumentParser(prog="python -m bench.embeddings")
    parser.add_argument("--only", choices=[*PARTS, MEMORY], action="append", help="repeatable")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each thing compared")
    parser.add_argument("--minutes", type=float, default=2.0, help=f"of the part {MEMORY}")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found: dict[str, list[Figure]] = {}
    with tempfile.TemporaryDirectory(prefix="aib-state-") as state:
        parts = {
            **PARTS,
            MEMORY: (
                "The resident set of the service under load",
                lambda state, _rounds: memory.measure(state, arguments.minutes),
            ),
        }
        for name, (title, part) in parts.items():
            if arguments.only and name not in arguments.only:
                continue
            found[name] = part(Path(state), arguments.rounds)
            if not arguments.json:
                show(f"{name}: {title}", found[name])
    if arguments.json:
        print(
            json.dumps({name: [asdict(one) for one in figures] for name, figures in found.items()})
        )
    missed = [f"{name}: {one.name}" for name, figures in found.items()
              for one in figures if not one.good]  # fmt: skip
    if missed:
        print("under its bar: " + "; ".join(missed), file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
