"""aistack: a complete, private AI stack on one machine."""

from __future__ import annotations

__version__ = "0.1.0"
