"""The ONNX graph of a BERT encoder, made from the model's own `config.json` and weights, and kept.

Nothing is exported or downloaded, and the same files give the same bytes. The graph is

    n texts with t tokens in all, the longest with s (`packing`)
      -> embeddings -> N layers (`graph_builder`) -> mean (or first) token -> unit length
    embedding  (n, d) float32, unit length
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import structlog
from safetensors import SafetensorError, safe_open

from aistack.embeddings.graph_builder import BUILDER, Float, GraphBuilder, GraphFiles
from aistack.models import ModelFiles
from aistack.service.errors import StartError

log = structlog.get_logger()


Files = TypeVar("Files", bound=GraphFiles)


def kept_graph(files: ModelFiles, revision: str, state: Path) -> Path:
    """The graph's file in `state`, as `kept`. Raises StartError."""
    return kept(files, revision, state, build_graph)


def kept(files: Files, revision: str, state: Path, build: Callable[[Files], bytes]) -> Path:
    """The graph's file in `state`, made at the first call and checked by hash at each.

    The name carries the weights' revision, a digest of the other settings, the builder's version
    and the SHA-256 of the bytes, so that one rename is the whole commit and a damaged or stale
    file is seen. Raises StartError when the directory cannot be written.
    """
    stem = f"{revision[:16]}-{files.settings[:8]}-v{BUILDER}"
    for path in sorted(state.glob(f"{stem}-*.onnx")):
        if _digest(path) == path.stem.rsplit("-", 1)[-1]:
            return path
        log.warning("kept_graph_damaged", file=path.name, action="made anew")
        path.unlink()
    data = build(files)
    path = state / f"{stem}-{hashlib.sha256(data).hexdigest()}.onnx"
    try:
        write_whole(path, data)
    except OSError as error:
        raise StartError(
            f"embeddings.state_dir: {state} cannot be written ({error.strerror}): give the"
            f" service a writable directory with {len(data) >> 20} MiB free"
        ) from error
    _forget(path, revision)
    return path


def kept_graphs(files: ModelFiles, revision: str, state: Path) -> list[Path]:
    """The graphs of this very model in `state`, whole or not, of any builder."""
    return sorted(state.glob(f"{revision[:16]}-{files.settings[:8]}-v*-*.onnx"))


def _forget(made: Path, revision: str) -> None:
    """Remove what `made` replaces, and of other models' graphs all but the newest.

    One of another model is left for a service that goes back to it or reads both for a while.
    """
    others = []
    for path in made.parent.glob("*-v*-*.onnx"):
        if path.name.startswith(revision[:16]):
            if path != made:
                path.unlink(missing_ok=True)
        else:
            others.append((path.stat().st_mtime_ns, path))
    for _, path in sorted(others)[:-1]:
        path.unlink(missing_ok=True)


def build_graph(files: ModelFiles) -> bytes:
    """The serialised graph: the same bytes for the same files. Raises StartError."""
    return serialized(files, _Embedder, option="embeddings.encoder")


def serialized(
    files: Files, builder: Callable[[Files, Any], GraphBuilder], *, option: str
) -> bytes:
    """The graph that `builder` makes of the weights; `option` is what chooses another engine.

    Raises StartError.
    """
    _check_architecture(files, option)
    try:
        with safe_open(files.weights, framework="numpy") as tensors:
            names = set(tensors.keys())
            prefix = "bert." if "bert.embeddings.LayerNorm.weight" in names else ""

            def weight(name: str) -> Float:
                # What stands on the encoder (a classifier) has no prefix.
                full = prefix + name if prefix + name in names else name
                return np.ascontiguousarray(tensors.get_tensor(full), dtype=np.float32)

            data: bytes = builder(files, weight).model().SerializeToString(deterministic=True)
            return data
    except SafetensorError as error:
        raise StartError(f"{files.weights}: not the weights of a BERT encoder ({error})") from error


def _check_architecture(files: GraphFiles, option: str) -> None:
    config = files.architecture
    wanted = {
        "model_type": ("bert", "bert"),
        "hidden_act": ("gelu", "gelu"),
        "position_embedding_type": ("absolute", "absolute"),
    }
    for key, (value, default) in wanted.items():
        if (found := config.get(key, default)) != value:
            raise StartError(
                f"{files.directory / 'config.json'}: {key} is {found!r}, the onnx engine knows"
                f" {value!r} only: set {option} to torch"
            )


class _Embedder(GraphBuilder):
    """Pooling and unit length on top."""

    output = "embedding"

    def __init__(self, files: ModelFiles, weight: Any) -> None:
        super().__init__(files, weight)
        self._pooling = files.pooling
        self._dimension = files.dimension

    def _head(self, hidden: str) -> int:
        if self._pooling == "cls":
            self._first(hidden, "pooled")
        else:
            # The mean over the tokens is one row of a matrix product: mask (n, 1, s) times
            # hidden (n, s, d). Its scale does not matter, for the length is made 1 just below.
            middle = self._constant("pool.axis", np.array([1], dtype=np.int64))
            self._plain("Gather", [hidden, "rows"], "pool.padded", axis=0)
            self._plain("Unsqueeze", ["mask", middle], "pool.row")
            self._plain("MatMul", ["pool.row", "pool.padded"], "pool.sum")
            self._plain("Squeeze", ["pool.sum", middle], "pooled")
        tiny = self._constant("norm.tiny", np.array(1e-12, dtype=np.float32))
        self._node("ReduceL2", ["pooled"], ["norm"], domain="", axes=[-1], keepdims=1)
        self._node("Max", ["norm", tiny], ["norm.safe"], domain="")
        self._node("Div", ["pooled", "norm.safe"], ["embedding"], domain="")
        return self._dimension


def write_whole(path: Path, data: bytes) -> None:
    """Put `data` into `path`, all of it or nothing. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.suffix[1:]}-", suffix=".part"
    )
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
