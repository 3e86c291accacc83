"""`python -m aistack`."""

from __future__ import annotations

from aistack.cli import main

main()
