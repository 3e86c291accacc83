"""A server that a benchmark starts, and that is there once its socket is."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 60.0


@contextmanager
def listening(command: Sequence[str], path: Path, log: Path) -> Iterator[None]:
    """`python COMMAND` until the end of the block; `log` has what it says.

    Raises SystemExit with the end of it where `path` does not come.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        end = time.monotonic() + START_SECONDS
        while not path.exists():
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{path.stem} did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait(30)
