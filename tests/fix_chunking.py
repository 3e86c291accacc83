"""Chunkers over the installed model's tokenizer."""

from __future__ import annotations

from functools import cache

from tokenizers import Tokenizer

from aistack.aidb import parsing
from aistack.aidb.chunking import Chunk, Chunker
from aistack.aidb.parsing import ParsedDocument
from aistack.models import find_model


@cache
def chunker(max_tokens: int, overlap: int = 0, headings: bool = True) -> Chunker:
    return Chunker(find_model(None).tokenizer, max_tokens, overlap, embed_headings=headings)


@cache
def plain_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(find_model(None).tokenizer))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def cut(
    text: str, kind: str = "text/markdown", max_tokens: int = 64, overlap: int = 0
) -> list[Chunk]:
    return chunker(max_tokens, overlap).chunk(parsing.parse(text.encode(), kind))


def sentences(count: int, word: str = "mountain") -> str:
    return " ".join(f"Sentence {n} about the {word} and its lakes." for n in range(count))


def check_blocks(document: ParsedDocument) -> None:
    position = 0
    for block in document.blocks:
        assert position <= block.start < block.end
        assert not document.text[position : block.start].strip()
        assert block.line == 1 + document.text.count("\n", 0, block.start)
        position = block.end
    assert not document.text[position:].strip()
