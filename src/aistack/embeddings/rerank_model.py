"""A cross-encoder's own files: where they lie, what they say, and that they are whole.

The layout is that of `transformers` and of sentence-transformers' CrossEncoder: `config.json`,
`model.safetensors`, `tokenizer.json`, and `tokenizer_config.json` with the length that it reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aistack.config import EmbeddingsConfig
from aistack.models import mend, positive, read_core, read_json, slug, weights_digest
from aistack.service.errors import StartError

OPTION = "embeddings.rerank_model"
#: The family that counts its positions from behind the padding token's id.
SHIFTED = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert")
#: Fewer tokens than this leave no room for a query, a document and what stands between them.
LEAST_TOKENS = 16


@dataclass(frozen=True, slots=True)
class RerankFiles:
    """A cross-encoder's directory that was read and found whole.

    `max_tokens` are those of a query and a document together with the special tokens; `settings`
    is a digest of everything beside the weights that changes a score.
    """

    name: str
    directory: Path
    weights: Path
    tokenizer: Path
    architecture: Mapping[str, Any]
    max_tokens: int
    settings: str

    @property
    def is_bert(self) -> bool:
        """Whether the graph builder knows it."""
        return bool(self.architecture.get("model_type", "bert") == "bert")


def open_files(config: EmbeddingsConfig, directory: Path) -> tuple[RerankFiles, str]:
    """The configured cross-encoder's files and their revision, checked. Raises StartError."""
    if config.rerank_documents > config.queue_texts:
        raise StartError(
            f"embeddings.rerank_documents: {config.rerank_documents} documents of one request do"
            f" not fit into embeddings.queue_texts ({config.queue_texts}): lower the one or raise"
            " the other"
        )
    files = read_reranker(directory)
    revision = weights_digest(files.weights, option=OPTION)
    if config.rerank_revision not in (None, revision):
        raise StartError(
            f"embeddings.rerank_revision: the SHA-256 of {files.weights} is {revision}, the"
            f" configuration says {config.rerank_revision}: fetch the model again, or set the key"
            " to the first"
        )
    return files, revision


def read_reranker(directory: Path) -> RerankFiles:
    """Read and check a cross-encoder's directory. Raises StartError with one line."""
    if not directory.is_dir():
        raise StartError(
            f"{OPTION}: {directory} is not a directory: name the directory that holds the model's"
            " config.json, or leave the key out to go without reranking"
        )
    core = read_core(directory, option=OPTION)
    _check_head(core.architecture, core.config)
    max_tokens = _max_tokens(directory, core.architecture, core.config)
    return RerankFiles(
        name=slug(directory.resolve().name),
        directory=directory,
        weights=core.weights,
        tokenizer=core.tokenizer,
        architecture=core.architecture,
        max_tokens=max_tokens,
        settings=core.settings(max_tokens),
    )


def _check_head(architecture: Mapping[str, Any], path: Path) -> None:
    kinds = architecture.get("architectures") or []
    if not any(str(kind).endswith("ForSequenceClassification") for kind in kinds):
        raise StartError(
            f"{path}: {', '.join(map(str, kinds)) or 'a model of no architecture'} is no"
            " cross-encoder: name a model for sequence classification with one label"
        )
    # transformers writes num_labels only as the length of id2label, and takes 2 where that is gone.
    labels = architecture.get("id2label")
    count = len(labels) if isinstance(labels, dict) else architecture.get("num_labels", 2)
    if count != 1:
        raise StartError(
            f"{path}: the model has {count} labels; a cross-encoder that scores a document has one"
        )


def _max_tokens(directory: Path, architecture: Mapping[str, Any], path: Path) -> int:
    positions = positive(architecture, "max_position_embeddings", path, option=OPTION)
    if architecture.get("model_type") in SHIFTED:
        positions -= int(architecture.get("pad_token_id") or 0) + 1
    more = directory / "tokenizer_config.json"
    said = read_json(more, option=OPTION).get("model_max_length") if more.exists() else None
    # Where nothing was known, transformers wrote 10**30 there.
    length = min(positions, int(said)) if isinstance(said, int | float) and said > 0 else positions
    if length < LEAST_TOKENS:
        raise StartError(f"{path}: the model reads {length} tokens only: {mend(OPTION)}")
    return length
