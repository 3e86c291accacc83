"""Documents parsed in processes of their own.

A parser written in C may be ended by a hostile file, and takes what memory and time it likes. In a
child process that costs one document; the service, its searches and its other documents go on.
What is small and read by our own code has neither fault, and goes without.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import structlog
from prometheus_client import Counter

from aistack import content_types as types
from aistack.aidb import parsing
from aistack.aidb.parsing import ParsedDocument, ParseError, child
from aistack.aidb.parsing.languages import LANGUAGES
from aistack.stack import load_stack

log = structlog.get_logger()

ENDED = Counter(
    "aistack_aidb_parsers_ended_total",
    "Processes that a document ended: crash, or timeout",
    ["content_type", "how"],
)

#: Read by our own code, and in the service where it is no longer than SMALL_BYTES.
OWN: Final = frozenset(
    {
        types.PLAIN,
        types.MARKDOWN,
        types.JSON,
        types.JSON_LINES,
        types.YAML,
        types.TOML,
        types.SOURCE,
    }
)
SMALL_BYTES: Final = 65_536
#: Documents that are parsed at once, however many jobs there are: it takes the most memory of all.
PARSES_AT_ONCE: Final = 2
#: Uploads that are examined at once, in a process with so much memory; how long one waits for it.
EXAMINED_AT_ONCE: Final = 1
EXAMINE_BYTES: Final = 256 << 20
EXAMINE_SECONDS: Final = 20.0
#: How long a child waits for another document.
QUIET_SECONDS: Final = 60.0
#: Of an answer that is read in one piece.
_STREAM_BYTES: Final = 1 << 20
_SIGNALS: Final = {one.value: one.name for one in signal.Signals}
#: Sent by somebody who stops the service: no document is to blame.
_STOPPED: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


class BrokenParser(Exception):
    """A fault of ours; its traceback is in the log."""


class _Ended(Exception):
    """The document ended its child; `str()` of it says how, `how` is the label of that."""

    def __init__(self, how: str, said: str) -> None:
        super().__init__(said)
        self.how = how


@dataclass(frozen=True, slots=True)
class _Child:
    """A process, and the pipes to and from it."""

    process: Process
    to: asyncio.StreamWriter
    back: asyncio.StreamReader


def examined(content_type: str) -> bool:
    """Whether an upload of this type is one for `Parsers.examine`."""
    return parsing.essence(content_type) in parsing.EXAMINED


def parse_bytes() -> int:
    """Memory of a process that parses."""
    children = load_stack().services["aidb"].limits.children_bytes
    return (children - EXAMINED_AT_ONCE * EXAMINE_BYTES) // PARSES_AT_ONCE


def apart(content: bytes, content_type: str) -> bool:
    """Whether a document is one for a process of its own; else `parsing.parse` may read it here."""
    return len(content) > SMALL_BYTES or parsing.essence(content_type) not in OWN


class Parsers:
    """As many child processes as callers at once; each waits a minute for another document.

    `seconds` are a document's, `memory_bytes` a child's. Belongs to one event loop.
    """

    def __init__(
        self,
        seconds: float = child.PARSE_SECONDS,
        quiet_seconds: float = QUIET_SECONDS,
        *,
        memory_bytes: int | None = None,
    ) -> None:
        self._seconds = seconds
        self._quiet_seconds = quiet_seconds
        self.memory_bytes = parse_bytes() if memory_bytes is None else memory_bytes
        self._idle: dict[_Child, asyncio.TimerHandle] = {}

    async def parse(self, content: bytes, content_type: str) -> ParsedDocument:
        """Read a document. Raises ParseError, also where its parser ended, and BrokenParser.

        Source code whose grammar ended is cut at blank lines instead.
        """
        try:
            return await self._parsed(content, content_type)
        except _Ended as error:
            parameters = content_type.partition(";")[2]
            language = LANGUAGES.get(parsing.essence(content_type))
            if language is None:
                raise ParseError(f"The document cannot be read: its parser {error}.") from None
            plain = await self._parsed(content, f"{types.SOURCE};{parameters}")
            return replace(plain, parser=f"blank lines: the grammar for {language.name} {error}")

    async def examine(self, content: bytes, content_type: str) -> None:
        """See that a document opens. Raises ParseError as `parse` does, and BrokenParser."""
        try:
            child.told(await self._answer(content, content_type, examine=True))
        except _Ended as error:
            raise ParseError(f"The document cannot be opened: its parser {error}.") from None

    async def aclose(self) -> None:
        """End the children that wait."""
        while self._idle:
            idle, timer = self._idle.popitem()
            timer.cancel()
            await _end(idle)

    async def _parsed(self, content: bytes, content_type: str) -> ParsedDocument:
        answer = await self._answer(content, content_type, examine=False)
        return await asyncio.to_thread(child.decoded, answer)

    async def _answer(self, content: bytes, content_type: str, *, examine: bool) -> bytes:
        waiting = self._waiting()
        try:
            one = waiting or await self._begun()
            return await self._asked(one, content, content_type, examine=examine)
        except _Ended as error:
            if waiting is None or error.how == "timeout":
                self._blame(content_type, error)
                raise
            # It may have died while it waited, or by what an earlier document left in it.
            log.info("parser_ended_early", how=str(error))
        return await self._answer(content, content_type, examine=examine)

    def _blame(self, content_type: str, error: _Ended) -> None:
        kind = parsing.essence(content_type)
        ENDED.labels(kind, error.how).inc()
        log.warning("parser_ended", content_type=kind, how=str(error))

    async def _asked(
        self, one: _Child, content: bytes, content_type: str, *, examine: bool
    ) -> bytes:
        done = False
        try:
            async with asyncio.timeout(self._seconds):
                one.to.write(child.request(content, content_type, examine=examine))
                await one.to.drain()
                (size,) = child.ANSWER.unpack(await one.back.readexactly(child.ANSWER.size))
                answer = await one.back.readexactly(size)
            done = True
        except TimeoutError:
            raise _Ended("timeout", f"took {self._seconds:.0f} s") from None
        except (asyncio.IncompleteReadError, ConnectionError):
            code = await one.process.wait()
            if code >= 0 or -code in _STOPPED:
                raise BrokenParser(f"The parser ended with status {code}.") from None
            raise _Ended("crash", f"ended by {_SIGNALS.get(-code, f'signal {-code}')}") from None
        finally:
            if done:
                loop = asyncio.get_running_loop()
                self._idle[one] = loop.call_later(self._quiet_seconds, self._dismiss, one)
            else:
                # Also where the caller leaves: it is in the middle of a document.
                await _end(one)
        return answer

    def _waiting(self) -> _Child | None:
        if not self._idle:
            return None
        idle, timer = self._idle.popitem()
        timer.cancel()
        return idle

    async def _begun(self) -> _Child:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", child.__name__, str(self.memory_bytes)),
            stdin=PIPE,
            stdout=PIPE,
            limit=_STREAM_BYTES,
            # What a terminal sends is for the service.
            start_new_session=True,
            # Where the interpreter alone does not know where its packages are.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        return _Child(process, process.stdin, process.stdout)

    def _dismiss(self, one: _Child) -> None:
        del self._idle[one]
        # Its input ends, and it does.
        one.to.close()


async def _end(one: _Child) -> None:
    if one.process.returncode is None:
        with suppress(ProcessLookupError):
            one.process.kill()
    one.to.close()
    await asyncio.shield(one.process.wait())
