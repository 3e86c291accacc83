"""The `torch` engine: sentence-transformers, for GPUs and other models than BERT. An extra."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from transformers.utils import logging as transformers_logging

from aistack.embeddings.cut import Cost
from aistack.embeddings.encoder import (
    EncoderError,
    LoadedModel,
    Precision,
    Tokens,
    Vectors,
    pad,
)
from aistack.embeddings.host import cpu_flags
from aistack.models import ModelFiles
from aistack.service.errors import StartError

# Bars are for a terminal, not for a service's journal.
transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]

#: What a pass costs by device. CPU: (12.3 - 4.8) ms at .43 ms a token, rounded. On a GPU a pass
#: over few texts costs about the same as one over thousands of tokens.
COSTS = {"cpu": Cost(18), "cuda": Cost(4096)}


class TorchEncoder(LoadedModel):
    """A sentence-transformers model on the first GPU or else on the processor.

    Safe for several threads: a forward pass changes nothing in the model. `threads` holds for the
    whole process, each caller's pass uses as many.
    """

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
        """`lanes`, how many threads encode at once, changes nothing here, and nothing is kept in
        `state`. Raises StartError."""
        super().__init__(files, revision, "torch", precision)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self.cost = COSTS[self._device]
        if precision == "bf16" and not _has_bf16(self._device):
            raise StartError(
                "embeddings.precision: bf16 needs a GPU or a processor that computes in it, and"
                f" {self._device} here does not: set the key to fp32"
            )
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
        if precision == "bf16":
            self._model = self._model.to(torch.bfloat16)

    def encode(self, batch: Sequence[Tokens]) -> Vectors:
        """(n, d) float32, unit length. Raises EncoderError."""
        if not batch:
            return self._nothing()
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


def _has_bf16(device: str) -> bool:
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool({"avx512_bf16", "amx_bf16"} & set(cpu_flags()))
