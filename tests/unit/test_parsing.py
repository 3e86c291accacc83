"""Documents to text and blocks, and the one sentence that says why not."""

from __future__ import annotations

import contextlib
import io
import time
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf import PdfReader, PdfWriter

from aistack.aidb import parsing
from aistack.aidb.parsing import ParsedDocument, ParseError, UnsupportedType, child, pdf
from fix_chunking import check_blocks
from fix_data import make_pdf


def parse(text: str, kind: str) -> ParsedDocument:
    return parsing.parse(text.encode(), kind)


def shapes(document: ParsedDocument) -> list[tuple[str, str]]:
    return [(block.kind, document.text[block.start : block.end]) for block in document.blocks]


MARKDOWN = """---
title: ignored
---
# Guide {#sec-guide}

Intro text
goes on.

```bash
# not a heading

nix build
```

## Install `it` #

| a | b |
|---|---|
| 1 | 2 |
after the table

- one
- two

  still two

Setext
------
End.
"""


def test_markdown_stays_its_source_and_shows_its_structure() -> None:
    document = parse(MARKDOWN, "text/markdown")
    assert document.text == MARKDOWN
    assert document.title == "Guide"
    assert [block.kind for block in document.blocks] == [
        *("code", "heading", "paragraph", "code", "heading", "table", "paragraph", "list"),
        *("heading", "paragraph"),
    ]
    headings = [(b.level, b.label, b.line) for b in document.blocks if b.kind == "heading"]
    assert headings == [(1, "Guide", 4), (2, "Install it", 15), (2, "Setext", 27)]
    fence = next(text for kind, text in shapes(document)[1:] if kind == "code")
    assert fence == "```bash\n# not a heading\n\nnix build\n```\n"
    lines = MARKDOWN.split("\n")
    for block in document.blocks:
        assert block.line is not None
        assert document.text[block.start :].startswith(lines[block.line - 1])


@pytest.mark.parametrize("kind", ["text/plain", "text/markdown"])
@given(text=st.text(alphabet=st.sampled_from("ab #-=|`~\n\r\t>*1.é"), max_size=300))
def test_blocks_hold_everything_but_white_space(kind: str, text: str) -> None:
    if not text.strip():
        return
    check_blocks(parse(text, kind))


HTML = """<!doctype html><html><head><title> The  page </title><style>p {color: red}</style>
<script>var hidden = "secret";</script></head><body><h1>Top <em>thing</em></h1>
<p>One &amp; two<br>three</p><p hidden>unseen</p><div style="display: none">unseen</div>
<!-- unseen --><pre>a
  b</pre><table><tr><th>k</th><th>v</th></tr><tr><td>x</td><td>1</td></tr></table>
<ul><li>first</li><li>second <b>part</b></li></ul><noscript>unseen</noscript>after</body></html>"""


def test_html_gives_what_a_reader_sees() -> None:
    document = parse(HTML, "text/html")
    assert document.title == "The page"
    assert shapes(document) == [
        ("heading", "Top thing"),
        ("paragraph", "One & two\nthree"),
        ("code", "a\n  b"),
        ("table", "k | v\nx | 1"),
        ("list", "- first\n- second part"),
        ("paragraph", "after"),
    ]
    assert document.blocks[0].level == 1
    assert "unseen" not in document.text
    assert "secret" not in document.text


def test_html_in_the_charset_that_it_declares() -> None:
    page = "<meta charset='iso-8859-1'><p>caf\xe9</p>"
    assert parsing.parse(page.encode("latin-1"), "text/html").text == "café"
    # A stale declaration over valid UTF-8 is not believed.
    assert parsing.parse(page.encode(), "text/html").text == "café"


def test_pdf_pages_are_told() -> None:
    document = parsing.parse(
        make_pdf(["The first page.", "", "The third page."]), "application/pdf"
    )
    assert document.text == "The first page.\n\nThe third page."
    assert [(b.page, document.text[b.start : b.end]) for b in document.blocks] == [
        (1, "The first page."),
        (3, "The third page."),
    ]


#: AES-256 is what is written today; the older ones are what has been written for decades.
ALGORITHMS = ("RC4-40", "RC4-128", "AES-128", "AES-256")


def encrypted(password: str, algorithm: str = "AES-256") -> bytes:
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(make_pdf(["Behind a lock."]))))
    writer.encrypt(user_password=password, owner_password="owner", algorithm=algorithm)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_pdf_with_an_empty_password_is_read(algorithm: str) -> None:
    found = parsing.parse(encrypted("", algorithm), "application/pdf")
    assert "Behind a lock." in found.text


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_pdf_with_a_password_says_what_to_do(algorithm: str) -> None:
    for read in (parsing.examine, parsing.parse):
        with pytest.raises(ParseError, match="password: remove it and try again"):
            read(encrypted("secret", algorithm), "application/pdf")


def test_a_pdf_that_takes_too_much_memory_is_not_called_damaged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object, **__: object) -> str:
        raise MemoryError

    monkeypatch.setattr("pypdf.PageObject.extract_text", full)
    answer = child._answer(GOOD_PDF, "application/pdf", b"too large", examine=False)
    assert answer == b"too large"


