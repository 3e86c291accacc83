"""Which engine runs: from the configuration to a loaded, checked encoder."""

from __future__ import annotations

from aistack.config import EmbeddingsConfig
from aistack.embeddings.encoder import Encoder
from aistack.models import ModelFiles, find_model
from aistack.service.errors import StartError


def open_encoder(config: EmbeddingsConfig) -> tuple[ModelFiles, Encoder]:
    """Load the configured model into the configured engine. Blocks; raises StartError, OSError.

    An engine is imported only when it is chosen: neither is needed by the other.
    """
    files = find_model(config.model)
    if files.dimension != config.dimension:
        raise StartError(
            f"embeddings.dimension: the model {files.name} gives {files.dimension} dimensions,"
            f" the configuration says {config.dimension}: set the key to {files.dimension}"
        )
    if config.client_batch > config.queue_texts:
        raise StartError(
            f"embeddings.client_batch: {config.client_batch} texts of one request do not fit into"
            f" embeddings.queue_texts ({config.queue_texts}): lower the one or raise the other"
        )
    if config.encoder == "torch":
        from aistack.embeddings.torch_engine import TorchEncoder

        return files, TorchEncoder(files, threads=config.threads)
    try:
        from aistack.embeddings.onnx_engine import OnnxEncoder
    except ImportError as error:
        raise StartError(
            f"embeddings.encoder: 'onnx' needs the package {error.name}: install the extra with"
            " pip install 'aistack[onnx]', or set the key to torch"
        ) from error
    return files, OnnxEncoder(files, threads=config.threads, state=config.state_dir)
