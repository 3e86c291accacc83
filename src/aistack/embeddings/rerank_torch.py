"""Cross-encoders in transformers, for GPUs and other models than BERT. An extra."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging as transformers_logging

from aistack.embeddings.encoder import EncoderError, Ids, Tokens, Vectors, pad, types_of
from aistack.embeddings.rerank_engines import RerankEngine
from aistack.embeddings.rerank_model import OPTION, RerankFiles
from aistack.embeddings.torch_engine import COSTS
from aistack.models import mend
from aistack.service.errors import StartError

# Bars are for a terminal, not for a service's journal.
transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


class TorchScorer:
    """A model for sequence classification in float32, on the first GPU or else on the processor.

    Safe for several threads: a forward pass changes nothing in the model.
    """

    engine: RerankEngine = "torch"

    def __init__(self, files: RerankFiles, *, threads: int) -> None:
        """Raises StartError."""
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self.cost = COSTS[self._device]
        torch.set_num_threads(threads)
        try:
            # local_files_only: a start never goes to the network.
            model: Any = AutoModelForSequenceClassification.from_pretrained(
                str(files.directory), local_files_only=True, dtype=torch.float32
            )
            self._model: Any = model.to(self._device).eval()
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise StartError(
                f"{files.directory}: transformers cannot load the model ({reason}): {mend(OPTION)}"
            ) from error
        self._with_types = "token_type_ids" in inspect.signature(self._model.forward).parameters

    def score(self, batch: Sequence[Tokens]) -> Vectors:
        """(n, 1) float32. Raises EncoderError."""
        ids, mask = pad(batch)
        given = {"input_ids": ids, "attention_mask": mask}
        if self._with_types:
            given["token_type_ids"] = pad_types(batch, mask)
        try:
            with torch.inference_mode():
                tensors = {
                    name: torch.from_numpy(values.astype(np.int64)).to(self._device)
                    for name, values in given.items()
                }
                logits: Vectors = self._model(**tensors).logits.float().cpu().numpy()
        except (RuntimeError, ValueError, IndexError, MemoryError) as error:
            raise EncoderError("the torch engine failed in a forward pass") from error
        return logits


def pad_types(batch: Sequence[Tokens], mask: Ids) -> Ids:
    """The types of each pair (n, longest) int32, padded as `mask` (see `pad`) with 0."""
    types = np.zeros_like(mask)
    types[mask.astype(bool)] = np.concatenate([types_of(pair) for pair in batch])
    return types
