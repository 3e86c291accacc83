"""A cross-encoder's directory: what is missing, damaged or of another kind is one line."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aistack.config import EmbeddingsConfig
from aistack.embeddings.rerank_engines import PairTokenizer, chosen, open_scorer
from aistack.embeddings.rerank_graph import build_classifier, kept_classifier
from aistack.embeddings.rerank_model import open_files, read_reranker
from aistack.models import ModelFiles
from aistack.service.errors import StartError
from fix_reranker import POSITIONS, write_plain_reranker, write_reranker


def test_reads_what_the_files_say(tiny_reranker: Path) -> None:
    files = read_reranker(tiny_reranker)
    assert (files.name, files.max_tokens, files.is_bert) == ("tiny-reranker", POSITIONS, True)
    # The tokenizer's own length counts where it is the shorter one.
    assert json.loads((tiny_reranker / "tokenizer_config.json").read_text())["model_max_length"] > (
        POSITIONS
    )


@pytest.fixture
def copy(tiny_reranker: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_reranker, tmp_path / "copy"))


def configured(directory: Path, **changes: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def cut_short(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "model.safetensors: cannot be"),
    "cut weights": (cut_short, "model.safetensors: damaged"),
    "no tokenizer": (lambda d: (d / "tokenizer.json").unlink(), "tokenizer.json: cannot be"),
    "no json": (lambda d: (d / "config.json").write_text("{"), "config.json: damaged"),
    "an encoder": (lambda d: configured(d, architectures=["BertModel"]), "BertModel is no cross"),
    "two labels": (lambda d: configured(d, id2label={"0": "a", "1": "b"}), "has 2 labels"),
    "other words": (lambda d: configured(d, vocab_size=7), "word embeddings are"),
    "no length": (lambda d: configured(d, max_position_embeddings=0), "max_position_embeddings"),
    "no room": (lambda d: configured(d, max_position_embeddings=8), "reads 8 tokens only"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_damage_is_one_line_that_names_the_file_or_the_option(copy: Path, case: str) -> None:
    damage, words = BROKEN[case]
    damage(copy)
    with pytest.raises(StartError) as raised:
        read_reranker(copy)
    line = str(raised.value)
    assert "\n" not in line
    assert words in line
    assert "embeddings.model" not in line


def test_a_missing_directory_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"^embeddings\.rerank_model: .* is not a directory"):
        read_reranker(tmp_path / "nowhere")


def test_the_revision_must_be_the_configured_one(tiny_reranker: Path) -> None:
    digest = hashlib.sha256((tiny_reranker / "model.safetensors").read_bytes()).hexdigest()
    _, revision = open_files(EmbeddingsConfig(rerank_revision=digest), tiny_reranker)
    assert revision == digest
    with pytest.raises(StartError, match=r"^embeddings\.rerank_revision: .*" + digest):
        open_files(EmbeddingsConfig(rerank_revision="0" * 64), tiny_reranker)


def test_documents_of_one_request_must_fit_into_the_queue(tiny_reranker: Path) -> None:
    with pytest.raises(StartError, match=r"^embeddings\.rerank_documents: 65 documents"):
        open_files(EmbeddingsConfig(rerank_documents=65, queue_texts=64), tiny_reranker)


def test_positions_of_roberta_begin_behind_the_padding(copy: Path) -> None:
    configured(copy, model_type="roberta", pad_token_id=1)
    assert read_reranker(copy).max_tokens == POSITIONS - 2


def test_auto_takes_the_engine_that_fits_the_model(
    tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = read_reranker(tiny_reranker)
    other = dataclasses.replace(files, architecture={"model_type": "xlm-roberta"})
    monkeypatch.setattr("aistack.embeddings.rerank_engines.has_gpu", lambda: False)
    assert chosen(files, EmbeddingsConfig()) == "onnx"
    assert chosen(other, EmbeddingsConfig()) == "torch"
    assert chosen(files, EmbeddingsConfig(rerank_encoder="torch")) == "torch"
    monkeypatch.setattr("aistack.embeddings.rerank_engines.has_gpu", lambda: True)
    assert chosen(files, EmbeddingsConfig()) == "torch"


def test_the_tests_own_reranker_is_one(model_files: ModelFiles, tmp_path: Path) -> None:
    files = read_reranker(write_plain_reranker(tmp_path / "plain", model_files))
    pairs = PairTokenizer(files.tokenizer, files.max_tokens).tokenize("a", ["b", "a long tarn"])
    logits = [
        open_scorer(
            files,
            "1" * 64,
            EmbeddingsConfig(rerank_encoder=engine, state_dir=tmp_path),
        ).score(pairs)
        for engine in ("onnx", "torch")
    ]
    np.testing.assert_allclose(logits[0], logits[1], atol=2e-5)


def test_onnx_says_which_models_it_knows(copy: Path, tmp_path: Path) -> None:
    configured(copy, model_type="xlm-roberta")
    files = read_reranker(copy)
    config = EmbeddingsConfig(rerank_encoder="onnx", state_dir=tmp_path / "state")
    with pytest.raises(StartError, match=r"'xlm-roberta'.*set embeddings\.rerank_encoder to torch"):
        open_scorer(files, "0" * 64, config)


def test_weights_without_a_classifier_end_the_build(copy: Path) -> None:
    from safetensors.numpy import load_file, save_file

    path = copy / "model.safetensors"
    tensors = load_file(path)
    del tensors["classifier.weight"]
    save_file(tensors, path)
    with pytest.raises(StartError, match=r"classifier\.weight"):
        build_classifier(read_reranker(copy))


def test_the_graph_is_made_once_and_made_anew_when_damaged(
    tiny_reranker: Path, tmp_path: Path
) -> None:
    files = read_reranker(tiny_reranker)
    path = kept_classifier(files, "1" * 64, tmp_path)
    good = path.read_bytes()
    assert good == build_classifier(files)
    path.write_bytes(b"\xff" * len(good))
    assert kept_classifier(files, "1" * 64, tmp_path) == path
    assert path.read_bytes() == good


def test_torch_cannot_load_what_is_not_there(model_files: ModelFiles, tmp_path: Path) -> None:
    directory = write_reranker(tmp_path / "odd", model_files)
    configured(directory, model_type="nonesuch")
    config = EmbeddingsConfig(rerank_encoder="torch")
    with pytest.raises(StartError, match="transformers cannot load the model") as raised:
        open_scorer(read_reranker(directory), "0" * 64, config)
    assert "\n" not in str(raised.value)
