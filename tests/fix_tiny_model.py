"""A second embedding model: tiny, random, made here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from aistack.models import ModelFiles


@pytest.fixture(scope="session")
def tiny_model(model_files: ModelFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers and 32 dimensions with random weights, the same each time: everything
    an engine does, in milliseconds. First-token pooling; the packaged model has the mean."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny", model_files)


def write_tiny_model(directory: Path, like: ModelFiles) -> Path:
    """`directory`, with such a model whose tokenizer is that of `like`."""
    wide, layers, positions = 32, 2, 128
    words = int(like.architecture["vocab_size"])
    architecture = {
        **dict(like.architecture),
        "hidden_size": wide,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 2 * wide,
        "max_position_embeddings": positions,
        "vocab_size": words,
    }
    generator = np.random.default_rng(4)
    tensors: dict[str, NDArray[np.float32]] = {}

    def add(name: str, *shape: int) -> None:
        tensors[name] = (0.3 * generator.standard_normal(shape)).astype(np.float32)

    def norm(name: str) -> None:
        add(f"{name}.bias", wide)
        tensors[f"{name}.weight"] = np.ones(wide, dtype=np.float32)

    for name, rows in (("word", words), ("position", positions), ("token_type", 2)):
        add(f"embeddings.{name}_embeddings.weight", rows, wide)
    norm("embeddings.LayerNorm")
    for layer in (f"encoder.layer.{index}" for index in range(layers)):
        for part in ("query", "key", "value"):
            add(f"{layer}.attention.self.{part}.weight", wide, wide)
            add(f"{layer}.attention.self.{part}.bias", wide)
        for part, outputs, inputs in (
            ("attention.output", wide, wide),
            ("intermediate", 2 * wide, wide),
            ("output", wide, 2 * wide),
        ):
            add(f"{layer}.{part}.dense.weight", outputs, inputs)
            add(f"{layer}.{part}.dense.bias", outputs)
        norm(f"{layer}.attention.output.LayerNorm")
        norm(f"{layer}.output.LayerNorm")
    (directory / "1_Pooling").mkdir(parents=True)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(like.tokenizer, directory)
    shutil.copy(like.directory / "tokenizer_config.json", directory)
    kinds = {"Transformer": "", "Pooling": "1_Pooling"}
    written = {
        "config.json": architecture,
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (kind, path) in enumerate(kinds.items())
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": wide,
            "pooling_mode_cls_token": True,
            "pooling_mode_mean_tokens": False,
        },
    }
    for name, value in written.items():
        (directory / name).write_text(json.dumps(value), encoding="utf-8")
    return directory
