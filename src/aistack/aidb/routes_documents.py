"""Documents over HTTP."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import orjson
from fastapi import APIRouter, Header, Query, Request, Response
from starlette.requests import ClientDisconnect

from aistack.aidb import documents, examples, schemas, search_cache, store
from aistack.aidb.accept import Accepted, accept, retry, retry_failed
from aistack.aidb.documents import checked_collection_name
from aistack.aidb.forgetting import embedded_texts, forget_vectors
from aistack.aidb.idempotency import Answer, fingerprint, once
from aistack.aidb.parts import Parts
from aistack.aidb.route_extras import also_answers, described
from aistack.aidb.upload import UPLOAD_BODY
from aistack.service.app import scope
from aistack.service.disconnect import ClientGone
from aistack.service.docs import example
from aistack.service.errors import MethodNotAllowed


def add_routes(router: APIRouter, parts: Parts) -> None:
    """The routes below `/v1/documents`."""
    postgres = parts.postgres

    @router.post(
        "/v1/documents",
        status_code=202,
        response_model=schemas.DocumentOut,
        **also_answers(
            example(
                scope(
                    "documents.write",
                    also={404: "No such collection", 415: "A content type that is not read"},
                ),
                examples.CREATE_DOCUMENT,
            ),
            {200: described("The same is here already; no work", schemas.DocumentOut)},
            body=UPLOAD_BODY,
        ),
    )
    async def create_document(
        request: Request,
        idempotency_key: Annotated[
            str | None,
            Header(
                pattern=r"^[\x20-\x7e]{1,255}$",
                description="a name of this request that no other has: sent again with the same"
                " request within 24 hours, the answer is the same and nothing is done twice",
            ),
        ] = None,
    ) -> Response:
        """Keep a document and make it searchable; the answer comes when it is kept.

        A document is known by its collection and source: other bytes under the same source replace
        it, and the old ones stay searchable until the new ones are.
        """
        try:
            upload = await parts.uploads.read(request)
        except ClientDisconnect as error:
            raise ClientGone("The client went away before its document was here.") from error
        async with postgres.connection("documents.accept") as connection:

            async def take() -> Answer:
                return answered(await accept(connection, parts.queue, upload))

            if idempotency_key is None:
                answer = await take()
            else:
                answer = await once(
                    connection,
                    key_id=upload.key_id,
                    key=idempotency_key,
                    request=fingerprint(upload),
                    make=take,
                )
        return response(answer)

    @router.get(
        "/v1/documents",
        **example(
            scope("documents.read", also={404: "No such collection"}), examples.LIST_DOCUMENTS
        ),
    )
    async def list_documents(
        collection: Annotated[str | None, Query(max_length=128)] = None,
        state: documents.State | None = None,
        source: Annotated[
            list[str] | None,
            Query(max_length=50, description="only of this name (may be repeated)"),
        ] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        cursor: Annotated[str | None, Query(max_length=200)] = None,
    ) -> schemas.DocumentList:
        """Documents, newest first."""
        for name in source or ():
            documents.check_text("source", name)
        after = schemas.decode_cursor(cursor)
        async with postgres.connection("documents.list") as connection:
            found, following = await store.list_documents(
                connection,
                collection=None if collection is None else checked_collection_name(collection),
                state=state,
                sources=source,
                limit=limit,
                after=after,
            )
        return schemas.DocumentList(
            data=[schemas.DocumentOut.of(one) for one in found],
            next_cursor=schemas.encode_cursor(following),
        )

    @router.api_route(
        "/v1/documents/retry",
        methods=["GET", "DELETE"],
        include_in_schema=False,
        **scope("documents.read"),
    )
    async def retry_is_a_post() -> Response:
        # Otherwise these would be a document whose id is "retry".
        raise MethodNotAllowed("This path has other methods.", headers={"Allow": "POST"})

    @router.get(
        "/v1/documents/{document_id}",
        **example(scope("documents.read", also={404: "No such document"}), examples.GET_DOCUMENT),
    )
    async def get_document(document_id: UUID) -> schemas.DocumentOut:
        """One document and how far its processing is."""
        async with postgres.connection("documents.get") as connection:
            found = await store.get_document(connection, document_id)
        return schemas.DocumentOut.of(found)

    @router.get(
        "/v1/documents/{document_id}/text",
        **example(
            scope("documents.read", also={404: "No such document, or no text yet"}),
            examples.GET_TEXT,
        ),
    )
    async def get_document_text(document_id: UUID) -> schemas.DocumentText:
        """The parsed text, which the character spans of search hits refer to."""
        async with postgres.connection("documents.text") as connection:
            return schemas.DocumentText(text=await store.get_text(connection, document_id))

    @router.post(
        "/v1/documents/retry",
        status_code=202,
        **example(
            scope("documents.write", also={404: "No such collection"}), examples.RETRY_DOCUMENTS
        ),
    )
    async def retry_documents(body: schemas.RetryIn) -> schemas.RetryOut:
        """Try every failed document again, of one collection or of all.

        After a 504 send it again, and it goes on where it was.
        """
        collection = None if body.collection is None else checked_collection_name(body.collection)
        retried, after = 0, None
        while True:
            async with postgres.connection("documents.retry") as connection:
                count, after = await retry_failed(
                    connection, parts.queue, collection=collection, after=after
                )
            retried += count
            if after is None:
                return schemas.RetryOut(retried=retried)

    @router.post(
        "/v1/documents/{document_id}/retry",
        status_code=202,
        response_model=schemas.DocumentOut,
        **also_answers(
            example(
                scope(
                    "documents.write",
                    also={404: "No such document", 409: "The document is ready"},
                ),
                examples.RETRY_DOCUMENT,
            ),
            {200: described("It is under way already; nothing was changed", schemas.DocumentOut)},
        ),
    )
    async def retry_document(document_id: UUID) -> Response:
        """Try a failed document again, from the bytes that are here."""
        async with postgres.connection("documents.retry") as connection:
            accepted = await retry(connection, parts.queue, document_id)
        return response(answered(accepted))

    @router.delete(
        "/v1/documents/{document_id}",
        status_code=204,
        **example(
            scope("documents.write", also={404: "No such document"}), examples.DELETE_DOCUMENT
        ),
    )
    async def delete_document(document_id: UUID) -> None:
        """Remove a document, its chunks, its vectors and the cached results of its collection."""
        async with postgres.connection(
            "documents.delete", timeout=parts.request_seconds
        ) as connection:
            embedded = await embedded_texts(connection, [document_id], parts.document_prompt)
            collection_id = await store.delete_document(connection, document_id)
            # Nobody is given them any more; this is so that no word of it lies about.
            await search_cache.forget(connection, collection_id)
        await forget_vectors(parts.embeddings, embedded)


def answered(accepted: Accepted) -> Answer:
    """202 where there is work to wait for, 200 where there is none."""
    body = schemas.DocumentOut.of(accepted.document).model_dump_json().encode()
    return Answer(202 if accepted.queued else 200, body)


def response(answer: Answer) -> Response:
    """The answer on the wire; one that was given before says so."""
    headers = {"location": f"/v1/documents/{orjson.loads(answer.body)['id']}"}
    if answer.again:
        headers["idempotency-replayed"] = "true"
    return Response(answer.body, answer.status, headers, "application/json")
