"""Source code that a grammar must not or cannot read is cut at blank lines, and says why."""

from __future__ import annotations

import subprocess
import sys

import pytest

from aistack.aidb import parsing
from aistack.aidb.parsing import ParsedDocument, languages, source

TEXT = "def f():\n    return 1\n"


def parse(text: str) -> ParsedDocument:
    return parsing.parse(text.encode(), "text/x-python")


def test_indentation_that_overruns_the_scanner_of_python_is_cut_at_blank_lines() -> None:
    # In a process of its own: without the limit it ends by SIGSEGV.
    program = """
from aistack.aidb import parsing
for unit in ("\t", " "):
    for levels in (150, 512, 600):
        text = "".join(unit * n + "if a:\\n" for n in range(levels)) + unit * levels + 'x = "a"\\n'
        print(parsing.parse(text.encode(), "text/x-python").parser)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    deep = "blank lines: nested too deep"
    assert done.stdout.splitlines() == ["tree-sitter Python", deep, deep] * 2


def test_a_width_behind_a_backslash_counts() -> None:
    levels = source.MAX_INDENTS + 1
    text = "".join("\n" + "\\\n" + " " * n + "if a:" for n in range(levels))
    assert parse(text).parser == "blank lines: nested too deep"


def test_a_grammar_of_another_version_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_pointer: object) -> None:
        raise ValueError("Incompatible Language version 99. Must be between 13 and 15")

    languages.grammar.cache_clear()
    try:
        monkeypatch.setattr(languages, "Grammar", refuse)
        assert parse(TEXT).parser == "blank lines: no grammar for Python"
    finally:
        languages.grammar.cache_clear()


def test_a_grammar_that_refuses_to_read_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def __init__(self, _language: object) -> None:
            raise ValueError("Incompatible Language version 99")

    monkeypatch.setattr(source, "Parser", Refusing)
    document = parse(TEXT)
    assert document.parser == "blank lines: the grammar for Python cannot be used"
    assert [(b.kind, b.start, b.end) for b in document.blocks] == [("code", 0, len(TEXT))]
