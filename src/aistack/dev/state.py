"""`<run>/state.json`: what runs, for `aistack status` and for tests that see killed parts heal.

{"postgres": {"state": "ready", "pid": 4711, "restarts": 0, "status": ""}, …}
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

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
