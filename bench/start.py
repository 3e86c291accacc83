"""`make bench-start`: seconds until `aistack up` is ready, from an empty directory and warm.

The two are taken in one run, on the same data directory; the bar is 10 s for the warm start.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench.stack import up

WARM_RUNS = 3
BAR_SECONDS = 10.0


def start(data: Path) -> float:
    """Seconds from the command to its announcement; then stops it."""
    began = time.monotonic()
    with up(data):
        return time.monotonic() - began


def main() -> int:
    """Prints both and their ratio; exit code 1 when the warm start is over the bar."""
    with tempfile.TemporaryDirectory(prefix="aistack-bench-") as directory:
        data = Path(directory) / "data"
        cold = start(data)
        warm = [start(data) for _ in range(WARM_RUNS)]
    median = statistics.median(warm)
    print(f"first start {cold:.2f} s, warm start {median:.2f} s (median of {WARM_RUNS})")
    print(f"warm / first {median / cold:.2f}; bar: warm <= {BAR_SECONDS:g} s")
    return 0 if median <= BAR_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
