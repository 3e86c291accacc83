"""Fixtures live in `fix_*.py` by topic; this file only lists them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# No test may ask a model hub; the models come with packages.
os.environ["HF_HUB_OFFLINE"] = "1"

pytest_plugins = sorted(path.stem for path in Path(__file__).parent.glob("fix_*.py"))
# They import one another, and are rewritten only if that was asked for before the first import.
pytest.register_assert_rewrite(*pytest_plugins)
