"""The configuration file of each service: computed addresses, under what the user wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aistack.config import load_config, read_table
from aistack.dev.paths import Paths
from aistack.service.key_setup import KeyPaths
from aistack.service.private_files import write_private
from aistack.stack import Stack

Table = dict[str, Any]


def computed(paths: Paths, keys: KeyPaths, service: str, stack: Stack, llama: str) -> Table:
    """What the supervisor knows: sockets, directories and key files of one service."""
    return {
        "log": {"level": "info", "format": "json"},
        "auth": {
            "keys_file": str(keys.keys_file),
            "pepper_file": str(keys.pepper_file),
            "internal_key_file": str(keys.internal_key_file(service)),
        },
        "postgres": {"host": str(paths.postgres_socket)},
        "redis": {"url": f"unix://{paths.socket('redis')}"},
        "peers": {name: f"unix:{paths.socket(name)}" for name in stack.services},
        "llama": {"address": llama},
        "embeddings": {"state_dir": str(paths.data / "embeddings")},
    }


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> Table:
    """`over` on `base`, table by table."""
    result: Table = dict(base)
    for key, value in over.items():
        below = result.get(key)
        result[key] = (
            merged(below, value)
            if isinstance(below, Mapping) and isinstance(value, Mapping)
            else value
        )
    return result


def read_overlay(path: Path | None) -> Table:
    """The user's file, checked (with the environment's variables) before anything starts.

    Raises StartError.
    """
    load_config(path)
    return {} if path is None else read_table(path)


def write_configs(
    paths: Paths, keys: KeyPaths, stack: Stack, overlay: Table, *, llama: str
) -> None:
    """One JSON file per service, 0600."""
    for name in stack.services:
        table = merged(computed(paths, keys, name, stack, llama), overlay)
        write_private(paths.config(name), json.dumps(table, indent=1).encode())
