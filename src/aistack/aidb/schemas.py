"""The wire of aidb: what requests may say (nothing unknown) and what answers look like."""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

from aistack.aidb import documents, store
from aistack.aidb.collection_schemas import SettingsIn, SettingsOut
from aistack.aidb.collection_settings import CollectionSettings
from aistack.config import AidbConfig
from aistack.service.errors import BadRequest

Name = Annotated[str, Field(min_length=1, max_length=128, examples=["default"])]
MetadataValue = StrictStr | StrictBool | StrictInt | StrictFloat | list[StrictStr]


class Request(BaseModel):
    """A body; what it does not know is a mistake of the caller's."""

    model_config = ConfigDict(extra="forbid")


class CollectionCreate(Request):
    """A new collection. Making one that exists already changes nothing."""

    name: Name
    description: str = Field("", max_length=2000)
    settings: SettingsIn = Field(default_factory=SettingsIn)


class DocumentCreate(Request):
    """A document as JSON: `text`, or `content_base64` for what is not text."""

    collection: Name = documents.DEFAULT_COLLECTION
    source: str | None = Field(
        None,
        min_length=1,
        max_length=2048,
        description="its name; without it the content is its name",
    )
    title: str | None = Field(None, max_length=documents.TITLE_CHARACTERS)
    content_type: str | None = Field(None, max_length=200, examples=["text/markdown"])
    text: str | None = Field(None, examples=["# Install\n\nRun the two commands."])
    content_base64: str | None = None
    metadata: dict[str, MetadataValue] = Field(default_factory=dict)

    def content(self) -> bytes:
        """The bytes of the document. Raises BadRequest."""
        if (self.text is None) == (self.content_base64 is None):
            raise BadRequest("Send either `text` or `content_base64`.")
        if self.text is not None:
            try:
                return self.text.encode()
            except UnicodeEncodeError as error:
                raise BadRequest("text is not valid Unicode: mend it.") from error
        try:
            return base64.b64decode((self.content_base64 or "").encode(), validate=True)
        except (binascii.Error, UnicodeEncodeError) as error:
            raise BadRequest("content_base64 is not valid base64.") from error


class CollectionOut(BaseModel):
    """A collection. `epoch` grows with every change that a search can see."""

    name: str
    description: str
    settings: SettingsOut
    epoch: int
    document_count: int
    chunk_count: int
    created_by: str
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, collection: documents.Collection, defaults: AidbConfig) -> CollectionOut:
        """From the domain; the settings over those of the configuration."""
        settings = CollectionSettings.of(defaults, collection.settings)
        return cls(
            name=collection.name,
            description=collection.description,
            settings=SettingsOut(**settings.as_dict()),
            epoch=collection.epoch,
            document_count=collection.document_count,
            chunk_count=collection.chunk_count,
            created_by=collection.key_id,
            created_at=collection.created_at,
            updated_at=collection.updated_at,
        )


class CollectionList(BaseModel):
    """A page, by name; `next_cursor` is null on the last one."""

    data: list[CollectionOut]
    next_cursor: str | None


class JobOut(BaseModel):
    """The job that works on the document now; `progress` as the document's."""

    id: int
    state: str
    attempts: int
    progress: float


class PendingOut(BaseModel):
    """What the newest upload says of a document whose older version is searchable."""

    title: str | None
    content_type: str
    metadata: dict[str, MetadataValue]


class DocumentOut(BaseModel):
    """A document, as it is searchable now; `sha256` and `bytes` are of the newest upload.

    `pending` has what else the newest upload changes once its bytes are searchable: null when they
    are, or when no version is yet. `progress` (0 to 1) is the share of the newest upload's chunks
    that are embedded; it begins again with every try. `error` says why it failed, or what it is
    waiting for; `job` is null when there is none.
    """

    id: UUID
    collection: str
    source: str
    title: str
    state: Literal["pending", "processing", "ready", "failed"]
    progress: float
    content_type: str
    sha256: str
    bytes: int
    metadata: dict[str, MetadataValue]
    created_at: datetime
    updated_at: datetime
    created_by: str
    version: int
    searchable_version: int | None
    chunk_count: int
    error: str | None
    pending: PendingOut | None
    job: JobOut | None

    @classmethod
    def of(cls, document: documents.Document) -> DocumentOut:
        """From the domain."""
        job, pending = document.job, document.pending
        return cls(
            id=document.id,
            collection=document.collection,
            source=document.source,
            title=document.title,
            state=document.state,
            progress=round(document.progress, 4),
            content_type=document.content_type,
            sha256=document.sha256,
            bytes=document.byte_size,
            metadata=dict(document.metadata),
            created_at=document.created_at,
            updated_at=document.updated_at,
            created_by=document.key_id,
            version=document.version,
            searchable_version=document.ready_version,
            chunk_count=document.chunk_count,
            error=document.error,
            pending=None
            if pending is None
            else PendingOut(
                title=pending.title,
                content_type=pending.content_type,
                metadata=dict(pending.metadata),
            ),
            job=None
            if job is None
            else JobOut(
                id=job.id,
                state=job.state,
                attempts=job.attempts,
                progress=round(document.progress, 4),
            ),
        )


class RetryIn(Request):
    """Which failed documents to try again; without a collection all of them."""

    collection: Name | None = None


class RetryOut(BaseModel):
    """How many documents were queued again."""

    retried: int


class DocumentList(BaseModel):
    """A page, newest first; `next_cursor` is null on the last one."""

    data: list[DocumentOut]
    next_cursor: str | None


class DocumentText(BaseModel):
    """The parsed text; `char_start` and `char_end` of a hit are places in it."""

    text: str


def encode_cursor(cursor: store.Cursor | None) -> str | None:
    """Opaque to callers."""
    if cursor is None:
        return None
    text = f"{cursor.created_at.isoformat()}|{cursor.id}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_cursor(text: str | None) -> store.Cursor | None:
    """Raises BadRequest for anything that `encode_cursor` did not make."""
    if text is None:
        return None
    try:
        raw = base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4)).decode()
        moment, _, identifier = raw.partition("|")
        created_at = datetime.fromisoformat(moment)
        cursor = store.Cursor(created_at, UUID(identifier))
    except (binascii.Error, ValueError) as error:
        raise BadRequest("cursor is not one that this API gave.") from error
    if created_at.tzinfo is None:
        raise BadRequest("cursor is not one that this API gave.")
    return cursor


def encode_name_cursor(name: str | None) -> str | None:
    """Opaque to callers."""
    return None if name is None else base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


def decode_name_cursor(text: str | None) -> str | None:
    """Raises BadRequest for anything that `encode_name_cursor` did not make."""
    if text is None:
        return None
    try:
        name = base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4)).decode()
    except (binascii.Error, ValueError) as error:
        raise BadRequest("cursor is not one that this API gave.") from error
    if not documents.COLLECTION_NAME.fullmatch(name):
        raise BadRequest("cursor is not one that this API gave.")
    return name
