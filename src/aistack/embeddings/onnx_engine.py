"""The `onnx` engine: ONNX Runtime over the graph that `onnx_graph` makes. Light, for CPUs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as native

from aistack.embeddings.encoder import EncoderError, TextTokenizer, Tokens, Vectors, pad
from aistack.embeddings.onnx_graph import kept_graph
from aistack.models import EmbeddingSet, ModelFiles
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


class OnnxEncoder:
    """BERT encoder in float32 on `threads` cores."""

    #: A pass over one short text costs 2 ms more than its tokens do at .155 ms each (AMD EPYC with
    #: AVX-512, one thread): 13 tokens.
    pass_tokens = 13

    def __init__(self, files: ModelFiles, *, threads: int, state: Path) -> None:
        revision = files.revision()
        self._tokenizer = TextTokenizer(files.tokenizer, files.max_tokens)
        graph = kept_graph(files, revision, state)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # A spinning worker takes the core that the event loop and the other services need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # The arena keeps the largest batch for ever; it is small since batches are cut by tokens.
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(graph), options, providers=["CPUExecutionProvider"]
            )
        except FAILURES as error:
            raise StartError(
                f"{graph}: ONNX Runtime {onnxruntime.__version__} cannot load the graph: install"
                " a version that pyproject.toml admits, or set embeddings.encoder to torch"
            ) from error
        self.identity = EmbeddingSet(
            model=files.name,
            revision=revision,
            engine="onnx",
            precision="fp32",
            dimension=files.dimension,
            normalized=True,
        )
        self.max_tokens = files.max_tokens

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids of each text, cut at `max_tokens`."""
        return self._tokenizer.tokenize(texts)

    def encode(self, batch: Sequence[Tokens]) -> Vectors:
        """(n, d) float32, unit length. Raises EncoderError."""
        if not batch:
            return np.empty((0, self.identity.dimension), dtype=np.float32)
        ids, mask = pad(batch)
        try:
            outputs = self._session.run(None, {"input_ids": ids, "attention_mask": mask})
        except FAILURES as error:
            raise EncoderError("the onnx engine failed in a forward pass") from error
        vectors: Vectors = outputs[0]
        return vectors
