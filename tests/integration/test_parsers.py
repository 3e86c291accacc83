"""Documents in processes of their own: what they give, and what happens when one ends."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
from collections.abc import AsyncIterator

import psutil
import pytest

from aistack.aidb import parsing
from aistack.aidb.parsers import ENDED, SMALL_BYTES, BrokenParser, Parsers, apart
from aistack.aidb.parsing import ParseError, child
from fix_data import make_pdf

#: Takes seconds to parse, so that there is time to do something to its process.
SLOW = b"<div>" * 3_000_000
#: Ends the grammar for Bash in most processes: it looks characters up in a table of 256.
BASH = (
    "]]func \u212c\U0005a34a\u2709\U000940ff${[[X\u0d56s\x17{\U0010b992\U0009e885a = bimpl A"
    " {<<-'E'\n[[\U000d4795\x13\u2934\u254f\U0001166btype "
)


def _many_pages(count: int) -> bytes:
    """A PDF of `count` pages without content: to open it takes seconds, and more than it is."""
    body = bytearray(b"%PDF-1.4\n")
    places = []

    def put(number: int, content: bytes) -> None:
        places.append(len(body))
        body.extend(b"%d 0 obj%s endobj\n" % (number, content))

    put(1, b"<</Type/Catalog/Pages 2 0 R>>")
    kids = b" ".join(b"%d 0 R" % number for number in range(3, count + 3))
    put(2, b"<</Type/Pages/Count %d/Kids[%s]>>" % (count, kids))
    for number in range(3, count + 3):
        put(number, b"<</Type/Page/Parent 2 0 R>>")
    start = len(body)
    body.extend(b"xref\n0 %d\n0000000000 65535 f \n" % (count + 3))
    body.extend(b"".join(b"%010d 00000 n \n" % place for place in places))
    body.extend(b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (count + 3, start))
    return bytes(body)


MANY_PAGES = _many_pages(100_000)


@pytest.fixture
async def parsers() -> AsyncIterator[Parsers]:
    made = Parsers()
    yield made
    await made.aclose()
    assert children() == []


def children() -> list[psutil.Process]:
    """Those that have not ended."""
    found = []
    for one in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.__name__ in one.cmdline():
                found.append(one)
    return found


async def the_child() -> psutil.Process:
    """The child, once it has its document."""
    async with asyncio.timeout(20):
        while True:
            for one in children():
                if one.cpu_times().user > 0.5:
                    return one
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"One.\n\nTwo.", "text/plain"),
        (b"One.\n\nTwo.\n\n" * 10_000, "text/plain"),
        ("Ein See.\n\nä".encode("latin-1"), "text/plain; charset=latin-1"),
        (b"# Lakes\n\nDeep.\n\n```\ncode\n```\n", "text/markdown"),
        (b"<title>L</title><h1>A</h1><p>b", "text/html; charset=utf-8"),
        (b'{"a": [1, {"b": "c"}]}', "application/json"),
        (b"def f():\n    return 1\n\nclass A:\n    x = 1\n", "text/x-python"),
        (make_pdf(["One page of some words.", "Another."]), "application/pdf"),
    ],
)
async def test_a_document_comes_back_as_it_was_parsed(
    parsers: Parsers, content: bytes, kind: str
) -> None:
    assert await parsers.parse(content, kind) == parsing.parse(content, kind)


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"\xff\xfe\xfd", "text/plain"), (b"  \n", "text/plain"), (b"x", "image/png")],
)
async def test_a_refusal_comes_back_in_its_words(
    parsers: Parsers, content: bytes, kind: str
) -> None:
    with pytest.raises(ParseError) as here:
        parsing.parse(content, kind)
    with pytest.raises(ParseError) as there:
        await parsers.parse(content, kind)
    assert there.value.detail == here.value.detail


async def test_examining_says_what_parsing_would(parsers: Parsers) -> None:
    await parsers.examine(make_pdf(["One page of some words."]), "application/pdf")
    with pytest.raises(ParseError, match="damaged"):
        await parsers.examine(b"%PDF-1.4 nothing more", "application/pdf")
    assert len(children()) == 1


async def test_a_pdf_that_takes_too_long_to_open_is_refused() -> None:
    hasty = Parsers(0.5, memory_bytes=256 << 20)
    try:
        with pytest.raises(ParseError, match=r"cannot be opened: its parser took"):
            await hasty.examine(MANY_PAGES, "application/pdf")
        assert children() == []
    finally:
        await hasty.aclose()


@pytest.mark.parametrize("mebibytes", [96, 128, 160, 192])
async def test_wherever_memory_ends_a_pdf_is_refused_with_a_sentence(mebibytes: int) -> None:
    small = Parsers(memory_bytes=mebibytes << 20)
    try:
        # Where it ends in the interpreter's own code, the child may end, too.
        with pytest.raises(ParseError, match=r"takes more than \d+ MiB|parser ended by SIG"):
            await small.examine(MANY_PAGES, "application/pdf")
        await small.examine(make_pdf(["One page of some words."]), "application/pdf")
    finally:
        await small.aclose()


async def test_one_child_serves_one_after_the_other_and_two_at_once(parsers: Parsers) -> None:
    for _ in range(3):
        await parsers.parse(b"A lake.", "text/html")
    assert len(children()) == 1
    await asyncio.gather(*(parsers.parse(b"A lake.", "text/html") for _ in range(2)))
    assert len(children()) == 2


@pytest.mark.parametrize(
    ("size", "kind", "expected"),
    [
        (SMALL_BYTES, "text/plain; charset=utf-8", False),
        (SMALL_BYTES + 1, "text/plain; charset=utf-8", True),
        (1, "application/json", False),
        (1, "Text/HTML", True),
        (1, "text/x-python", True),
        (1, "application/pdf", True),
    ],
)
def test_what_is_small_and_read_by_our_own_code_needs_no_child(
    size: int, kind: str, expected: bool
) -> None:
    assert apart(b"x" * size, kind) is expected


async def test_a_child_has_bounds(parsers: Parsers) -> None:
    await parsers.parse(b"A lake.", "text/html")
    (one,) = children()
    assert one.rlimit(resource.RLIMIT_DATA) == (512 << 20,) * 2
    assert one.rlimit(resource.RLIMIT_CORE) == (0, 0)


async def test_a_child_without_work_ends() -> None:
    parsers = Parsers(quiet_seconds=0.05)
    await parsers.parse(b"A lake.", "text/html")
    async with asyncio.timeout(20):
        while children():
            await asyncio.sleep(0.02)
    # The next document has another.
    assert (await parsers.parse(b"A hill.", "text/html")).text.strip() == "A hill."
    await parsers.aclose()


async def test_a_child_that_was_killed_while_it_waited_is_replaced(parsers: Parsers) -> None:
    await parsers.parse(b"A lake.", "text/html")
    (one,) = children()
    # The service has not heard of it yet when the next document comes.
    one.kill()
    assert (await parsers.parse(b"A hill.", "text/html")).text.strip() == "A hill."


async def test_a_parser_that_is_stopped_is_not_the_documents_fault(parsers: Parsers) -> None:
    # Who starts the tests with nohup has it ignored, also in the child.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    work = asyncio.create_task(parsers.parse(SLOW, "text/html"))
    (await the_child()).send_signal(signal.SIGHUP)
    signal.signal(signal.SIGHUP, before)
    with pytest.raises(BrokenParser):
        await work


@pytest.mark.parametrize("how", [signal.SIGSEGV, signal.SIGKILL, signal.SIGRTMIN + 1])
async def test_a_crash_costs_its_own_document_only(
    parsers: Parsers, how: int, capsys: pytest.CaptureFixture[str]
) -> None:
    before = ENDED.labels("text/html", "crash")._value.get()
    slow = asyncio.create_task(parsers.parse(SLOW, "text/html; charset=utf-8"))
    doomed = await the_child()
    assert (await parsers.parse(b"A lake.", "text/html")).text.strip() == "A lake."
    doomed.send_signal(how)
    with pytest.raises(ParseError) as caught:
        await slow
    name = how.name if isinstance(how, signal.Signals) else f"signal {how}"
    assert caught.value.detail == f"The document cannot be read: its parser ended by {name}."
    assert ENDED.labels("text/html", "crash")._value.get() == before + 1
    assert "parser_ended" in capsys.readouterr().out
    assert (await parsers.parse(b"A hill.", "text/html")).text.strip() == "A hill."


async def test_source_code_whose_grammar_crashes_is_cut_at_blank_lines(parsers: Parsers) -> None:
    text = "int f() { return 1; }\n\nint g() { return 2; }\n" * 10_000
    work = asyncio.create_task(parsers.parse(text.encode(), "text/x-c; charset=utf-8"))
    async with asyncio.timeout(20):
        while not (found := children()):
            await asyncio.sleep(0)
    found[0].send_signal(signal.SIGSEGV)
    document = await work
    assert document.parser == "blank lines: the grammar for C ended by SIGSEGV"
    assert document.text == text
    assert document.blocks == parsing.parse(text.encode(), "text/x-source").blocks


async def test_the_file_that_ended_the_grammar_for_bash_is_read(parsers: Parsers) -> None:
    # Where the table lies decides: each child has it elsewhere.
    parsed = ("tree-sitter Bash", "blank lines: the grammar for Bash ended by SIGSEGV")
    for _ in range(5):
        document = await parsers.parse(BASH.encode(), "text/x-sh")
        assert document.text == BASH
        assert document.parser in parsed
        await parsers.aclose()


async def test_what_takes_too_long_is_refused_and_its_child_ended() -> None:
    parsers = Parsers(seconds=0.5)
    with pytest.raises(ParseError, match=r"its parser took 0 s|its parser took 1 s"):
        await parsers.parse(SLOW, "text/html")
    assert children() == []


async def test_a_caller_that_leaves_takes_its_child_along(parsers: Parsers) -> None:
    work = asyncio.create_task(parsers.parse(SLOW, "text/html"))
    await the_child()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert children() == []


async def test_a_fault_of_ours_is_no_fault_of_the_document(
    parsers: Parsers, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # Lengths that no request has: the child cannot read the content type.
    monkeypatch.setattr(
        child, "request", lambda *_, **_options: child.REQUEST.pack(False, 1, 0) + b"\xff"
    )
    with pytest.raises(BrokenParser):
        await parsers.parse(b"A lake.", "text/html")
    assert "UnicodeDecodeError" in capfd.readouterr().err


async def test_too_many_blocks_and_too_much_memory_are_refused_with_the_reason(
    parsers: Parsers,
) -> None:
    with pytest.raises(ParseError, match="more than 500,000 lines, paragraphs or other parts"):
        await parsers.parse(b"a\n\n" * (child.MAX_BLOCKS + 1), "text/plain")
    with pytest.raises(ParseError, match="takes more than 512 MiB to read"):
        await parsers.parse(b"a\n\n" * 3_000_000, "text/plain")
    assert (await parsers.parse(b"A hill.", "text/html")).text.strip() == "A hill."
