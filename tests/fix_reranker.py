"""A cross-encoder: tiny, random, written by transformers with a fixed seed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from aistack.models import ModelFiles
from fix_tiny_model import write_tiny_model

#: What the tiny one reads of a query and a document, special tokens included.
POSITIONS = 128


def write_reranker(directory: Path, like: ModelFiles, **changes: Any) -> Path:
    """`directory`, with a BertForSequenceClassification whose tokenizer is that of `like`.

    `changes` are to its configuration.
    """
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    transformers = pytest.importorskip("transformers", reason="the torch extra is not installed")
    settings = {
        "vocab_size": int(like.architecture["vocab_size"]),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": POSITIONS,
        "num_labels": 1,
        # Large, so that scores differ by more than the engines do.
        "initializer_range": 0.4,
        **changes,
    }
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = transformers.BertForSequenceClassification(transformers.BertConfig(**settings))
    model.save_pretrained(directory)
    shutil.copy(like.tokenizer, directory)
    shutil.copy(like.directory / "tokenizer_config.json", directory)
    return directory


def write_plain_reranker(directory: Path, like: ModelFiles) -> Path:
    """As `write_reranker`, without transformers: the tiny encoder with a head."""
    write_tiny_model(directory, like)
    weights, config = directory / "model.safetensors", directory / "config.json"
    tensors = {f"bert.{name}": tensor for name, tensor in load_file(weights).items()}
    architecture = json.loads(config.read_text(encoding="utf-8"))
    wide = int(architecture["hidden_size"])
    generator = np.random.default_rng(5)
    for name, rows in (("bert.pooler.dense", wide), ("classifier", 1)):
        values = 0.3 * generator.standard_normal((rows, wide + 1)).astype(np.float32)
        tensors[f"{name}.weight"] = np.ascontiguousarray(values[:, :wide])
        tensors[f"{name}.bias"] = np.ascontiguousarray(values[:, wide])
    save_file(tensors, weights, metadata={"format": "pt"})
    head = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    config.write_text(json.dumps({**architecture, **head}), encoding="utf-8")
    return directory


@pytest.fixture(scope="session")
def tiny_reranker(model_files: ModelFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of 32 dimensions, the same each time."""
    return write_reranker(tmp_path_factory.mktemp("models") / "tiny-reranker", model_files)
