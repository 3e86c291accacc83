"""aidb over HTTP: routes, their models, their one call into the domain."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect

from aistack.aidb import documents, examples, schemas, store
from aistack.aidb.accept import accept
from aistack.aidb.documents import Upload, checked_collection_name, checked_upload
from aistack.aidb.parts import Parts
from aistack.aidb.search_schemas import SearchIn, SearchOut
from aistack.config import Config
from aistack.service.app import Service, caller, scope, service_router
from aistack.service.disconnect import ClientGone
from aistack.service.docs import example
from aistack.service.errors import BadRequest, UnsupportedMedia

_METADATA: TypeAdapter[dict[str, schemas.MetadataValue]] = TypeAdapter(
    dict[str, schemas.MetadataValue]
)
_FORM_FIELDS = frozenset({"file", "collection", "source", "title", "content_type", "metadata"})

_UPLOAD_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": schemas.DocumentCreate.model_json_schema()},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {
                    "file": {"type": "string", "format": "binary"},
                    "collection": {"type": "string", "default": documents.DEFAULT_COLLECTION},
                    "source": {"type": "string", "description": "without it the file's name"},
                    "title": {"type": "string"},
                    "content_type": {"type": "string"},
                    "metadata": {"type": "string", "description": "a JSON object"},
                },
            }
        },
    },
}


def create(config: Config) -> Service:
    """The service's parts for the kit."""
    parts = Parts(config)
    router = service_router()
    postgres = parts.postgres
    limit_bytes = config.aidb.document_bytes

    @router.post(
        "/v1/collections",
        status_code=201,
        response_model=schemas.CollectionOut,
        **_also(
            example(scope("documents.write"), examples.CREATE_COLLECTION),
            {200: _described("It existed already; nothing was changed", schemas.CollectionOut)},
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
                key=caller(request),
            )
        response.status_code = 201 if made else 200
        return schemas.CollectionOut.of(collection)

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
            data=[schemas.CollectionOut.of(one) for one in found],
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
        return schemas.CollectionOut.of(found)

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
        gone = False
        while not gone:
            async with postgres.connection(
                "collections.delete", timeout=parts.request_seconds
            ) as connection:
                gone = await store.delete_collection(connection, name)

    @router.post(
        "/v1/documents",
        status_code=202,
        response_model=schemas.DocumentOut,
        **_also(
            example(
                scope(
                    "documents.write",
                    also={404: "No such collection", 415: "A content type that is not read"},
                ),
                examples.CREATE_DOCUMENT,
            ),
            {200: _described("The same is here already; no work", schemas.DocumentOut)},
            body=_UPLOAD_BODY,
        ),
    )
    async def create_document(request: Request, response: Response) -> schemas.DocumentOut:
        """Keep a document and make it searchable; the answer comes when it is kept.

        A document is known by its collection and source: other bytes under the same source replace
        it, and the old ones stay searchable until the new ones are.
        """
        try:
            upload = await _read_upload(request, limit_bytes)
        except ClientDisconnect as error:
            raise ClientGone("The client went away before its document was here.") from error
        async with postgres.connection("documents.accept") as connection:
            accepted = await accept(connection, parts.queue, upload)
        response.status_code = 202 if accepted.queued else 200
        response.headers["location"] = f"/v1/documents/{accepted.document.id}"
        return schemas.DocumentOut.of(accepted.document)

    @router.get(
        "/v1/documents",
        **example(
            scope("documents.read", also={404: "No such collection"}), examples.LIST_DOCUMENTS
        ),
    )
    async def list_documents(
        collection: Annotated[str | None, Query(max_length=128)] = None,
        state: documents.State | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        cursor: Annotated[str | None, Query(max_length=200)] = None,
    ) -> schemas.DocumentList:
        """Documents, newest first."""
        after = schemas.decode_cursor(cursor)
        async with postgres.connection("documents.list") as connection:
            found, following = await store.list_documents(
                connection,
                collection=None if collection is None else checked_collection_name(collection),
                state=state,
                limit=limit,
                after=after,
            )
        return schemas.DocumentList(
            data=[schemas.DocumentOut.of(one) for one in found],
            next_cursor=schemas.encode_cursor(following),
        )

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

    @router.delete(
        "/v1/documents/{document_id}",
        status_code=204,
        **example(
            scope("documents.write", also={404: "No such document"}), examples.DELETE_DOCUMENT
        ),
    )
    async def delete_document(document_id: UUID) -> None:
        """Remove a document, its chunks and its vectors."""
        async with postgres.connection(
            "documents.delete", timeout=parts.request_seconds
        ) as connection:
            await store.delete_document(connection, document_id)

    @router.post(
        "/v1/search",
        response_model=SearchOut,
        **example(scope("search", also={404: "No such collection"}), examples.SEARCH),
    )
    async def search(body: SearchIn) -> dict[str, Any]:
        """Find passages by meaning and by words, fused; paged, filtered, with spans and scores."""
        return (await parts.searcher.search(body.request())).as_dict()

    return Service(
        name="aidb",
        router=router,
        start=parts.start,
        stop=parts.stop,
        needs=parts.needs,
        heartbeats=parts.heartbeats,
    )


async def _read_upload(request: Request, limit: int) -> Upload:
    """A checked upload from JSON or a form. Raises a StackError or RequestValidationError."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    key = caller(request)
    if kind == "application/json" or kind.endswith("+json"):
        raw = await request.body()
        try:
            body = await asyncio.to_thread(schemas.DocumentCreate.model_validate_json, raw)
        except ValidationError as error:
            raise _invalid(error, "body") from None
        return await asyncio.to_thread(
            lambda: checked_upload(
                collection=body.collection,
                source=body.source,
                title=body.title,
                content_type=body.content_type,
                content=body.content(),
                metadata=body.metadata,
                key_id=key,
                limit=limit,
            )
        )
    if kind == "multipart/form-data":
        try:
            async with request.form(max_files=1, max_fields=8) as form:
                return await _read_form(form, key, limit)
        except MultiPartException as error:
            raise BadRequest("The form cannot be read: send it as multipart/form-data.") from error
    raise UnsupportedMedia("Send application/json or multipart/form-data.")


async def _read_form(form: FormData, key: str, limit: int) -> Upload:
    if unknown := sorted(set(form) - _FORM_FIELDS):
        raise BadRequest(f"The form has the unknown field {unknown[0][:80]!r}.")
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise BadRequest("The form has no `file`: send the document as a file of that name.")
    try:
        metadata = _METADATA.validate_json(_field(form, "metadata") or "{}")
    except ValidationError as error:
        raise _invalid(error, "body", "metadata") from None
    content = await file.read(limit + 1)
    return await asyncio.to_thread(
        lambda: checked_upload(
            collection=_field(form, "collection") or documents.DEFAULT_COLLECTION,
            source=_field(form, "source"),
            title=_field(form, "title"),
            content_type=_field(form, "content_type") or file.content_type,
            content=content,
            metadata=metadata,
            key_id=key,
            file_name=file.filename or None,
            limit=limit,
        )
    )


def _field(form: FormData, name: str) -> str | None:
    value = form.get(name)
    if value is None or isinstance(value, str):
        return value or None
    raise BadRequest(f"The field {name!r} of the form is a file: send it as text.")


def _invalid(error: ValidationError, *where: str) -> RequestValidationError:
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    return RequestValidationError([{**fault, "loc": (*where, *fault["loc"])} for fault in faults])


def _described(text: str, model: Any) -> dict[str, Any]:
    return {"description": text, "model": model}


def _also(
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
