"""What the grammars of tree-sitter call definitions, and how one is named.

The names of nodes are those of the grammars (`node-types.json` of each). They mean the same in all
of them, so that one table serves; `Language.transparent` adds what holds for one language alone.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from typing import Final

from tree_sitter import Language as Grammar
from tree_sitter import Node

from aistack.aidb.parsing.document import shorten


@dataclass(frozen=True, slots=True)
class Language:
    """A language and where its grammar is: modules and functions, the first that exists is taken.

    Definitions are looked for within nodes that are `transparent`; of bindings only those over
    `nested_bytes` are looked into.
    """

    name: str
    grammars: tuple[tuple[str, str], ...]
    transparent: frozenset[str] = frozenset()
    nested_bytes: int = 0


_C_LIKE: Final = frozenset(
    {
        "preproc_if", "preproc_ifdef", "preproc_else", "preproc_elif", "preproc_elifdef",
        "linkage_specification", "declaration_list",
    }
)  # fmt: skip
_NIX: Final = frozenset(
    {
        "function_expression", "let_expression", "attrset_expression", "rec_attrset_expression",
        "let_attrset_expression", "binding_set", "with_expression", "assert_expression",
        "apply_expression", "parenthesized_expression",
    }
)  # fmt: skip


def _of(name: str, *functions: str) -> tuple[tuple[str, str], ...]:
    return tuple((f"tree_sitter_{name}", function) for function in functions or ("language",))


_TYPESCRIPT: Final = _of("typescript", "language_typescript", "language")
#: By content type.
LANGUAGES: Final = {
    "text/x-sh": Language("Bash", _of("bash")),
    "text/x-c": Language("C", _of("c"), _C_LIKE),
    "text/x-c++": Language("C++", _of("cpp"), _C_LIKE),
    "text/x-go": Language("Go", _of("go")),
    "text/x-java": Language("Java", _of("java"), frozenset({"enum_body_declarations"})),
    "text/javascript": Language("JavaScript", _of("javascript")),
    "text/x-nix": Language("Nix", _of("nix"), _NIX, nested_bytes=1000),
    "text/x-python": Language("Python", _of("python")),
    "text/x-rust": Language("Rust", _of("rust")),
    "text/x-typescript": Language("TypeScript", _TYPESCRIPT),
    # nixpkgs has each grammar in a module of its own.
    "text/x-tsx": Language("TSX", (*_of("typescript", "language_tsx"), *_of("tsx"), *_TYPESCRIPT)),
}

DEFINITIONS: Final = frozenset(
    {
        "function_definition", "function_declaration", "generator_function_declaration",
        "method_definition", "method_declaration", "method_signature", "function_signature",
        "abstract_method_signature", "constructor_declaration", "compact_constructor_declaration",
        "function_item", "function_signature_item", "struct_item", "enum_item", "union_item",
        "const_item", "static_item", "type_item", "macro_definition", "type_declaration",
        "type_alias_declaration", "type_definition", "alias_declaration", "enum_specifier",
        "union_specifier", "concept_definition", "type_alias_statement",
    }
)  # fmt: skip
#: Definitions that hold others, in their field `body` (`expression` of a binding).
CONTAINERS: Final = frozenset(
    {
        "class_definition", "class_declaration", "abstract_class_declaration", "class_specifier",
        "struct_specifier", "namespace_definition", "interface_declaration", "enum_declaration",
        "annotation_type_declaration", "record_declaration", "internal_module", "module",
        "impl_item", "trait_item", "mod_item", "binding",
    }
)  # fmt: skip
#: What may stand around a definition and belongs to it.
WRAPPERS: Final = frozenset(
    {
        "decorated_definition", "export_statement", "ambient_declaration", "template_declaration",
        "expression_statement",
    }
)  # fmt: skip
#: Definitions of values: named where they take more than one line or make a function.
VALUES: Final = frozenset(
    {
        "lexical_declaration", "variable_declaration", "const_declaration", "var_declaration",
        "declaration", "assignment", "assignment_expression",
    }
)  # fmt: skip
#: What belongs to the definition below it.
LEADS: Final = frozenset(
    {
        "comment", "line_comment", "block_comment", "attribute_item", "decorator",
        "attribute_declaration",
    }
)  # fmt: skip
#: Nodes within a container that only hold its members.
BODIES: Final = frozenset({"body", "expression"})
_FUNCTIONS: Final = frozenset(
    {"arrow_function", "function_expression", "generator_function", "class", "lambda"}
)
_NOT_IN_LABELS: Final = frozenset(
    {
        "modifiers", "visibility_modifier", "accessibility_modifier", "storage_class_specifier",
        "attribute_specifier", "ms_declspec_modifier", "override_modifier",
    }
)  # fmt: skip
#: Longer ones are their first word and their name.
_LABEL_BYTES: Final = 120
_HELD: Final = ("_spec", "_spec_list", "_declarator", "type_alias")
#: How deep wrappers and declarators are followed.
_DEPTH: Final = 16


@cache
def grammar(content_type: str) -> Grammar | None:
    """The grammar of a content type in LANGUAGES; None where no module has one that can be used."""
    for module, function in LANGUAGES[content_type].grammars:
        try:
            found = getattr(importlib.import_module(module), function, None)
            if found is not None:
                return Grammar(found())
        except (ImportError, ValueError):
            # A grammar that was made for another version of tree-sitter is a ValueError.
            continue
    return None


def holds_members(node: Node, field: str | None) -> bool:
    """Whether `node`, in `field` of a container, is looked through for definitions."""
    return field in BODIES or node.type == "ERROR"


def defined(node: Node) -> Node | None:
    """The definition that `node` is or wraps; None where it is another statement."""
    for _ in range(_DEPTH):
        kind = node.type
        if kind in DEFINITIONS or kind in CONTAINERS:
            # A use of a type is written as its definition is, without the body.
            use = kind.endswith("_specifier") and node.child_by_field_name("body") is None
            return None if use else node
        if kind in VALUES:
            return node if _is_long(node) or _makes_function(node) else None
        if kind not in WRAPPERS:
            return None
        inner = (
            node.child_by_field_name("definition")
            or node.child_by_field_name("declaration")
            or (node.named_children[-1] if 0 < node.named_child_count <= _DEPTH else None)
        )
        if inner is None:
            return None
        node = inner
    return None


def _is_long(node: Node) -> bool:
    return node.end_point.row > node.start_point.row


def _makes_function(node: Node) -> bool:
    value = node.child_by_field_name("right")
    if value is None and node.named_child_count:
        declarator = node.named_children[0] if node.named_child_count <= _DEPTH else None
        value = declarator.child_by_field_name("value") if declarator is not None else None
    return value is not None and value.type in _FUNCTIONS


def label(node: Node, data: bytes) -> str:
    """What a definition defines: `class Foo`, `async def bar`, `func (s *Server) Handle`."""
    begin = node.start_byte
    for child in node.children[:_DEPTH]:
        if child.type not in _NOT_IN_LABELS and child.type not in LEADS:
            begin = child.start_byte
            break
    name = _name(node)
    if name is None:
        body = node.child_by_field_name("body")
        end = node.end_byte if body is None else body.start_byte
        words = data[begin : min(end, begin + _LABEL_BYTES)].decode("utf-8", "replace")
        return shorten(words.partition("{")[0].partition(" where ")[0]) or ""
    words = data[begin : min(name.end_byte, begin + 8 * _LABEL_BYTES)].decode("utf-8", "replace")
    group = node.type.endswith("_declaration") and "(" in words and name.parent != node
    if name.end_byte - begin > _LABEL_BYTES or "{" in words or group:
        first = data[begin : begin + 40].decode("utf-8", "replace").split(maxsplit=1)
        named = data[name.start_byte : min(name.end_byte, name.start_byte + 800)]
        words = f"{first[0] if first else ''} {named.decode('utf-8', 'replace')}"
    return shorten(words) or ""


def _name(node: Node) -> Node | None:
    """The node that names a definition: it ends the label."""
    found: Node | None = None
    for _ in range(_DEPTH):
        for field in ("name", "attrpath", "left"):
            named = node.child_by_field_name(field)
            if named is not None:
                return named
        inner = node.child_by_field_name("declarator")
        if inner is None and node.named_child_count:
            # `type (...)`, `let a = ...`, `(*name)`: the first of what they hold.
            first = node.named_child(0)
            if first is not None and first.type.endswith(_HELD):
                inner = first
        if inner is None:
            return found
        node = found = inner
    return found
