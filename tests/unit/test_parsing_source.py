"""Source code: definitions are blocks, comments stay with what they are about, nothing is lost."""

from __future__ import annotations

import time

import pytest

from aistack.aidb import parsing
from aistack.aidb.parsing import ParsedDocument, languages, source
from aistack.content_types import LANGUAGES
from fix_chunking import check_blocks

SOURCES = sorted(LANGUAGES)

PYTHON = '''"""What the module is for."""
import os

# Not about anything below.

# How many.
LIMIT = {
    "a": 1,
}


# Said of f.
@decorated
async def f(x):
    """Doc of f."""
    return x  # at the end of a line


class Über(Base):
    """Doc of the class."""

    field: int = 1

    # é: said of the method
    @property
    def method(self):
        def inner():
            pass

    class Inner:
        def deep(self): ...

    after = 2


if __name__ == "__main__":
    f(1)
'''
NIX = """{ config, lib, ... }:
let
  cfg = config.services.foo;
in
{
  # Whether it runs.
  options.services.foo.enable = lib.mkEnableOption "foo";

  config = lib.mkIf cfg.enable {
    systemd.services.foo.script = "%s";
    users.users.foo = { isSystemUser = true; };
  };
}
""" % ("x" * 1000)  # fmt: skip
RUST = """use std::fmt;

/// A point.
#[derive(Debug)]
pub struct Point { x: u8 }

impl fmt::Display for Point {
    /// Writes it.
    fn fmt(&self) -> fmt::Result {
        write()
    }
}
"""
JAVASCRIPT = """import x from "y";

/** A store. */
export default class Store extends Base {
  constructor() { this.a = 1; }
  get size() { return 1; }
}
export const find = async (key) => {
  return key;
};
module.exports.other = function () {};
"""
TYPESCRIPT = """export interface Shape { area(): number }
type Name = string;
export abstract class Square implements Shape {
  @memo()
  public area(): number { return 1; }
}
namespace Inner { export function go() {} }
"""
GO = """package main

// Handle answers.
func (s *Server) Handle(w int) error { return nil }

type (
\tServer struct{}
)
"""
C = """#ifndef HEADER
#define HEADER
/* Adds. */
static int *add(int a) { return 0; }
typedef struct { int x; } point;
int table[] = {
  1,
};
#endif
"""
CPP = """namespace a {
template <typename T>
class Tree : public Base {
  int size() const { return 1; }
};
}
int a::Tree::size() { return 2; }
"""
JAVA = """package a;
/** Doc. */
@Service
public class Store<T> {
    private int a;
    @Override
    public void save(T one) { }
    Store() {}
}
"""
BASH = """#!/bin/sh
# Stops it.
stop() { kill 1; }
function start { echo; }
stop
"""


def parse(text: str, kind: str = "text/x-python") -> ParsedDocument:
    return parsing.parse(text.encode(), kind)


def paths(document: ParsedDocument) -> dict[str, str]:
    """The text of each named block, by the path of names that it stands under."""
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for block in document.blocks:
        if block.kind != "definition":
            continue
        path = [*[one for one in path if one[0] < block.level], (block.level, block.label)]
        if block.label:
            name = " > ".join(label for _, label in path if label)
            found[name] = document.text[block.start : block.end].strip()
    return found


def test_python_by_definitions() -> None:
    document = parse(PYTHON)
    assert document.text == PYTHON
    assert document.parser == "tree-sitter Python"
    found = paths(document)
    assert list(found) == [
        *("LIMIT", "async def f", "class Über", "class Über > def method"),
        *("class Über > class Inner", "class Über > class Inner > def deep"),
    ]
    assert found["LIMIT"].startswith("# How many.\nLIMIT")
    assert found["async def f"].startswith("# Said of f.\n@decorated\nasync def f(x):")
    assert found["async def f"].endswith("return x  # at the end of a line")
    assert found["class Über"].endswith("field: int = 1")
    assert found["class Über > def method"].startswith("# é: said of the method\n    @property")
    assert "def inner" in found["class Über > def method"]
    others = [document.text[b.start : b.end].strip() for b in document.blocks if not b.label]
    assert others == [
        '"""What the module is for."""\nimport os',
        "# Not about anything below.",
        "after = 2",
        'if __name__ == "__main__":\n    f(1)',
    ]
    check_blocks(document)


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("text/x-nix", NIX, {
            "cfg": "cfg = config.services.foo;",
            "options.services.foo.enable": "# Whether it runs.\n  options.services.foo.enable",
            "config": "config = lib.mkIf cfg.enable {",
            "config > systemd.services.foo.script": 'systemd.services.foo.script = "xx',
            "config > users.users.foo": "users.users.foo = { isSystemUser = true; };",
        }),
        ("text/x-rust", RUST, {
            "struct Point": "/// A point.\n#[derive(Debug)]\npub struct Point { x: u8 }",
            "impl fmt::Display for Point": "impl fmt::Display for Point {",
            "impl fmt::Display for Point > fn fmt": "/// Writes it.\n    fn fmt(&self)",
        }),
        ("text/javascript", JAVASCRIPT, {
            "class Store": "/** A store. */\nexport default class Store extends Base {",
            "class Store > constructor": "constructor() { this.a = 1; }",
            "class Store > get size": "get size() { return 1; }",
            "const find": "export const find = async",
            "module.exports.other": "module.exports.other = function () {};",
        }),
        ("text/x-typescript", TYPESCRIPT, {
            "interface Shape": "export interface Shape {",
            "interface Shape > area": "area(): number }",
            "type Name": "type Name = string;",
            "abstract class Square": "export abstract class Square",
            "abstract class Square > area": "@memo()\n  public area(): number",
            "namespace Inner": "namespace Inner {",
            "namespace Inner > function go": "export function go() {} }",
        }),
        ("text/x-go", GO, {
            "func (s *Server) Handle": "// Handle answers.\nfunc (s *Server) Handle",
            "type Server": "type (\n\tServer struct{}\n)",
        }),
        ("text/x-c", C, {
            "int *add": "/* Adds. */\nstatic int *add(int a) { return 0; }",
            "typedef point": "typedef struct { int x; } point;",
            "int table": "int table[] = {\n  1,\n};",
        }),
        ("text/x-c++", CPP, {
            "namespace a": "namespace a {",
            "namespace a > class Tree": "template <typename T>\nclass Tree",
            "namespace a > class Tree > int size": "int size() const { return 1; }\n};\n}",
            "int a::Tree::size": "int a::Tree::size() { return 2; }",
        }),
        ("text/x-java", JAVA, {
            "class Store": "/** Doc. */\n@Service\npublic class Store<T> {",
            "class Store > void save": "@Override\n    public void save(T one) { }",
            "class Store > Store": "Store() {}\n}",
        }),
        ("text/x-sh", BASH, {
            "stop": "#!/bin/sh\n# Stops it.\nstop() { kill 1; }",
            "function start": "function start { echo; }",
        }),
    ],
)  # fmt: skip
def test_each_language_by_definitions(kind: str, text: str, expected: dict[str, str]) -> None:
    document = parse(text, kind)
    check_blocks(document)
    found = paths(document)
    assert list(found) == list(expected)
    for name, start in expected.items():
        assert found[name].startswith(start), name


