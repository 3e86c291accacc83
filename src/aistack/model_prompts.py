"""What a model's own files say about prompts, and about vectors that may be cut short.

A prompt is a text that goes before what is encoded (`query: `); the model was trained with it.
sentence-transformers keeps them in `config_sentence_transformers.json` as `prompts` (name to text)
and `default_prompt_name`. Nothing is guessed from a model's name.

Matryoshka models (Kusupati et al. 2022, arXiv:2205.13147) are trained so that the first numbers of
a vector are a vector of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson

from aistack.service.errors import StartError

InputType = Literal["query", "document"]

#: The names that stand for each kind of input, the first that the model has; these are what
#: sentence-transformers' `encode_query` and `encode_document` look for.
NAMES: Mapping[str, tuple[str, ...]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}
#: Where models that were trained for it name their dimensions.
MATRYOSHKA_KEYS = ("matryoshka_dimensions", "matryoshka_dims")


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts of one model: `texts` by name; `default` is the name that holds where none is
    asked for."""

    texts: Mapping[str, str] = field(default_factory=dict)
    default: str | None = None

    @property
    def canonical(self) -> bytes:
        """What tells two sets of prompts apart; empty where no prompt changes a text."""
        if not any(self.texts.values()):
            return b""
        return orjson.dumps([dict(self.texts), self.default], option=orjson.OPT_SORT_KEYS)

    def text(self, name: str | None = None) -> str:
        """The prompt of that name, or the default one. Raises KeyError for a name unknown here."""
        if name is None:
            name = self.default
        return "" if name is None else self.texts[name]

    def for_input(self, kind: InputType) -> str:
        """The prompt for a query or for a document; the default one where there is none for it."""
        return self.text(next((name for name in NAMES[kind] if name in self.texts), None))


def read_prompts(table: Mapping[str, Any], path: Path, *, pooled: bool) -> Prompts:
    """The prompts in `table`, read from `path`. Raises StartError.

    `pooled` is `include_prompt` of the pooling: without it the prompt's own tokens would have to be
    left out of the mean, which no engine here does.
    """
    given = table.get("prompts") or {}
    default = table.get("default_prompt_name")
    if not isinstance(given, dict) or not all(isinstance(text, str) for text in given.values()):
        raise StartError(f"{path}: prompts must be a table of texts: fetch the model again")
    if default is not None and default not in given:
        raise StartError(
            f"{path}: default_prompt_name is {default!r}, which is not among the prompts: fetch the"
            " model again"
        )
    prompts = Prompts(given, default)
    if prompts.canonical and not pooled:
        raise StartError(
            f"{path}: prompts that are left out of the pooling (include_prompt is false) are not"
            " supported: use a model that pools them"
        )
    return prompts


def read_matryoshka(tables: Mapping[Path, Mapping[str, Any]], dimension: int) -> tuple[int, ...]:
    """The dimensions below `dimension` that the model's files declare. Raises StartError."""
    found: set[int] = set()
    for path, table in tables.items():
        for key in MATRYOSHKA_KEYS:
            given = table.get(key) or []
            if not isinstance(given, list) or not all(type(one) is int for one in given):
                raise StartError(f"{path}: {key} must be a list of integers: fetch the model again")
            found.update(one for one in given if 0 < one < dimension)
    return tuple(sorted(found))
