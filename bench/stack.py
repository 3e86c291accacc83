"""A stack of one's own for a benchmark: the real `aistack up` on a given directory."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START_SECONDS = 180.0


@contextmanager
def up(data: Path, config: Path | None = None) -> Iterator[dict[str, Any]]:
    """What the stack says in its `endpoint.json` once it is ready; ended by Ctrl-C.

    `config` is a file of options on top of the defaults.
    """
    began = time.monotonic()
    options = [] if config is None else ["--config", str(config)]
    process = subprocess.Popen(
        [sys.executable, "-m", "aistack", "up", "--data-dir", str(data), "--port", "0", *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    endpoint = data / "endpoint.json"
    try:
        while not (endpoint.exists() and json.loads(endpoint.read_text())["pid"] == process.pid):
            if process.poll() is not None or time.monotonic() - began > START_SECONDS:
                raise SystemExit(f"the stack did not start: exit code {process.poll()}")
            time.sleep(0.02)
        yield json.loads(endpoint.read_text())
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
