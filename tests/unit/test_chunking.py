"""Chunks: exact spans, never above the limit, structure kept."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aistack.aidb import parsing
from aistack.aidb.chunking import MAX_CHARS_PER_TOKEN, Chunker
from aistack.models import ModelFiles, find_model
from fix_chunking import chunker, cut, plain_tokenizer, sentences


@pytest.fixture(autouse=True)
def _model(model_files: ModelFiles) -> None:
    """Skips the module where the model is not installed."""


words = st.sampled_from(
    [
        "tarn",
        "fell",
        "services.nginx.enable",
        "a" * 300,
        "日本語テキスト",
        "é",
        "1.5",
        "naïve",
        "x" * 5000,
    ]
)
lines = st.one_of(
    st.lists(words, max_size=40).map(" ".join),
    st.sampled_from(["# One", "## Two", "### Three", "", "```", "| a | b |", "|---|---|", "- item",
                     "====", "> quote"]),
    st.text(max_size=60).filter(lambda text: "\0" not in text),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.lists(lines, max_size=30).map("\n".join),
    st.sampled_from(["text/plain", "text/markdown", "text/html"]),
    st.sampled_from([(24, 0), (48, 12), (200, 32)]),
)
def test_spans_are_exact_and_the_limit_holds(text: str, kind: str, limits: tuple[int, int]) -> None:
    try:
        document = parsing.parse(text.encode(errors="replace"), kind)
    except parsing.ParseError:
        return
    chunks = chunker(*limits).chunk(document)
    counter = plain_tokenizer()
    covered = bytearray(len(document.text))
    for ordinal, chunk in enumerate(chunks):
        assert chunk.ordinal == ordinal
        assert chunk.text == document.text[chunk.char_start : chunk.char_end]
        assert chunk.text.strip()
        assert chunk.embed_text.endswith(chunk.text)
        assert chunk.token_count == len(counter.encode(chunk.embed_text)) <= limits[0]
        assert len(chunk.text) <= limits[0] * MAX_CHARS_PER_TOKEN
        covered[chunk.char_start : chunk.char_end] = b"\1" * len(chunk.text)
        if kind == "text/html":
            assert chunk.line_start is None
        else:
            assert chunk.line_start == 1 + document.text.count("\n", 0, chunk.char_start)
            assert chunk.line_end == 1 + document.text.count("\n", 0, chunk.char_end)
    lost = [c for c, seen in zip(document.text, covered, strict=True) if not seen and c.strip()]
    assert lost == []


def test_a_heading_begins_a_chunk_and_names_it() -> None:
    text = f"# Guide\n\n## Tarns\n\n{sentences(4)}\n\n## Fells\n\n{sentences(4, 'fell')}\n"
    chunks = cut(text)
    assert [chunk.heading_path[-1] for chunk in chunks] == ["Tarns", "Fells"]
    assert chunks[-1].text.startswith("## Fells")
    assert chunks[-1].embed_text == "Guide\n" + chunks[-1].text


def test_code_and_tables_stay_whole_where_they_fit() -> None:
    code = "```nix\n" + "\n".join(f"option{n} = true;" for n in range(6)) + "\n```"
    table = "| name | value |\n|---|---|\n" + "\n".join(f"| k{n} | {n} |" for n in range(4))
    text = f"{sentences(5)}\n\n{code}\n\n{sentences(5)}\n\n{table}\n\n{sentences(5)}\n"
    chunks = [chunk.text for chunk in cut(text, max_tokens=80)]
    assert any(code in chunk for chunk in chunks)
    assert any(table in chunk for chunk in chunks)


def test_prose_too_long_is_cut_at_sentences_and_overlaps() -> None:
    text = sentences(60)
    chunks = cut(text, "text/plain", max_tokens=64, overlap=16)
    assert len(chunks) > 5
    for before, after in pairwise(chunks):
        assert before.text.endswith(".")
        assert after.text.startswith("Sentence")
        assert before.char_start < after.char_start <= before.char_end + 1
    assert any(a.char_end > b.char_start for a, b in pairwise(chunks))


def test_tiny_neighbours_are_joined_but_not_over_the_end_of_a_chapter() -> None:
    text = "# A\n\n## A1\n\nOne.\n\n## A2\n\nTwo.\n\n# B\n\n## B1\n\nThree.\n"
    chunks = cut(text, max_tokens=200)
    assert chunks[0].text.startswith("# A")
    assert "Two." in chunks[0].text
    assert len(chunks) <= 2


def test_pages_are_told() -> None:
    from fix_data import make_pdf

    document = parsing.parse(make_pdf([sentences(6), sentences(6, "fell")]), "application/pdf")
    chunks = chunker(48).chunk(document)
    assert chunks[0].page_start == 1
    assert chunks[-1].page_end == 2
    assert all(chunk.line_start is None for chunk in chunks)


def test_room_for_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves no room"):
        Chunker(find_model(None).tokenizer, 8, 0)
