"""The body of `POST /v1/documents`: JSON or a form, read within the limit and checked."""

from __future__ import annotations

import asyncio

import structlog
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException

from aistack.aidb import documents, schemas
from aistack.aidb.documents import Upload, checked_upload
from aistack.aidb.parsers import (
    EXAMINE_BYTES,
    EXAMINE_SECONDS,
    EXAMINED_AT_ONCE,
    Parsers,
    examined,
)
from aistack.aidb.parsing import ParseError
from aistack.service.app import caller
from aistack.service.disconnect import while_connected
from aistack.service.errors import BadRequest, Unprocessable, UnsupportedMedia

log = structlog.get_logger()

_METADATA: TypeAdapter[dict[str, schemas.MetadataValue]] = TypeAdapter(
    dict[str, schemas.MetadataValue]
)
#: A text up to this size is checked at once: a thread to and fro costs more than the checking.
INLINE_BYTES = 16_384
_FORM_FIELDS = frozenset({"file", "collection", "source", "title", "content_type", "metadata"})

UPLOAD_BODY = {
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


class Uploads:
    """Reads what is sent. Belongs to one event loop."""

    def __init__(self, limit: int, *, seconds: float = EXAMINE_SECONDS) -> None:
        """`limit` is a document's, in bytes; `seconds` are for seeing whether it opens."""
        self._limit = limit
        self._seconds = seconds
        self._examiner = Parsers(memory_bytes=EXAMINE_BYTES)
        self._examining = asyncio.Semaphore(EXAMINED_AT_ONCE)

    async def read(self, request: Request) -> Upload:
        """A checked upload from JSON or a form. Raises a StackError or RequestValidationError."""
        upload = await _read(request, self._limit)
        if examined(upload.content_type):
            await while_connected(request, self.examine(upload))
        return upload

    async def examine(self, upload: Upload) -> None:
        """See that it opens. Raises Unprocessable; what takes too long is left to its job."""
        try:
            async with asyncio.timeout(self._seconds), self._examining:
                await self._examiner.examine(upload.content, upload.content_type)
        except TimeoutError:
            # The machine may be busy, or another upload holds the place: no fault of this one.
            log.info("upload_not_examined", seconds=self._seconds, source=upload.source[:200])
        except ParseError as error:
            raise Unprocessable(error.detail) from error

    async def aclose(self) -> None:
        """End the process that waits."""
        await self._examiner.aclose()


async def _read(request: Request, limit: int) -> Upload:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    key = caller(request)
    if kind == "application/json" or kind.endswith("+json"):
        raw = await request.body()
        if len(raw) <= INLINE_BYTES:
            return _json_upload(raw, key, limit)
        return await asyncio.to_thread(_json_upload, raw, key, limit)
    if kind == "multipart/form-data":
        try:
            async with request.form(max_files=1, max_fields=8) as form:
                return await _read_form(form, key, limit)
        except MultiPartException as error:
            raise BadRequest("The form cannot be read: send it as multipart/form-data.") from error
    raise UnsupportedMedia("Send application/json or multipart/form-data.")


def _json_upload(raw: bytes, key: str, limit: int) -> Upload:
    try:
        body = schemas.DocumentCreate.model_validate_json(raw)
    except ValidationError as error:
        raise _invalid(error, "body") from None
    return checked_upload(
        collection=body.collection,
        source=body.source,
        title=body.title,
        content_type=body.content_type,
        content=body.content(),
        metadata=body.metadata,
        key_id=key,
        limit=limit,
    )


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
