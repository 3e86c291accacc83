"""What a document is before it is stored: its attributes, their limits, and what is refused.

Knows neither HTTP nor SQL. Every refusal is a StackError whose sentence says what to do.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import orjson

from aistack import content_types
from aistack.aidb import parsing
from aistack.service.errors import TooLarge, Unprocessable, UnsupportedMedia

State = Literal["pending", "processing", "ready", "failed"]
MetadataValue = str | int | float | bool | list[str]
Metadata = Mapping[str, MetadataValue]

DEFAULT_COLLECTION = "default"
COLLECTION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")

_CHARSET = re.compile(r"charset=\"?(?!utf-?8\b)([A-Za-z0-9_.:-]{1,40})", re.IGNORECASE)

_TEXTS = frozenset(content_types.CONTENT_TYPES) - {content_types.PDF}

SOURCE_BYTES = 2048
TITLE_CHARACTERS = 1000
METADATA_FIELDS = 64
METADATA_BYTES = 16_384
METADATA_LIST = 256


@dataclass(frozen=True, slots=True)
class Collection:
    """A named set of documents that is searched as one. `epoch` grows with every visible change.

    `settings` is what it stores of `collection_settings`: only what differs from the configuration.
    """

    id: int
    name: str
    description: str
    settings: Mapping[str, Any]
    epoch: int
    document_count: int
    chunk_count: int
    key_id: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Job:
    """The live job of a document in the queue."""

    id: int
    state: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Pending:
    """What becomes of a searchable document's attributes when its newer bytes are searchable."""

    title: str | None
    content_type: str
    metadata: Metadata


@dataclass(frozen=True, slots=True)
class Document:
    """A stored document.

    `title`, `content_type`, `metadata` and `chunk_count` are of the version that is searchable now
    (of the newest where none is yet), `sha256` and `byte_size` of the newest. `pending` holds the
    attributes of the newest while an older one is searchable. `progress` is the share (0 to 1) of
    the newest's chunks that are embedded.
    """

    id: UUID
    collection: str
    source: str
    title: str
    content_type: str
    sha256: str
    byte_size: int
    metadata: Metadata
    state: State
    error: str | None
    version: int
    ready_version: int | None
    chunk_count: int
    key_id: str
    created_at: datetime
    updated_at: datetime
    progress: float
    pending: Pending | None
    job: Job | None


@dataclass(frozen=True, slots=True)
class Upload:
    """Checked bytes and attributes, ready to be stored; make it with `checked_upload`.

    Whether a PDF opens is told by `upload.Uploads`.
    """

    collection: str
    source: str
    title: str | None
    content_type: str
    content: bytes
    metadata: Metadata
    key_id: str
    sha256: bytes = field(repr=False)


def checked_upload(
    *,
    collection: str,
    source: str | None,
    title: str | None,
    content_type: str | None,
    content: bytes,
    metadata: Mapping[str, object],
    key_id: str,
    file_name: str | None = None,
    limit: int,
) -> Upload:
    """Check everything that is told at once; `limit` is in bytes.

    CPU-bound for large documents: call it in a thread. Without a source the document is known by
    its content (`sha256:<hex>`) or its file name. Raises TooLarge, Unprocessable or
    UnsupportedMedia.
    """
    if len(content) > limit:
        raise TooLarge(
            f"The document has {len(content)} bytes; the limit is {limit}"
            " (aidb.document_bytes): split it."
        )
    digest = hashlib.sha256(content).digest()
    known_as = source or file_name or f"sha256:{digest.hex()}"
    kind = checked_content_type(content_type, file_name or source)
    check_text("source", known_as)
    if len(known_as.encode()) > SOURCE_BYTES:
        raise Unprocessable(f"source is longer than {SOURCE_BYTES} bytes: shorten it.")
    if title is not None:
        check_text("title", title)
        if len(title) > TITLE_CHARACTERS:
            raise Unprocessable(f"title is longer than {TITLE_CHARACTERS} characters: shorten it.")
    try:
        parsing.check(content, kind)
    except parsing.ParseError as error:
        raise Unprocessable(error.detail) from error
    return Upload(
        collection=checked_collection_name(collection),
        source=known_as,
        title=title or None,
        content_type=kind,
        content=content,
        metadata=checked_metadata(metadata),
        key_id=key_id,
        sha256=digest,
    )


