"""A cross-encoder in this process, where $AISTACK_RERANK_MODEL names the directory of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aistack.config import EmbeddingsConfig
from aistack.embeddings.cut import cut
from aistack.embeddings.rerank import sigmoid
from aistack.embeddings.rerank_engines import PairTokenizer, Scorer, open_scorer
from aistack.embeddings.rerank_model import open_files

VARIABLE = "AISTACK_RERANK_MODEL"


class LocalJudge:
    """As the client of the reranker, in passes as the service would make them."""

    def __init__(self, directory: Path, config: EmbeddingsConfig) -> None:
        """Raises StartError."""
        files, revision = open_files(config, directory)
        self.name = files.name
        self._budget = config.batch_tokens
        self._tokenizer = PairTokenizer(files.tokenizer, files.max_tokens)
        self._scorer: Scorer = open_scorer(files, revision, config)

    async def scores(
        self, query: str, documents: Sequence[str], *, seconds: float | None = None
    ) -> list[float]:
        """A score in 0..1 of each document; `seconds` bounds nothing here."""
        pairs = self._tokenizer.tokenize(query, documents)
        order = sorted(range(len(pairs)), key=lambda place: len(pairs[place]))
        logits = np.empty(len(pairs), np.float32)
        while order:
            lengths = [len(pairs[place]) for place in order]
            _, high = cut(lengths, 0, self._budget, self._scorer.cost)
            logits[order[:high]] = self._scorer.score([pairs[one] for one in order[:high]])[:, 0]
            del order[:high]
        return sigmoid(logits)


def named() -> LocalJudge | None:
    """The one that the environment names. Raises StartError for a directory that is none."""
    directory = os.environ.get(VARIABLE)
    if not directory:
        return None
    state = Path(tempfile.mkdtemp(prefix="aistack-graph-"))
    return LocalJudge(Path(directory), EmbeddingsConfig(state_dir=state))
