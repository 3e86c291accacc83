"""Cross-encoders behind one interface: pairs of texts to logits."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from tokenizers import Tokenizer

from aistack.config import EmbeddingsConfig
from aistack.embeddings.cut import Cost
from aistack.embeddings.encoder import EncoderError, Tokens, Vectors
from aistack.embeddings.engines import MissingEngineError
from aistack.embeddings.host import has_gpu
from aistack.embeddings.packing import ONNX_RUNTIME, pack
from aistack.embeddings.rerank_model import OPTION, RerankFiles
from aistack.models import mend
from aistack.service.errors import StartError

RerankEngine = Literal["onnx", "torch"]

#: Where the kept graphs lie below `embeddings.state_dir`: those of embedding models, of which old
#: ones are removed, are not among them.
STATE = "rerank"


class Scorer(Protocol):
    """One engine with one cross-encoder loaded. `score` may be called from several threads.

    `cost` is what its passes cost beside their tokens.
    """

    @property
    def engine(self) -> RerankEngine: ...

    @property
    def cost(self) -> Cost: ...

    def score(self, batch: Sequence[Tokens]) -> Vectors:
        """(n, 1) float32: the logit of each pair, in order. Raises EncoderError."""
        ...


class PairTokenizer:
    """The model's own `tokenizer.json`, on a query and a document at a time.

    Only the document is cut, at its end; a query must leave the document at least half of what the
    model reads.
    """

    def __init__(self, path: Path, max_tokens: int) -> None:
        try:
            self._pairs = Tokenizer.from_file(str(path))
            self._alone = Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust side raises nothing narrower
            raise StartError(f"{path}: not a tokenizer ({error}): {mend(OPTION)}") from error
        for one in (self._pairs, self._alone):
            one.no_padding()
            one.no_truncation()
        self._pairs.enable_truncation(max_tokens, strategy="only_second")
        self.max_tokens = max_tokens
        self.query_tokens = max_tokens // 2

    def count(self, query: str) -> int:
        """Tokens of `query` alone, without special ones."""
        return len(self._alone.encode(query, add_special_tokens=False).ids)

    def tokenize(self, query: str, documents: Sequence[str]) -> list[Tokens]:
        """Ids and types of each pair. Releases the interpreter's lock while it works.

        `query` has at most `query_tokens`.
        """
        pairs = [(query, document) for document in documents]
        return [
            Tokens(
                np.asarray(encoding.ids, dtype=np.int32),
                bool(encoding.overflowing),
                np.asarray(encoding.type_ids, dtype=np.int32),
            )
            for encoding in self._pairs.encode_batch_fast(pairs)
        ]


class OnnxScorer:
    """BERT cross-encoder in float32, on the processor. Safe for several threads."""

    engine: RerankEngine = "onnx"
    #: That of the embedding models' graph, whose layers are the same.
    cost = ONNX_RUNTIME

    def __init__(self, files: RerankFiles, revision: str, *, threads: int, state: Path) -> None:
        """Raises StartError, ImportError."""
        from aistack.embeddings.onnx_engine import FAILURES, open_session
        from aistack.embeddings.rerank_graph import kept_classifier

        graph = kept_classifier(files, revision, state / STATE)
        self._failures = FAILURES
        self._session = open_session(graph, threads, option="embeddings.rerank_encoder")

    def score(self, batch: Sequence[Tokens]) -> Vectors:
        """(n, 1) float32. Raises EncoderError."""
        try:
            outputs = self._session.run(None, pack(batch, types=True))
        except self._failures as error:
            raise EncoderError("the onnx engine failed in a forward pass") from error
        logits: Vectors = outputs[0]
        return logits


def open_scorer(files: RerankFiles, revision: str, config: EmbeddingsConfig) -> Scorer:
    """The configured engine with the cross-encoder in it. Blocks; raises StartError, OSError."""
    engine = chosen(files, config)
    try:
        if engine == "onnx":
            return OnnxScorer(files, revision, threads=config.threads, state=config.state_dir)
        from aistack.embeddings.rerank_torch import TorchScorer

        return TorchScorer(files, threads=config.threads)
    except ImportError as error:
        raise MissingEngineError(
            f"embeddings.rerank_encoder: {engine!r} needs the package {error.name}: install the"
            f" extra with pip install 'aistack[{engine}]', or set the key to another engine"
        ) from error


def chosen(files: RerankFiles, config: EmbeddingsConfig) -> RerankEngine:
    """The engine that the configuration names, or for `auto` the one that fits model and host."""
    if config.rerank_encoder != "auto":
        return config.rerank_encoder
    with_gpu = has_gpu() and importlib.util.find_spec("torch") is not None
    return "onnx" if files.is_bert and not with_gpu else "torch"
