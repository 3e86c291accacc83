"""Searches over HTTP."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter, Response

from aistack.aidb import examples
from aistack.aidb.parts import Parts
from aistack.aidb.route_extras import also_answers
from aistack.aidb.search_schemas import SearchIn, SearchOut
from aistack.service.app import scope
from aistack.service.docs import example

ALSO = {404: "No such collection", 501: "It is to be reranked, and there is no model for that"}


def add_routes(router: APIRouter, parts: Parts) -> None:
    """The route `/v1/search`."""

    @router.post(
        "/v1/search",
        **also_answers(
            example(scope("search", also=ALSO), examples.SEARCH),
            {200: {"description": "A page of hits", "model": SearchOut}},
        ),
    )
    async def search(body: SearchIn) -> Response:
        """Find passages by meaning and by words, fused; paged, filtered, with spans and scores.

        `Server-Timing` has the milliseconds of each phase of a search that was not cached; the
        query is embedded while the lexical leg is read.
        """
        answer = await parts.searcher.answer(body.request())
        # Bytes that the cache gave or the search made: checked against SearchOut by a test.
        return Response(
            answer.body(),
            media_type="application/json",
            headers={"server-timing": server_timing(answer.phases, answer.cached)},
        )


def server_timing(phases: Mapping[str, float], cached: bool) -> str:
    """Seconds by phase as the header's value; a cached answer has had none of them."""
    if cached:
        return "cache;desc=hit"
    return ", ".join(f"{name};dur={seconds * 1000:.2f}" for name, seconds in phases.items())
