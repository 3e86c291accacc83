"""Which engine runs: from the configuration to a loaded, checked encoder."""

from __future__ import annotations

import importlib
from typing import Any

from aistack.config import EmbeddingsConfig
from aistack.embeddings.encoder import Encoder, EngineName, Precision
from aistack.embeddings.lanes import lane_count
from aistack.models import ModelFiles, find_model
from aistack.service.errors import StartError

#: Module and class of each engine; the extra that brings it has its name. The order is that in
#: which they are preferred where they are equally fast.
ENGINES: dict[EngineName, tuple[str, str]] = {
    "onnx": ("onnx_engine", "OnnxEncoder"),
    "openvino": ("openvino_engine", "OpenvinoEncoder"),
    "torch": ("torch_engine", "TorchEncoder"),
}


class MissingEngineError(StartError):
    """The packages of an engine are not installed."""


def open_encoder(config: EmbeddingsConfig) -> tuple[ModelFiles, Encoder]:
    """Load the configured model into the configured engine. Blocks; raises StartError, OSError.

    An engine is imported only when it is asked for or is to be measured: none is needed by another.
    """
    from aistack.embeddings.choice import choose, remember
    from aistack.embeddings.choice_file import Candidate, ChoiceFile

    files, revision = open_model(config)
    if config.encoder == "auto" or (precision := only_precision(config)) is None:
        return files, choose(files, revision, config)
    encoder = load(files, revision, config.encoder, precision, config)
    one = Candidate(config.encoder, precision)
    remember(one, encoder, ChoiceFile(config.state_dir, files, revision))
    return files, encoder


def open_model(config: EmbeddingsConfig) -> tuple[ModelFiles, str]:
    """The configured model's files and its revision, checked. Raises StartError."""
    files = find_model(config.model)
    if files.dimension != config.dimension:
        raise StartError(
            f"embeddings.dimension: the model {files.name} gives {files.dimension} dimensions,"
            f" the configuration says {config.dimension}: set the key to {files.dimension}"
        )
    if wrong := [one for one in config.dimensions if not 0 < one < files.dimension]:
        raise StartError(
            f"embeddings.dimensions: {wrong[0]} is not below the {files.dimension} dimensions of"
            f" the model {files.name}: take it out"
        )
    if config.client_batch > config.queue_texts:
        raise StartError(
            f"embeddings.client_batch: {config.client_batch} texts of one request do not fit into"
            f" embeddings.queue_texts ({config.queue_texts}): lower the one or raise the other"
        )
    weights = files.weights_digest()
    if config.revision not in (None, weights):
        raise StartError(
            f"embeddings.revision: the SHA-256 of {files.weights} is {weights}, the configuration"
            f" says {config.revision}: fetch the model again, or set the key to the first"
        )
    return files, files.revision_of(weights)


def only_precision(config: EmbeddingsConfig) -> Precision | None:
    """The one precision that the configuration admits, or None where there are several."""
    if config.precision != "auto":
        return config.precision
    return None if config.encoder in ("auto", "openvino") else "fp32"


def load(
    files: ModelFiles,
    revision: str,
    engine: EngineName,
    precision: Precision,
    config: EmbeddingsConfig,
) -> Encoder:
    """One engine with the model in it. Raises StartError, MissingEngineError, OSError."""
    module, name = ENGINES[engine]
    try:
        made: Any = getattr(importlib.import_module(f"aistack.embeddings.{module}"), name)
        encoder: Encoder = made(
            files,
            revision,
            precision=precision,
            threads=config.threads,
            lanes=lane_count(config),
            state=config.state_dir,
        )
    except ImportError as error:
        raise MissingEngineError(
            f"embeddings.encoder: {engine!r} needs the package {error.name}: install the extra"
            f" with pip install 'aistack[{engine}]', or set the key to another engine"
        ) from error
    return encoder
