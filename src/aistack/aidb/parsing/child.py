"""The process in which documents are parsed: `python -m aistack.aidb.parsing.child BYTES`.

Requests come on standard input, answers leave on standard output, one at a time, until the input
ends. What a file does to a parser written in C ends this process at most; BYTES is the memory that
it may have.

    request   one byte (1: only to be examined), two lengths (unsigned, 4 and 8 bytes, big-endian),
              the content type, the content
    answer    a length (8 bytes), JSON: {"document": …}, {} after an examination, or
              {"refused": one sentence}

What is not foreseen ends it too, with a traceback on standard error and a status above 0.
"""

from __future__ import annotations

import os
import resource
import signal
import struct
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from typing import Any, BinaryIO, Final

import orjson

from aistack.aidb import parsing
from aistack.aidb.parsing.document import Block, ParsedDocument, ParseError

REQUEST: Final = struct.Struct("!?IQ")
ANSWER: Final = struct.Struct("!Q")
#: Blocks of one document. More than these are of a file of a few characters a line, and take more
#: memory than its text by far, here and in the service.
MAX_BLOCKS: Final = 500_000

#: How long the service waits; the slowest parser gives up by itself after 120 seconds.
PARSE_SECONDS: Final = 300

_BLOCK: Final = tuple(one.name for one in fields(Block))


def request(content: bytes, content_type: str, *, examine: bool = False) -> bytes:
    """What asks a child to read a document, or only to examine it."""
    kind = content_type.encode()
    return REQUEST.pack(examine, len(kind), len(content)) + kind + content


def told(answer: bytes) -> dict[str, Any]:
    """What an answer says. Raises ParseError where the document was refused."""
    found: dict[str, Any] = orjson.loads(answer)
    if "refused" in found:
        raise ParseError(found["refused"])
    return found


def decoded(answer: bytes) -> ParsedDocument:
    """The document of an answer. Raises ParseError where it was refused."""
    title, text, rows, parser = told(answer)["document"]
    return ParsedDocument(title, text, tuple(Block(*row) for row in rows), parser)


def _refused(sentence: str) -> bytes:
    return orjson.dumps({"refused": sentence})


def _answer(content: bytes, content_type: str, too_large: bytes, *, examine: bool) -> bytes:
    try:
        return _told(content, content_type, examine=examine)
    except MemoryError:
        return too_large
    except SystemError:
        # What the interpreter says where a call of its own found no memory and told nobody.
        with suppress(MemoryError):
            traceback.print_exc()
        return too_large


def _told(content: bytes, content_type: str, *, examine: bool) -> bytes:
    try:
        if examine:
            parsing.examine(content, content_type)
            return orjson.dumps({})
        document = parsing.parse(content, content_type)
        if len(document.blocks) > MAX_BLOCKS:
            return _refused(
                f"The document has more than {MAX_BLOCKS:,} lines, paragraphs or other parts:"
                " split it."
            )
        rows = [[getattr(block, name) for name in _BLOCK] for block in document.blocks]
        return orjson.dumps({"document": [document.title, document.text, rows, document.parser]})
    except ParseError as error:
        return _refused(error.detail)


def _requests(stream: BinaryIO) -> Iterator[tuple[bytes, str, bool]]:
    while header := stream.read(REQUEST.size):
        examine, kind, size = REQUEST.unpack(header)
        content_type = stream.read(kind).decode()
        yield stream.read(size), content_type, examine


def main(memory_bytes: int) -> None:
    """Until the input ends."""
    # Made while there is memory: orjson ends the process where it gets none.
    too_large = _refused(
        f"The document takes more than {memory_bytes >> 20} MiB to read: split it."
    )
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Stopping is the service's: it ends our input when its documents are done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # What a library prints is no answer.
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        for content, content_type, examine in _requests(sys.stdin.buffer):
            # Where the service is gone, nobody else ends what hangs.
            signal.alarm(PARSE_SECONDS + 30)
            answer = _answer(content, content_type, too_large, examine=examine)
            signal.alarm(0)
            out.write(ANSWER.pack(len(answer)) + answer)
            out.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
