"""The typed reader of `stack.toml`, the one table of services."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

#: An optional one is there where the configuration chooses it, and then degrades.
Need = Literal["required", "degrades", "optional"]

#: What services stand on and aistack does not write itself.
INFRASTRUCTURE = frozenset({"postgres", "redis", "llama", "qdrant"})


class Limits(BaseModel):
    """What one service takes at most; seconds and bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    body_bytes: int = Field(gt=0)
    concurrency: int = Field(gt=0)
    request_seconds: float = Field(gt=0)
    drain_seconds: float = Field(gt=0)
    start_seconds: float = Field(gt=0)
    watchdog_seconds: float = Field(gt=0)
    #: Memory of the processes that it begins for its work, all together.
    children_bytes: int = Field(0, ge=0)


class ServiceEntry(BaseModel):
    """One service of the stack."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    summary: str
    module: str
    routes: tuple[str, ...]
    openai_routes: tuple[str, ...]
    needs: dict[str, Need]
    calls: tuple[str, ...]
    clients: tuple[str, ...]
    network: Literal["none", "unix", "loopback", "egress"]
    state: Literal["none", "cache", "data"]
    scopes: tuple[str, ...]
    limits: Limits

    @property
    def docs_path(self) -> str:
        """Where its API pages live, behind the front door too."""
        return f"/docs/{self.name}"

    def speaks_openai(self, path: str) -> bool:
        """Whether errors under `path` have OpenAI's shape."""
        return any(under(path, prefix) for prefix in self.openai_routes)


class Stack(BaseModel):
    """Every service, by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    services: dict[str, ServiceEntry]

    def route(self, path: str) -> ServiceEntry | None:
        """The service that answers `path` at the front door; the longest prefix wins."""
        best: tuple[int, ServiceEntry] | None = None
        for entry in self.services.values():
            for prefix in (*entry.routes, entry.docs_path):
                if under(path, prefix) and (best is None or len(prefix) > best[0]):
                    best = (len(prefix), entry)
        return best[1] if best else None

    def scopes(self) -> frozenset[str]:
        """Every scope that a key can carry."""
        return frozenset(scope for entry in self.services.values() for scope in entry.scopes)

    def internal_scopes(self, name: str) -> frozenset[str]:
        """What the internal key of service `name` may do."""
        return frozenset(self.services[name].calls)


def under(path: str, prefix: str) -> bool:
    """Whether `path` is `prefix` or lies below it, on segment borders."""
    return path == prefix or path.startswith(prefix.rstrip("/") + "/")


@cache
def load_stack() -> Stack:
    """The table that ships with the package."""
    return parse_stack(
        tomllib.loads(files("aistack").joinpath("stack.toml").read_text(encoding="utf-8"))
    )


def parse_stack(raw: Mapping[str, Any]) -> Stack:
    """The table, checked for names that nothing answers to. Raises ValueError."""
    services = {
        name: ServiceEntry.model_validate({"name": name, **entry})
        for name, entry in raw["services"].items()
    }
    known = set(services) | INFRASTRUCTURE
    for entry in services.values():
        if unknown := set(entry.needs) - known:
            raise ValueError(f"stack.toml: {entry.name} needs {sorted(unknown)}: no such part")
        if unknown := set(entry.clients) - set(services) - {"front"}:
            raise ValueError(f"stack.toml: {entry.name} lists clients {sorted(unknown)}: unknown")
        reachable = {
            scope
            for need in entry.needs
            if need in services and entry.name in services[need].clients
            for scope in services[need].scopes
        }
        if unknown := set(entry.calls) - reachable:
            raise ValueError(f"stack.toml: {entry.name} calls {sorted(unknown)}: out of its reach")
    return Stack(services=services)
