"""The API pages of a service under `/docs/<service>`."""

from __future__ import annotations

from fastapi import FastAPI


def mount(app: FastAPI, service: str) -> None:
    """Placeholder of the lead: H6 replaces this file."""
