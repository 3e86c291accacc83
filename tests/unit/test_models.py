"""The model's files: whole ones are read, damaged ones end the start with one line."""

from __future__ import annotations

import dataclasses
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from aistack.models import EmbeddingSet, ModelFiles, find_model
from aistack.service.errors import StartError

SET = EmbeddingSet("m", "ab" * 32, "onnx", "fp32", 384, True)


def test_packaged_model_is_found_with_its_own_settings(model_files: ModelFiles) -> None:
    assert model_files.name == "all-minilm-l6-v2"
    assert model_files.dimension == 384
    assert model_files.pooling == "mean"
    # sentence_bert_config.json says 256; tokenizer.json was saved with 128, config.json has 512.
    assert model_files.max_tokens == 256


def test_revision_is_the_sha256_of_the_weights(model_files: ModelFiles) -> None:
    # The upstream file's published hash.
    upstream = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert model_files.revision() == upstream


def test_id_is_stable_across_versions() -> None:
    # Cached vectors and vector tables are found by it: it must never change for the same set.
    assert SET.id == "f77a498f04089236"


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n"},
        {"revision": "cd" * 32},
        {"engine": "torch"},
        {"precision": "int8"},
        {"dimension": 385},
        {"normalized": False},
    ],
)
def test_every_field_changes_the_id(change: dict[str, object]) -> None:
    assert dataclasses.replace(SET, **change).id != SET.id  # type: ignore[arg-type]


@pytest.fixture
def small_model(tmp_path: Path) -> Path:
    """A model directory with two tensors, enough to be read."""
    directory = tmp_path / "Small Model"
    (directory / "1_Pooling").mkdir(parents=True)
    written = {
        "config.json": {
            "model_type": "bert",
            "hidden_size": 4,
            "vocab_size": 7,
            "max_position_embeddings": 16,
        },
        "tokenizer.json": {"model": {"type": "WordPiece"}},
        "modules.json": [
            {"type": "sentence_transformers.models.Transformer", "path": ""},
            {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
        ],
        "1_Pooling/config.json": {"pooling_mode_cls_token": True},
        "sentence_bert_config.json": {"max_seq_length": 8},
    }
    for name, value in written.items():
        (directory / name).write_text(json.dumps(value), encoding="utf-8")
    tensors = {"embeddings.word_embeddings.weight": np.zeros((7, 4), dtype=np.float32)}
    save_file(tensors, directory / "model.safetensors")
    return directory


def test_any_directory_in_the_layout_is_read(small_model: Path) -> None:
    files = find_model(small_model)
    assert (files.name, files.dimension, files.pooling) == ("small-model", 4, "cls")
    assert files.max_tokens == 8


def test_settings_follow_the_tokenizer(small_model: Path) -> None:
    before = find_model(small_model).settings
    (small_model / "tokenizer.json").write_text('{"model": {"type": "BPE"}}', encoding="utf-8")
    assert find_model(small_model).settings != before


def _cut_weights(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def _bad_header(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 40) + path.read_bytes()[8:])


def _other_shape(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    (directory / "config.json").write_text(json.dumps({**config, "vocab_size": 9}))


def _no_dimension(directory: Path) -> None:
    (directory / "config.json").write_text('{"hidden_size": "many"}', encoding="utf-8")


def _max_pooling(directory: Path) -> None:
    path = directory / "1_Pooling" / "config.json"
    path.write_text('{"pooling_mode_max_tokens": true}', encoding="utf-8")


def _dense_module(directory: Path) -> None:
    path = directory / "modules.json"
    modules = json.loads(path.read_text(encoding="utf-8"))
    modules.append({"type": "sentence_transformers.models.Dense", "path": "2_Dense"})
    path.write_text(json.dumps(modules), encoding="utf-8")


def _without(name: str) -> Callable[[Path], None]:
    def remove(directory: Path) -> None:
        (directory / name).unlink()

    remove.__name__ = f"without_{name}"
    return remove


def _garbled(name: str) -> Callable[[Path], None]:
    def garble(directory: Path) -> None:
        (directory / name).write_bytes(b'{"half')

    garble.__name__ = f"garbled_{name}"
    return garble


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_cut_weights, "model.safetensors"),
        (_bad_header, "model.safetensors"),
        (_other_shape, "model.safetensors"),
        (_no_dimension, "hidden_size"),
        (_max_pooling, "1_Pooling"),
        (_dense_module, "Dense"),
        (_without("model.safetensors"), "model.safetensors"),
        (_without("tokenizer.json"), "tokenizer.json"),
        (_without("config.json"), "config.json"),
        (_garbled("tokenizer.json"), "tokenizer.json"),
        (_garbled("modules.json"), "modules.json"),
    ],
)
def test_damage_is_one_line_that_names_the_file(
    small_model: Path, damage: Callable[[Path], None], named: str
) -> None:
    damage(small_model)
    with pytest.raises(StartError) as raised:
        find_model(small_model)
    line = str(raised.value)
    assert named in line
    assert "\n" not in line


def test_missing_directory_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"embeddings\.model: .* is not a directory"):
        find_model(tmp_path / "nowhere")


def test_weights_that_vanish_are_a_start_error(small_model: Path) -> None:
    files = find_model(small_model)
    shutil.rmtree(small_model)
    with pytest.raises(StartError, match="cannot be read"):
        files.revision()
