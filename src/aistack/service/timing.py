"""The header `Server-Timing`."""

from __future__ import annotations

from collections.abc import Mapping


def server_timing(seconds: Mapping[str, float]) -> str:
    """Its value: milliseconds of each phase."""
    return ", ".join(f"{name};dur={part * 1000:.2f}" for name, part in seconds.items())
