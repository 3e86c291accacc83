"""The `torch` engine: sentence-transformers, for GPUs and other models than BERT. An extra."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from aistack.embeddings.encoder import EncoderError, TextTokenizer, Tokens, Vectors, pad
from aistack.models import EmbeddingSet, ModelFiles
from aistack.service.errors import StartError

#: Fixed cost of a pass in tokens. CPU: (12.3 - 4.8) ms at .43 ms a token, rounded. On a GPU a pass
#: over few texts costs about the same as one over thousands of tokens.
PASS_TOKENS = {"cpu": 18, "cuda": 4096}


class TorchEncoder:
    """A sentence-transformers model in float32, on the first GPU or else on `threads` cores."""

    def __init__(self, files: ModelFiles, *, threads: int) -> None:
        try:
            import torch
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise StartError(
                f"embeddings.encoder: 'torch' needs the package {error.name}: install the extra"
                " with pip install 'aistack[torch]', or set the key to onnx"
            ) from error
        self._torch = torch
        revision = files.revision()
        self._tokenizer = TextTokenizer(files.tokenizer, files.max_tokens)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self.pass_tokens = PASS_TOKENS[self._device]
        torch.set_num_threads(threads)
        try:
            # local_files_only: a start never goes to the network.
            self._model: Any = SentenceTransformer(
                str(files.directory), device=self._device, local_files_only=True
            ).eval()
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise StartError(
                f"{files.directory}: sentence-transformers cannot load the model ({error}): fetch"
                " the model again"
            ) from error
        self.identity = EmbeddingSet(
            model=files.name,
            revision=revision,
            engine="torch",
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
        torch = self._torch
        ids, mask = pad(batch)
        try:
            with torch.inference_mode():
                features = {
                    "input_ids": torch.from_numpy(ids.astype(np.int64)).to(self._device),
                    "attention_mask": torch.from_numpy(mask.astype(np.int64)).to(self._device),
                }
                embedding = self._model(features)["sentence_embedding"].float()
                unit = torch.nn.functional.normalize(embedding, dim=-1)
                vectors: Vectors = unit.cpu().numpy()
        except (RuntimeError, ValueError, IndexError, MemoryError) as error:
            raise EncoderError("the torch engine failed in a forward pass") from error
        return vectors
