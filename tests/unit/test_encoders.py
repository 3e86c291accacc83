"""The contract of an encoder, over every engine that is installed here."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aistack.config import EmbeddingsConfig
from aistack.embeddings.encoder import Encoder, EncoderError, TextTokenizer, Tokens, pad
from aistack.embeddings.engines import open_encoder
from aistack.models import ModelFiles
from aistack.service.errors import StartError
from fix_embeddings import Golden

NEEDS = {"onnx": ("onnxruntime", "onnx"), "torch": ("torch", "sentence_transformers")}


@pytest.fixture(scope="module", params=sorted(NEEDS))
def encoder(request: pytest.FixtureRequest, graph_state: Path, model_files: ModelFiles) -> Encoder:
    """Each engine with the packaged model."""
    for name in NEEDS[request.param]:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"the {request.param} extra is not installed")
    config = EmbeddingsConfig(encoder=request.param, state_dir=graph_state)
    return open_encoder(config)[1]


def encode(encoder: Encoder, *texts: str) -> np.ndarray:
    return encoder.encode(encoder.tokenize(texts))


def test_agrees_with_the_golden_vectors(encoder: Encoder, golden: Golden) -> None:
    assert encoder.identity.revision == golden.revision
    for text, wanted in zip(golden.texts, golden.vectors, strict=True):
        (vector,) = encode(encoder, text)
        assert float(vector @ wanted) >= 1 - 1e-5, text


def test_agrees_in_one_padded_batch(encoder: Encoder, golden: Golden) -> None:
    vectors = encode(encoder, *golden.texts)
    cosines = np.einsum("nd,nd->n", vectors, golden.vectors)
    assert cosines.min() >= 1 - 1e-5


def test_counts_the_tokens_that_the_model_reads(encoder: Encoder, golden: Golden) -> None:
    assert [len(tokens) for tokens in encoder.tokenize(golden.texts)] == golden.tokens


def test_gives_unit_float32_rows(encoder: Encoder, golden: Golden) -> None:
    vectors = encode(encoder, *golden.texts)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(golden.texts), encoder.identity.dimension)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


def test_is_deterministic(encoder: Encoder, golden: Golden) -> None:
    first, second = (encode(encoder, *golden.texts) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_vector_does_not_depend_on_its_neighbours(encoder: Encoder) -> None:
    short, long = "eating food", "a much longer neighbour that forces padding " * 12
    (alone,) = encode(encoder, short)
    padded, _ = encode(encoder, short, long)
    assert float(alone @ padded) >= 1 - 1e-6
    assert np.abs(alone - padded).max() < 1e-5


def test_tells_truncation(encoder: Encoder) -> None:
    words = encoder.max_tokens - 2
    exact, over = encoder.tokenize(["dog " * words, "dog " * (words + 1)])
    assert (len(exact), exact.truncated) == (encoder.max_tokens, False)
    assert (len(over), over.truncated) == (encoder.max_tokens, True)
    np.testing.assert_array_equal(exact.ids, over.ids)


def test_nothing_gives_nothing(encoder: Encoder) -> None:
    assert encoder.tokenize([]) == []
    assert encoder.encode([]).shape == (0, encoder.identity.dimension)


@pytest.mark.parametrize("text", [" ", "\x00", "\u200b", "👩‍👩‍👧‍👦", "深", "\ufffd", "a" * 5000])
def test_every_unicode_text_has_a_finite_vector(encoder: Encoder, text: str) -> None:
    (vector,) = encode(encoder, text)
    assert np.isfinite(vector).all()
    assert abs(float(np.linalg.norm(vector)) - 1) < 1e-5


def test_failed_pass_is_an_encoder_error(encoder: Encoder) -> None:
    bad = Tokens(np.array([101, 10**9, 102], dtype=np.int32))
    with pytest.raises(EncoderError):
        encoder.encode([bad])


def test_identity_names_engine_and_precision(encoder: Encoder) -> None:
    identity = encoder.identity
    assert (identity.precision, identity.normalized) == ("fp32", True)
    assert identity.engine in NEEDS


def test_wrong_dimension_names_the_key(tmp_path: Path, model_files: ModelFiles) -> None:
    config = EmbeddingsConfig(dimension=768, state_dir=tmp_path)
    with pytest.raises(StartError, match=r"^embeddings\.dimension: .*384.*768"):
        open_encoder(config)


def test_batch_larger_than_the_queue_names_the_key(tmp_path: Path, model_files: ModelFiles) -> None:
    config = EmbeddingsConfig(client_batch=10, queue_texts=9, state_dir=tmp_path)
    with pytest.raises(StartError, match=r"embeddings\.client_batch"):
        open_encoder(config)


@pytest.mark.parametrize(
    ("engine", "package"), [("torch", "sentence_transformers"), ("onnx", "onnxruntime")]
)
def test_missing_package_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    model_files: ModelFiles,
    engine: str,
    package: str,
) -> None:
    # What Python does where the package is not installed: the import raises.
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"aistack.embeddings.{engine}_engine", raising=False)
    config = EmbeddingsConfig.model_validate({"encoder": engine, "state_dir": tmp_path})
    with pytest.raises(StartError, match=rf"embeddings\.encoder: .*aistack\[{engine}\]"):
        open_encoder(config)


def test_auto_is_the_onnx_engine(graph_state: Path, model_files: ModelFiles) -> None:
    assert open_encoder(EmbeddingsConfig(state_dir=graph_state))[1].identity.engine == "onnx"


def test_padding_is_on_the_right() -> None:
    ids, mask = pad([Tokens(np.array([7], np.int32)), Tokens(np.array([1, 2, 3], np.int32))])
    assert ids.tolist() == [[7, 0, 0], [1, 2, 3]]
    assert mask.tolist() == [[1, 0, 0], [1, 1, 1]]
    assert ids.dtype == mask.dtype == np.int32


def test_broken_tokenizer_is_a_start_error(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text('{"model": {"type": "nothing"}}', encoding="utf-8")
    with pytest.raises(StartError, match=r"tokenizer\.json: not a tokenizer"):
        TextTokenizer(path, 8)


def test_no_engine_reports_on_its_user(tmp_path: Path, graph_state: Path) -> None:
    """ONNX Runtime's wheel leaves a device id in the home of whom it would report on."""
    pytest.importorskip("onnxruntime")
    code = (
        "import sys; from pathlib import Path;"
        "from aistack.config import EmbeddingsConfig;"
        "from aistack.embeddings.engines import open_encoder;"
        "_, encoder = open_encoder(EmbeddingsConfig(state_dir=Path(sys.argv[1]), encoder='onnx'));"
        "encoder.encode(encoder.tokenize(['a text']))"
    )
    clean = {k: v for k, v in os.environ.items() if "TELEMETRY" not in k and k != "XDG_CACHE_HOME"}
    subprocess.run(
        [sys.executable, "-c", code, str(graph_state)],
        env=clean | {"HOME": str(tmp_path)},
        check=True,
    )
    assert list(tmp_path.rglob("*")) == []
