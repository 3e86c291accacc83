"""Chunks of source code, JSON and tables: definitions whole, named, and within the limit."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aistack.aidb import chunking_cuts, parsing
from aistack.aidb.chunking import MAX_CHARS_PER_TOKEN, MAX_JOINED
from aistack.aidb.parsing.document import Block, ParsedDocument
from aistack.models import ModelFiles
from fix_chunking import chunker, cut, plain_tokenizer, sentences


@pytest.fixture(autouse=True)
def _model(model_files: ModelFiles) -> None:
    """Skips the module where the model is not installed."""


def body(lines: int, name: str = "total", indent: str = "    ") -> str:
    return "".join(f"{indent}{name}_{n} = compute(argument_{n})\n" for n in range(lines))


def test_a_function_is_one_chunk_where_it_fits_and_its_path_names_it() -> None:
    text = (
        "import os\nimport sys\n\n\n"
        'class Store:\n    """Keeps things."""\n\n'
        f"    # Said of save.\n    def save(self):\n{body(8, indent='        ')}\n"
        f"    def load(self):\n{body(8, 'loaded', '        ')}\n\n"
        f"def main():\n{body(8, 'ran')}"
    )
    chunks = cut(text, "text/x-python", max_tokens=200)
    by_path = {" > ".join(chunk.heading_path): chunk for chunk in chunks}
    assert list(by_path) == ["class Store > def save", "class Store > def load", "def main"]
    save = by_path["class Store > def save"]
    # Two imports and the head of the class are too short for chunks of their own.
    assert save.text.startswith("import os\nimport sys\n\n\nclass Store:")
    assert "\n\n    # Said of save.\n    def save" in save.text
    assert save.text.endswith("total_7 = compute(argument_7)")
    assert save.embed_text == save.text
    load = by_path["class Store > def load"]
    assert load.text.startswith("    def load(self):")
    assert load.embed_text == "class Store\n" + load.text
    assert (load.line_start, load.line_end) == (19, 27)


def test_a_function_too_long_is_cut_at_lines_and_every_piece_says_whose_it_is() -> None:
    text = f"class Store:\n    def save(self):\n{body(60, indent='        ')}"
    chunks = cut(text, "text/x-python", max_tokens=100)
    assert len(chunks) > 4
    for chunk in chunks[1:]:
        assert chunk.heading_path == ("class Store", "def save")
        assert chunk.embed_text == "class Store > def save\n" + chunk.text
        # Whole lines, with their indentation.
        assert chunk.text.startswith("        total_")
        assert chunk.text.endswith(")")


def test_one_liners_are_joined_and_their_class_is_said() -> None:
    text = "class Codes:\n" + "".join(f"    def c{n}(self): return {n}\n" for n in range(12))
    chunks = cut(text, "text/x-python", max_tokens=200)
    assert len(chunks) <= 2
    assert all(chunk.heading_path[0] == "class Codes" for chunk in chunks)


def test_imports_do_not_take_a_function_s_name_away() -> None:
    imports = "".join(f"import module_{n}\n" for n in range(8))
    text = f"{imports}\n\ndef run():\n{body(6)}\n\nVALUE = 1\n\n\ndef stop():\n{body(6)}"
    chunks = cut(text, "text/x-python", max_tokens=200)
    assert [chunk.heading_path for chunk in chunks] == [(), ("def run",), ("def stop",)]
    assert "VALUE = 1" in chunks[1].text


def test_elements_of_json_are_chunks_with_their_path() -> None:
    record = {"name": "web", "note": sentences(4)}
    text = json.dumps({"services": [record] * 6}, indent=2)
    chunks = cut(text, "application/json", max_tokens=100)
    assert [chunk.heading_path for chunk in chunks] == [(f"$.services[{n}]",) for n in range(6)]
    assert all('"name": "web"' in chunk.text for chunk in chunks)


@pytest.mark.parametrize("kind", ["text/markdown", "text/html"])
def test_pieces_of_a_table_are_embedded_with_its_header(kind: str) -> None:
    rows = [f"value {n}. Of note | {n}" for n in range(60)]
    if kind == "text/markdown":
        header = "| name of it | number |\n|---|---|\n"
        text = header + "".join(f"| {row} |\n" for row in rows)
    else:
        header = "name of it | number\n"
        cells = "".join(f"<tr><td>{'</td><td>'.join(row.split(' | '))}</td></tr>" for row in rows)
        text = f"<table><tr><th>name of it</th><th>number</th></tr>{cells}</table>"
    chunks = cut(text, kind, max_tokens=80)
    assert len(chunks) > 4
    assert chunks[0].embed_text == chunks[0].text
    for chunk in chunks[1:]:
        assert chunk.embed_text == header + chunk.text
        assert chunk.text.lstrip("| ").startswith("value")
        assert chunk.token_count <= 80


def test_a_header_as_long_as_its_table_is_not_repeated() -> None:
    header = f"| {sentences(4)} | number |\n|---|---|\n"
    chunks = cut(header + "| a | 1 |\n" * 40, max_tokens=80)
    assert all(chunk.embed_text == chunk.text for chunk in chunks)


def test_a_header_without_an_end_is_not_read_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[int] = []
    header = chunking_cuts._HEADER

    class Header:
        def match(self, text: str, start: int, end: int) -> re.Match[str] | None:
            looked_at.append(end - start)
            return header.match(text, start, end)

    monkeypatch.setattr(chunking_cuts, "_HEADER", Header())
    text = "word " * 20_000
    document = ParsedDocument(None, text, (Block("table", 0, len(text)),))
    chunks = chunker(80).chunk(document)
    assert len(chunks) > 100
    assert len(looked_at) > 100
    assert max(looked_at) <= 80 * MAX_CHARS_PER_TOKEN + 1


class Counted(str):
    """A text that says how many characters were searched for ends of lines."""

    characters = 0

    def count(self, sub: str, start: int = 0, end: int | None = None, /) -> int:  # type: ignore[override]
        stop = len(self) if end is None else end
        self.characters += max(0, stop - start)
        return super().count(sub, start, stop)


@pytest.mark.parametrize("overlap", [0, 16])
def test_lines_of_a_long_block_are_counted_on(overlap: int) -> None:
    text = Counted("a few words.\n" * 10_000)
    document = ParsedDocument(None, text, (Block("paragraph", 0, len(text), line=1),))
    chunks = chunker(80, overlap).chunk(document)
    assert len(chunks) > 100
    assert text.characters < 4 * len(text)
    for chunk in chunks:
        assert chunk.line_start == 1 + str(text).count("\n", 0, chunk.char_start)


def test_few_are_joined_to_one_chunk() -> None:
    chunks = cut("# a\n" * 600, max_tokens=512)
    lines = [chunk.text.count("# a") for chunk in chunks]
    assert sum(lines) == 600
    assert max(lines) == MAX_JOINED


names = st.text(alphabet="abcdefgh_", min_size=1, max_size=12).map(lambda text: f"n{text}")
statements = st.one_of(
    names.map(lambda name: f"{name} = 1"),
    names.map(lambda name: f'call("{name}", [1, 2, 3], key={{"a": "{name * 5}"}})'),
    st.just("# a comment — with é and 日本語"),
    st.just(""),
)


@st.composite
def functions(draw: st.DrawFn, indent: str = "") -> str:
    inside = draw(st.lists(statements, max_size=25))
    lead = draw(st.sampled_from(["", "# About it.\n", "@decorated\n", "# One\n\n# Two\n"]))
    lines = [*lead.splitlines(), f"def {draw(names)}(x):", "    '''Doc.'''"]
    lines += [f"    {one}" if one else "" for one in inside]
    return "".join(f"{indent}{line}\n" if line else "\n" for line in lines)


@st.composite
def sources(draw: st.DrawFn) -> str:
    parts = []
    for _ in range(draw(st.integers(0, 6))):
        match draw(st.integers(0, 2)):
            case 0:
                parts.append(draw(functions()))
            case 1:
                members = draw(st.lists(functions("    "), max_size=4))
                parts.append(f"class {draw(names)}:\n    x = 1\n\n" + "\n".join(members))
            case _:
                parts.append("\n".join(draw(st.lists(statements, max_size=8))) + "\n")
    return "\n\n".join(parts)


@settings(max_examples=120, deadline=None)
@given(sources(), st.sampled_from([32, 64, 200]), st.booleans())
def test_spans_are_exact_in_source(text: str, limit: int, headings: bool) -> None:
    if not text.strip():
        return
    document = parsing.parse(text.encode(), "text/x-python")
    counter = plain_tokenizer()
    covered = bytearray(len(text))
    for chunk in chunker(limit, 8, headings).chunk(document):
        assert chunk.text == text[chunk.char_start : chunk.char_end]
        assert chunk.embed_text.endswith(chunk.text)
        assert chunk.token_count == len(counter.encode(chunk.embed_text)) <= limit
        assert chunk.line_start == 1 + text.count("\n", 0, chunk.char_start)
        assert chunk.line_end == 1 + text.count("\n", 0, chunk.char_end)
        # Code is never said twice.
        assert not any(covered[chunk.char_start : chunk.char_end])
        covered[chunk.char_start : chunk.char_end] = b"\1" * len(chunk.text)
    assert [c for c, seen in zip(text, covered, strict=True) if not seen and c.strip()] == []


@settings(max_examples=80, deadline=None)
@given(st.lists(functions(), min_size=1, max_size=6))
def test_what_fits_is_never_cut(parts: list[str]) -> None:
    text = "\n\n".join(parts)
    document = parsing.parse(text.encode(), "text/x-python")
    counter = plain_tokenizer()
    chunks = chunker(200).chunk(document)
    for block in document.blocks:
        words = text[block.start : block.end].strip()
        room = len(counter.encode(f"{block.label}\n{words}"))
        if room <= 200:
            assert any(words in chunk.text for chunk in chunks), block.label
