"""What an embedding engine is, and the tokenizer that all engines share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from aistack.embeddings.cut import Cost
from aistack.models import EmbeddingSet, ModelFiles
from aistack.service.errors import StartError

# The texts of one call are tokenized one after another, by the thread that calls: the library's
# pool of threads would take the lanes' cores, and the event loop would wait until it gets them.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

Vectors = NDArray[np.float32]
Ids = NDArray[np.int32]
EngineName = Literal["onnx", "openvino", "torch"]
Precision = Literal["fp32", "bf16"]


class EncoderError(Exception):
    """A forward pass failed; the cause is chained. The texts of that pass have no vectors."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """One text, ready to be encoded: `ids` (s,) int32 with the special tokens.

    `truncated` tells that the text was longer than the model reads and was cut at its end. `types`
    (s,) int32 are for a pair of texts: which of the two each token is of, 0 or 1.
    """

    ids: Ids
    truncated: bool = False
    types: Ids | None = None

    def __len__(self) -> int:
        return len(self.ids)


class Encoder(Protocol):
    """One engine with one model loaded.

    `tokenize` and `encode` may be called from several threads at once; each engine says how it
    makes that so. A call of `encode` uses `threads` cores. `cost` is what its passes cost beside
    their tokens.
    """

    @property
    def identity(self) -> EmbeddingSet: ...

    @property
    def max_tokens(self) -> int: ...

    @property
    def cost(self) -> Cost: ...

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids of each text, cut at `max_tokens`."""
        ...

    def encode(self, batch: Sequence[Tokens]) -> Vectors:
        """(n, d) float32, unit length, in order. Raises EncoderError."""
        ...


class TextTokenizer:
    """The model's own `tokenizer.json`, cut at the length that the model reads.

    The file's own truncation and padding are switched off: they were left there by whoever saved
    it (128 tokens in the packaged model, which reads 256).
    """

    def __init__(self, path: Path, max_tokens: int) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust side raises nothing narrower
            raise StartError(f"{path}: not a tokenizer ({error}): fetch the model again") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        self.max_tokens = max_tokens

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids of each text. Releases the interpreter's lock while it works."""
        if not texts:
            return []
        return [
            Tokens(
                np.asarray(encoding.ids, dtype=np.int32),
                len(encoding.ids) == self.max_tokens and bool(encoding.overflowing),
            )
            for encoding in self._tokenizer.encode_batch_fast(list(texts))
        ]


class LoadedModel:
    """What every engine has beside its forward pass: the tokenizer, the length, the identity."""

    def __init__(
        self, files: ModelFiles, revision: str, engine: EngineName, precision: Precision
    ) -> None:
        self._tokenizer = TextTokenizer(files.tokenizer, files.max_tokens)
        self.max_tokens = files.max_tokens
        self.identity = EmbeddingSet(
            model=files.name,
            revision=revision,
            engine=engine,
            precision=precision,
            dimension=files.dimension,
            normalized=True,
        )

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids of each text, cut at `max_tokens`."""
        return self._tokenizer.tokenize(texts)

    def _nothing(self) -> Vectors:
        return np.empty((0, self.identity.dimension), dtype=np.float32)


def normalized(rows: NDArray[np.floating[Any]]) -> Vectors:
    """`rows` (n, d) made float32 and of unit length; NaN stays, to be refused by who takes it."""
    vectors = rows.astype(np.float32)
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    vectors /= np.maximum(lengths, 1e-12)[:, None]
    return vectors


def stacked(vectors: Sequence[Vectors]) -> Vectors:
    """Vectors (d,) as rows (n, d); of one, without a copy."""
    return np.stack(vectors) if len(vectors) > 1 else vectors[0][None]


def types_of(tokens: Tokens) -> Ids:
    """Which text of a pair each token is of; 0 for all where it is no pair."""
    return np.zeros_like(tokens.ids) if tokens.types is None else tokens.types


def pad(batch: Sequence[Tokens]) -> tuple[Ids, Ids]:
    """`(input_ids, attention_mask)`, each (n, longest) int32, padded on the right with 0."""
    lengths = np.array([len(tokens) for tokens in batch], dtype=np.int32)
    mask = (np.arange(lengths.max(), dtype=np.int32) < lengths[:, None]).astype(np.int32)
    ids = np.zeros_like(mask)
    ids[mask.astype(bool)] = np.concatenate([tokens.ids for tokens in batch])
    return ids, mask