def test_tsx_has_its_own_grammar() -> None:
    document = parse("function App(): X { return <b>hi</b>; }\nconst n = 1;\n", "text/x-tsx")
    assert paths(document) == {"function App": "function App(): X { return <b>hi</b>; }"}


def test_every_language_has_its_grammar_installed() -> None:
    assert set(languages.LANGUAGES) == set(LANGUAGES)
    for kind in SOURCES:
        assert languages.grammar(kind) is not None, kind


def test_broken_source_keeps_what_can_be_told() -> None:
    text = f"def a(:\n  ]]\n\n{PYTHON}\nclass Half(\n"
    document = parse(text)
    check_blocks(document)
    assert "class Über > def method" in paths(document)


def test_line_ends_of_windows_are_the_same() -> None:
    document = parse(PYTHON.replace("\n", "\r\n"))
    check_blocks(document)
    assert list(paths(document)) == list(paths(parse(PYTHON)))


def test_without_a_grammar_or_over_the_limit_it_is_cut_at_blank_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def shown(document: ParsedDocument) -> list[tuple[str, str]]:
        check_blocks(document)
        return [(b.kind, document.text[b.start : b.end].strip()) for b in document.blocks]

    text = "def a():\n    pass\n \n\ndef b(): pass\n"
    expected = [("code", "def a():\n    pass"), ("code", "def b(): pass")]
    other = parse(text, "text/x-source")
    assert shown(other) == expected
    assert other.parser == "blank lines"
    with monkeypatch.context() as patch:
        patch.setattr(source, "MAX_TREE_BYTES", 10)
        assert shown(parse(text)) == expected
        assert parse(text).parser == "blank lines: over 10 bytes"
    with monkeypatch.context() as patch:
        patch.setattr(source, "grammar", lambda _kind: None)
        assert shown(parse(text)) == expected
        assert parse(text).parser == "blank lines: no grammar for Python"
    # Long enough for the parser to ask whether it is late.
    monkeypatch.setattr(source, "MAX_SECONDS", -1)
    long = "x = 1\n" * 5000 + "\n" + text
    assert parse(long).parser == "blank lines: Python took longer than -1 s"
    check_blocks(parse(long))


def test_ten_megabytes_of_brackets_are_read_in_linear_time() -> None:
    for kind in SOURCES:
        for size in (10_000_000, source.MAX_TREE_BYTES):
            began = time.thread_time()
            document = parse("(" * size, kind)
            # The worst takes .6 s; quadratic behaviour would take minutes.
            assert time.thread_time() - began < 15, kind
            assert document.blocks[0].start == 0
            assert document.blocks[-1].end == size


@pytest.mark.parametrize("kind", SOURCES)
def test_time_is_bounded_in_hostile_source(kind: str) -> None:
    for unit in (
        "class A{",
        "def f():\n",
        "/*",
        "x = 1\n",
        "<<E\n",
        "f(){",
        "-> ",
        "let a = {",
        "<",
    ):
        began = time.thread_time()
        document = parse(unit * (30_000 // len(unit)), kind)
        check_blocks(document)
        # Of which at most MAX_SECONDS are the grammar's: some of them are quadratic in these.
        assert time.thread_time() - began < source.MAX_SECONDS + 5, unit


def test_nested_definitions_end_at_a_level() -> None:
    depth = 150
    text = "".join(f"{' ' * n}class A{n}:\n" for n in range(depth)) + " " * depth + "pass\n"
    document = parse(text)
    check_blocks(document)
    assert max(block.level for block in document.blocks) == source.MAX_LEVEL
