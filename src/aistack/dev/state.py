"""`<run>/state.json`: what runs, for `aistack status` and for tests that see killed parts heal.

{"postgres": {"state": "ready", "pid": 4711, "restarts": 0, "status": ""}, …}
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aistack.dev.unit import Unit


def write_state(path: Path, units: Iterable[Unit]) -> None:
    """Replace the file at once; it lives as long as the run directory, so nothing is synced."""
    table = {
        unit.name: {
            "state": unit.state.value,
            "pid": unit.pid,
            "restarts": unit.restarts,
            "status": unit.status,
        }
        for unit in units
    }
    fresh = path.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_text(json.dumps(table, indent=1), encoding="utf-8")
    os.replace(fresh, path)


def read_state(path: Path) -> dict[str, dict[str, Any]]:
    """The table; empty where none was written yet."""
    try:
        table: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return table


def holder(lock: Path) -> int | None:
    """The process of the stack that holds a data directory, be it ready or not; else None."""
    try:
        with open(lock, encoding="ascii") as handle:
            pid = int(handle.read().strip() or 0)
            if not pid or not Path(f"/proc/{pid}").exists():
                return None
            # Shared and at once given back: only to see whether somebody has it.
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return pid
    except (FileNotFoundError, NotADirectoryError, PermissionError, ValueError):
        return None
    return None
