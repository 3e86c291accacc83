"""Collections over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from aistack.aidb import documents, examples, schemas, search_cache, store
from aistack.aidb.collection_schemas import CollectionUpdate
from aistack.aidb.collection_settings import update_collection
from aistack.aidb.documents import checked_collection_name
from aistack.aidb.forgetting import forget_vectors
from aistack.aidb.parts import Parts
from aistack.aidb.route_extras import also_answers, described
from aistack.service.app import caller, scope
from aistack.service.docs import example


def add_routes(router: APIRouter, parts: Parts) -> None:
    """The routes below `/v1/collections`."""
    postgres = parts.postgres
    defaults = parts.config.aidb

    @router.post(
        "/v1/collections",
        status_code=201,
        response_model=schemas.CollectionOut,
        **also_answers(
            example(scope("documents.write"), examples.CREATE_COLLECTION),
            {200: described("It existed already; nothing was changed", schemas.CollectionOut)},
        ),
    )
    async def create_collection(
        request: Request, body: schemas.CollectionCreate, response: Response
    ) -> schemas.CollectionOut:
        """Make a collection."""
        name = checked_collection_name(body.name)
        documents.check_text("description", body.description)
        async with postgres.connection("collections.create") as connection:
            collection, made = await store.ensure_collection(
                connection,
                name,
                description=body.description,
                settings={k: v for k, v in body.settings.given().items() if v is not None},
                key=caller(request),
            )
        response.status_code = 201 if made else 200
        return schemas.CollectionOut.of(collection, defaults)

    @router.get("/v1/collections", **example(scope("documents.read"), examples.LIST_COLLECTIONS))
    async def list_collections(
        limit: Annotated[int, Query(ge=1, le=100)] = 100,
        cursor: Annotated[str | None, Query(max_length=200)] = None,
    ) -> schemas.CollectionList:
        """Collections, by name."""
        after = schemas.decode_name_cursor(cursor)
        async with postgres.connection("collections.list") as connection:
            found, following = await store.list_collections(connection, limit=limit, after=after)
        return schemas.CollectionList(
            data=[schemas.CollectionOut.of(one, defaults) for one in found],
            next_cursor=schemas.encode_name_cursor(following),
        )

    @router.get(
        "/v1/collections/{name}",
        **example(
            scope("documents.read", also={404: "No such collection"}), examples.GET_COLLECTION
        ),
    )
    async def get_collection(name: str) -> schemas.CollectionOut:
        """One collection."""
        async with postgres.connection("collections.get") as connection:
            found = await store.get_collection(connection, checked_collection_name(name))
        return schemas.CollectionOut.of(found, defaults)

    @router.patch(
        "/v1/collections/{name}",
        **example(
            scope(
                "documents.write",
                also={404: "No such collection", 409: "Its documents have another language"},
            ),
            examples.UPDATE_COLLECTION,
        ),
    )
    async def change_collection(name: str, body: CollectionUpdate) -> schemas.CollectionOut:
        """Change a collection's description, or how it is searched.

        Searches that were cached before are not answered any more.
        """
        checked_collection_name(name)
        if body.description is not None:
            documents.check_text("description", body.description)
        async with postgres.connection("collections.update") as connection:
            changed = await update_collection(
                connection, name, description=body.description, changes=body.settings.given()
            )
        return schemas.CollectionOut.of(changed, defaults)

    @router.delete(
        "/v1/collections/{name}",
        status_code=204,
        **example(
            scope("documents.write", also={404: "No such collection"}), examples.DELETE_COLLECTION
        ),
    )
    async def delete_collection(name: str) -> None:
        """Remove a collection with all its documents.

        A large one goes in parts: after a 504 send it again, and it goes on where it was.
        """
        checked_collection_name(name)
        async with postgres.connection("collections.get") as connection:
            collection_id = (await store.get_collection(connection, name)).id
        gone = False
        while not gone:
            async with postgres.connection(
                "collections.delete", timeout=parts.request_seconds
            ) as connection:
                gone, embedded = await store.delete_collection(
                    connection, name, prompt=parts.document_prompt
                )
                await search_cache.forget(connection, collection_id)
            await forget_vectors(parts.embeddings, embedded)
