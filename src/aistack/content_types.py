"""Content types that are read, and how a file's name tells its own. Imports nothing heavy.

Text has the types that IANA registered; source code has `text/x-…` by language, `text/x-source`
where nothing here knows the language.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Final

PLAIN: Final = "text/plain"
MARKDOWN: Final = "text/markdown"
HTML: Final = "text/html"
PDF: Final = "application/pdf"
JSON: Final = "application/json"
JSON_LINES: Final = "application/jsonl"
YAML: Final = "application/yaml"
TOML: Final = "application/toml"
#: Source code of any language: cut at blank lines.
SOURCE: Final = "text/x-source"

#: Source code that is cut by its definitions, by ending.
LANGUAGES: Final[Mapping[str, tuple[str, ...]]] = {
    "text/x-sh": (".sh", ".bash"),
    "text/x-c": (".c", ".h"),
    "text/x-c++": (".cc", ".cpp", ".cxx", ".hh", ".hpp", ".hxx"),
    "text/x-go": (".go",),
    "text/x-java": (".java",),
    "text/javascript": (".js", ".mjs", ".cjs", ".jsx"),
    "text/x-nix": (".nix",),
    "text/x-python": (".py", ".pyi"),
    "text/x-rust": (".rs",),
    "text/x-typescript": (".ts", ".mts", ".cts"),
    "text/x-tsx": (".tsx",),
}
_OTHER_SOURCE: Final = (
    ".awk", ".bat", ".cfg", ".clj", ".cmake", ".conf", ".cs", ".css", ".cu", ".dart", ".diff",
    ".el", ".elm", ".erl", ".ex", ".exs", ".f90", ".fish", ".fs", ".gradle", ".graphql", ".groovy",
    ".hcl", ".hs", ".ini", ".jl", ".kt", ".less", ".lisp", ".lua", ".m", ".mk", ".ml", ".mli",
    ".patch", ".php", ".pl", ".pm", ".proto", ".ps1", ".r", ".rb", ".rkt", ".sass", ".scala",
    ".scm", ".scss", ".service", ".sql", ".svelte", ".swift", ".tcl", ".tf", ".vim", ".vue", ".xml",
    ".xsl", ".zig", ".zsh",
)  # fmt: skip
_ENDINGS: Final[Mapping[str, tuple[str, ...]]] = {
    PLAIN: (".txt", ".text", ".rst", ".log"),
    MARKDOWN: (".md", ".markdown", ".mdown"),
    HTML: (".html", ".htm", ".xhtml"),
    PDF: (".pdf",),
    JSON: (".json",),
    JSON_LINES: (".jsonl", ".ndjson"),
    YAML: (".yaml", ".yml"),
    TOML: (".toml",),
    SOURCE: _OTHER_SOURCE,
    **LANGUAGES,
}
CONTENT_TYPES: Final = tuple(_ENDINGS)
#: The content type that the ending of a file's name stands for.
BY_ENDING: Final[Mapping[str, str]] = {
    ending: kind for kind, endings in _ENDINGS.items() for ending in endings
}
#: Files that are known by their whole name.
_BY_NAME: Final[Mapping[str, str]] = {
    "containerfile": SOURCE,
    "dockerfile": SOURCE,
    "gnumakefile": SOURCE,
    "justfile": SOURCE,
    "makefile": SOURCE,
}
#: Other names of the types above, as browsers, `file` and older software say them.
ALIASES: Final[Mapping[str, str]] = {
    "application/ecmascript": "text/javascript",
    "application/javascript": "text/javascript",
    "application/json5": SOURCE,
    "application/jsonlines": JSON_LINES,
    "application/sql": SOURCE,
    "application/typescript": "text/x-typescript",
    "application/x-httpd-php": SOURCE,
    "application/x-javascript": "text/javascript",
    "application/x-ndjson": JSON_LINES,
    "application/x-pdf": PDF,
    "application/x-python-code": "text/x-python",
    "application/x-sh": "text/x-sh",
    "application/x-shellscript": "text/x-sh",
    "application/x-typescript": "text/x-typescript",
    "application/x-yaml": YAML,
    "application/xhtml+xml": HTML,
    "application/xml": SOURCE,
    "text/css": SOURCE,
    "text/ecmascript": "text/javascript",
    "text/jsx": "text/javascript",
    "text/rust": "text/x-rust",
    "text/tsx": "text/x-tsx",
    "text/typescript": "text/x-typescript",
    "text/x-c++src": "text/x-c++",
    "text/x-c++hdr": "text/x-c++",
    "text/x-chdr": "text/x-c",
    "text/x-csrc": "text/x-c",
    "text/x-java-source": "text/x-java",
    "text/x-javascript": "text/javascript",
    "text/x-markdown": MARKDOWN,
    "text/x-python-script": "text/x-python",
    "text/x-script.python": "text/x-python",
    "text/x-shellscript": "text/x-sh",
    "text/x-toml": TOML,
    "text/x-yaml": YAML,
    "text/xml": SOURCE,
    "text/yaml": YAML,
}


def by_name(name: str) -> str | None:
    """The content type that the name of a file stands for; None where it stands for none."""
    path = PurePosixPath(name)
    return BY_ENDING.get(path.suffix.lower()) or _BY_NAME.get(path.name.lower())