def test_a_page_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    # One page; the time is up when its second operation begins.
    moments = iter([0.0, 0.0, 0.0])
    clock = SimpleNamespace(monotonic=lambda: next(moments, pdf.MAX_SECONDS + 1))
    monkeypatch.setattr(pdf, "time", clock)
    with pytest.raises(ParseError, match="longer than 120 seconds"):
        parsing.parse(make_pdf(["One page of some words."]), "application/pdf")


@pytest.mark.parametrize("charset", ["unicode_escape", "raw_unicode_escape"])
def test_a_charset_cannot_smuggle_in_half_a_surrogate_pair(charset: str) -> None:
    with pytest.raises(ParseError, match="not valid Unicode"):
        parsing.check(b"a \\ud800 b", f"text/plain; charset={charset}")


GOOD_PDF = make_pdf(["Some words on a page."])


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (b"", "text/plain", "no text"),
        (b" \n\t ", "text/markdown", "no text"),
        (b"a\0b", "text/plain", "NUL"),
        (b"a\0b", "text/html", "NUL"),
        (b"caf\xe9", "text/plain", "not valid UTF-8 at byte 3"),
        (b"caf\xe9", "text/html", "not valid UTF-8"),
        (b"abc", "text/plain; charset=klingon", "charset"),
        (b"abc", "text/plain; charset=hex", "charset"),
        (b"<script>x</script>", "text/html", "no text"),
        (b"not a pdf", "application/pdf", "header"),
        (b"%PDF-1.4 nothing more", "application/pdf", "damaged"),
        (GOOD_PDF[: len(GOOD_PDF) // 3], "application/pdf", "damaged"),
        (encrypted("secret"), "application/pdf", "password"),
        (make_pdf([""]), "application/pdf", "no text"),
    ],
)
def test_what_cannot_be_read_says_why(content: bytes, kind: str, words: str) -> None:
    with pytest.raises(ParseError, match=words) as caught:
        parsing.parse(content, kind)
    assert "\n" not in caught.value.detail


@pytest.mark.parametrize("kind", ["image/png", "", "text", "application/zip", "text/plain2"])
def test_other_types_are_refused(kind: str) -> None:
    with pytest.raises(UnsupportedType, match="text/markdown"):
        parsing.parse(b"x", kind)
    with pytest.raises(UnsupportedType):
        parsing.check(b"x", kind)


def test_check_tells_at_once_what_parse_would() -> None:
    for content, kind in [
        (b"", "text/plain"),
        (b"\0", "text/html"),
        (b"\xff", "text/markdown"),
        (b"no", "application/pdf"),
    ]:
        with pytest.raises(ParseError):
            parsing.check(content, kind)
    parsing.check(GOOD_PDF, "application/pdf")
    parsing.check(b"fine", "Text/Plain; charset=utf-8")


@pytest.mark.parametrize(
    "content", [b"no", b"%PDF-1.4 nothing more", encrypted("secret"), GOOD_PDF[:200]]
)
def test_examining_a_pdf_tells_what_parsing_it_would(content: bytes) -> None:
    with pytest.raises(ParseError) as examined:
        parsing.examine(content, "application/pdf")
    with pytest.raises(ParseError) as parsed:
        parsing.parse(content, "application/pdf")
    assert examined.value.detail == parsed.value.detail


def test_examining_a_good_pdf_is_content() -> None:
    parsing.examine(GOOD_PDF, "application/pdf")
    parsing.examine(encrypted(""), "Application/PDF; x=y")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_pdf_gives_text_or_a_sentence_and_nothing_else(data: st.DataObject) -> None:
    content = bytearray(GOOD_PDF)
    for _ in range(data.draw(st.integers(1, 12))):
        at = data.draw(st.integers(0, len(content) - 1))
        action = data.draw(st.sampled_from(("set", "cut", "insert")))
        if action == "set":
            content[at] = data.draw(st.integers(0, 255))
        elif action == "cut":
            del content[at : at + data.draw(st.integers(1, 40))]
        else:
            content[at:at] = data.draw(st.binary(min_size=1, max_size=12))
        if not content:
            content = bytearray(b"%")
    with contextlib.suppress(ParseError):
        assert parsing.parse(bytes(content), "application/pdf").text.strip()


@pytest.mark.parametrize("kind", ["text/plain", "text/markdown", "text/html"])
@pytest.mark.parametrize(
    "unit",
    ["<", "#", "# \n", "a", "<div>", "<table><tr><td>", "- a\n", "|-|\n", "> ", "[", "`", "```\n",
     "a\n===\n", "x|y\n-|-\n", "<!--", "&", "&amp;", "<p>a", "<pre>", "<ul><li>", "</", "<![CDATA[",
     "<b x=", "\n"],
)  # fmt: skip
def test_time_is_linear_in_hostile_input(kind: str, unit: str) -> None:
    content = (unit * (300_000 // len(unit))).encode()
    began = time.monotonic()
    with contextlib.suppress(ParseError):
        parsing.parse(content, kind)
    # The worst of them takes 2 s on a busy machine; quadratic behaviour would take minutes.
    assert time.monotonic() - began < 15
