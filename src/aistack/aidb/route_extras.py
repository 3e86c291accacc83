"""What a route of aidb documents beside the errors that all routes share."""

from __future__ import annotations

from typing import Any


def described(text: str, model: Any) -> dict[str, Any]:
    """One further answer: what it means and its model."""
    return {"description": text, "model": model}


def also_answers(
    route: dict[str, Any], responses: dict[int, dict[str, Any]], body: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The keyword arguments of a route with further answers, and a body read by hand."""
    extra = dict(route["openapi_extra"])
    if body is not None:
        extra["requestBody"] = body
    return {
        **route,
        "responses": {**responses, **route["responses"]},
        "openapi_extra": extra,
    }