def checked_collection_name(name: str) -> str:
    """`name`, if it can be one. Raises Unprocessable."""
    if not COLLECTION_NAME.fullmatch(name):
        raise Unprocessable(
            "A collection's name has 1 to 128 letters, digits, '.', '_' or '-',"
            " and begins with a letter or a digit."
        )
    return name


def checked_content_type(content_type: str | None, name: str | None) -> str:
    """The canonical content type: as given, else by the name of the file, else plain text.

    A kind of text that is not known here is told by the name, too. Raises UnsupportedMedia.
    """
    given, _, parameters = (content_type or "").partition(";")
    given = given.strip().lower()
    given = content_types.ALIASES.get(given, given)
    by_name = content_types.by_name(name or "")
    if given in ("", "application/octet-stream"):
        return by_name or content_types.PLAIN
    # The systems' tables of types know `.ts` as a film only.
    if given == "video/mp2t" and by_name == "text/x-typescript":
        given = by_name
    if given not in content_types.CONTENT_TYPES and given.startswith("text/"):
        given = by_name if by_name in _TEXTS else content_types.PLAIN
    if given in content_types.CONTENT_TYPES:
        charset = _CHARSET.search(parameters)
        return f"{given}; charset={charset[1].lower()}" if charset else given
    raise UnsupportedMedia(
        f"{given[:80]!r} is not read here: send text, Markdown, HTML, PDF, JSON, YAML, TOML or"
        " source code, such as text/plain."
    )


def checked_metadata(metadata: Mapping[str, object]) -> Metadata:
    """Flat typed JSON within the limits. Raises Unprocessable naming the field."""
    if len(metadata) > METADATA_FIELDS:
        raise Unprocessable(f"metadata has more than {METADATA_FIELDS} fields.")
    checked: dict[str, MetadataValue] = {}
    for name, value in metadata.items():
        if not FIELD_NAME.fullmatch(name):
            raise Unprocessable(
                f"metadata: {name[:80]!r} is not a field name (1 to 64 letters, digits,"
                " '_', '.' or '-', beginning with a letter or '_')."
            )
        checked[name] = _checked_value(name, value)
    if len(orjson.dumps(checked)) > METADATA_BYTES:
        raise Unprocessable(f"metadata is larger than {METADATA_BYTES} bytes of JSON.")
    return checked


def _checked_value(name: str, value: object) -> MetadataValue:
    if isinstance(value, str):
        check_text(f"metadata.{name}", value)
        return value
    if isinstance(value, bool):
        return value
    # PostgreSQL's numeric holds more, but a JSON client would get other digits back.
    if isinstance(value, int) and abs(value) < 2**53:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, Sequence) and len(value) <= METADATA_LIST:
        strings = [item for item in value if isinstance(item, str)]
        if len(strings) == len(value):
            for item in strings:
                check_text(f"metadata.{name}", item)
            return strings
    raise Unprocessable(
        f"metadata.{name}: a value is a string, a finite number below 2^53, true or false,"
        f" or a list of at most {METADATA_LIST} strings."
    )


def check_text(what: str, text: str) -> None:
    """Refuse what PostgreSQL cannot keep. Raises Unprocessable."""
    if "\0" in text:
        raise Unprocessable(f"{what} holds a NUL character: remove it.")
    # JSON can carry half of a surrogate pair, which no UTF-8 can.
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Unprocessable(f"{what} is not valid Unicode: mend it.") from error
