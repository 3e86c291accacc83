"""The `onnx` engine: ONNX Runtime over the graph that `onnx_graph` makes. Light, for CPUs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as native

from aistack.embeddings.encoder import (
    EncoderError,
    LoadedModel,
    Precision,
    Tokens,
    Vectors,
)
from aistack.embeddings.onnx_graph import kept_graph
from aistack.embeddings.packing import ONNX_RUNTIME, pack
from aistack.models import ModelFiles
from aistack.service.errors import StartError

#: What a forward pass can end with. The native ones share no base narrower than Exception.
FAILURES: tuple[type[Exception], ...] = (
    native.Fail,
    native.InvalidArgument,
    native.RuntimeException,
    native.EPFail,
    native.NotImplemented,
    RuntimeError,
    ValueError,
    MemoryError,
)


class OnnxEncoder(LoadedModel):
    """BERT encoder in float32.

    Safe for several threads: a session's `run` keeps its state on the stack, and each caller is one
    of the `threads` of its own pass.
    """

    cost = ONNX_RUNTIME

    def __init__(
        self,
        files: ModelFiles,
        revision: str,
        *,
        precision: Precision,
        threads: int,
        lanes: int,
        state: Path,
    ) -> None:
        """`lanes`, how many threads encode at once, changes nothing here. Raises StartError."""
        if precision != "fp32":
            raise StartError(
                f"embeddings.precision: the onnx engine has fp32 only, not {precision}: set the key"
                " to fp32, or embeddings.encoder to openvino"
            )
        super().__init__(files, revision, "onnx", precision)
        graph = kept_graph(files, revision, state)
        self._session = open_session(graph, threads, option="embeddings.encoder")

    def encode(self, batch: Sequence[Tokens]) -> Vectors:
        """(n, d) float32, unit length. Raises EncoderError."""
        if not batch:
            return self._nothing()
        try:
            outputs = self._session.run(None, pack(batch))
        except FAILURES as error:
            raise EncoderError("the onnx engine failed in a forward pass") from error
        vectors: Vectors = outputs[0]
        return vectors


def open_session(graph: Path, threads: int, *, option: str) -> onnxruntime.InferenceSession:
    """A session of `threads` cores over `graph`; `option` chooses another engine. StartError."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A spinning worker takes the core that the event loop and the other services need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The arena keeps the largest batch for ever; it is small since batches are cut by tokens.
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except FAILURES as error:
        raise StartError(
            f"{graph}: ONNX Runtime {onnxruntime.__version__} cannot load the graph: install"
            f" a version that pyproject.toml admits, or set {option} to torch"
        ) from error
