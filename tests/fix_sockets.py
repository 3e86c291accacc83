"""A place for sockets."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory with a short path: pytest's own are too deep for a socket, deeper in a worker."""
    with tempfile.TemporaryDirectory(prefix="ais-") as directory:
        yield Path(directory)
