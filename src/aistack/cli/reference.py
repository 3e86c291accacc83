"""The configuration reference in Markdown, made from the schema itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from aistack.config import ENV_PREFIX, Config

_SIGNS: tuple[tuple[type[Any], str, str], ...] = (
    (Ge, "ge", "≥"),
    (Gt, "gt", ">"),
    (Le, "le", "≤"),
    (Lt, "lt", "<"),
)

_HEAD = f"""# Configuration

One typed schema for every service. `aistack up --config FILE` lays your file (TOML or JSON) over
what the supervisor computes; `aistack serve SERVICE --config FILE` takes the whole. Variables named
`{ENV_PREFIX}SECTION__KEY` win over the file. An unknown key, a wrong type or a value out of bounds
ends the start with one line that names the key, the file and the fix; `aistack config check FILE`
says so beforehand. Secrets are never values here, only paths of files.

```toml
[coordinator]
top_k = 8

[embeddings]
encoder = "torch"
```

This page is written by `aistack config reference`; a test keeps it so.
"""


def markdown() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(_section(name, field) for name, field in _sections())])


def _sections() -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in Config.model_fields.items():
        model = _as_section(field)
        assert model is not None
        yield name, model
        for key, inner in model.model_fields.items():
            if (nested := _as_section(inner)) is not None:
                yield f"{name}.{key}", nested


def _as_section(field: FieldInfo) -> type[BaseModel] | None:
    annotation = field.annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None


def _section(name: str, model: type[BaseModel]) -> str:
    rows = "\n".join(
        _row(key, field) for key, field in model.model_fields.items() if _as_section(field) is None
    )
    return (
        f"## `[{name}]`\n{(model.__doc__ or '').strip()}\n\n"
        f"| key | type | default | meaning |\n|---|---|---|---|\n{rows}\n"
    )


def _row(key: str, field: FieldInfo) -> str:
    default = "" if field.default is None else f"`{_plain(field.default)}`"
    bounds = [
        f"{sign} {getattr(item, attribute)}"
        for item in field.metadata
        for kind, attribute, sign in _SIGNS
        if isinstance(item, kind)
    ]
    kind = _type(field.annotation) + (f", {', '.join(bounds)}" if bounds else "")
    return f"| `{key}` | {kind} | {default} | {field.description or ''} |"


def _type(annotation: Any) -> str:
    choices: tuple[Any, ...] = getattr(annotation, "__args__", ())
    if choices and all(isinstance(choice, str) for choice in choices):
        return " or ".join(f"`{choice}`" for choice in choices)
    if getattr(annotation, "__origin__", None) in (tuple, list):
        return f"list of {_type(choices[0])}s"
    names = {"str": "text", "int": "integer", "float": "number", "bool": "yes or no"}
    if choices:
        return " or ".join(_type(choice) for choice in choices if choice is not type(None))
    name = getattr(annotation, "__name__", str(annotation))
    return names.get(name, name.lower())


def _plain(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return str(list(value))
    return str(value).lower() if isinstance(value, bool) else str(value)
