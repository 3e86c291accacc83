"""Searches over HTTP."""

from __future__ import annotations

from fastapi import APIRouter, Response

from aistack.aidb import examples
from aistack.aidb.parts import Parts
from aistack.aidb.route_extras import also_answers
from aistack.aidb.search_schemas import SearchIn, SearchOut
from aistack.service.app import scope
from aistack.service.docs import example
from aistack.service.timing import server_timing

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
        timing = "cache;desc=hit" if answer.cached else server_timing(answer.phases)
        # Bytes that the cache gave or the search made: checked against SearchOut by a test.
        return Response(
            answer.body(),
            media_type="application/json",
            headers={"server-timing": timing},
        )
