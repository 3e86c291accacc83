"""The contract of an encoder, over every engine that is installed here."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from aistack.config import EmbeddingsConfig
from aistack.embeddings.encoder import (
    Encoder,
    EncoderError,
    TextTokenizer,
    Tokens,
    normalized,
    pad,
)
from aistack.embeddings.engines import open_encoder
from aistack.models import ModelFiles
from aistack.service.errors import StartError
from fix_embeddings import Golden

NEEDS = {
    "onnx": ("onnxruntime", "onnx"),
    "openvino": ("openvino", "onnx"),
    "torch": ("torch", "sentence_transformers"),
}
#: How far the cosine to the golden vectors may be from 1: of any text, and in the mean.
FAR = {"fp32": (1e-5, 1e-5), "bf16": (1e-3, 2e-4)}
MODES = [
    ("onnx", "fp32"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("torch", "fp32"),
    ("torch", "bf16"),
]


@pytest.fixture(scope="module", params=MODES, ids="-".join)
def encoder(request: pytest.FixtureRequest, graph_state: Path, model_files: ModelFiles) -> Encoder:
    """Each engine in each of its precisions with the packaged model."""
    engine, precision = request.param
    return open_or_skip(engine, precision, {"state_dir": graph_state})


def open_or_skip(engine: str, precision: str, settings: dict[str, object]) -> Encoder:
    """The engine; skips where its extra is not installed or the processor has no such precision."""
    for name in NEEDS[engine]:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"the {engine} extra is not installed")
    said = {"encoder": engine, "precision": precision}
    try:
        return open_encoder(EmbeddingsConfig.model_validate(said | settings))[1]
    except StartError as error:
        # Of what can end this start, only the processor cannot be mended.
        if precision == "bf16" and "does not" in str(error):
            pytest.skip(str(error))
        raise


def tiny_encoder(engine: str, precision: str, model: Path, state: Path) -> Encoder:
    return open_or_skip(
        engine, precision, {"model": model, "dimension": 32, "state_dir": state / engine}
    )


def encode(encoder: Encoder, *texts: str) -> np.ndarray:
    return encoder.encode(encoder.tokenize(texts))


def test_agrees_with_the_golden_vectors(encoder: Encoder, golden: Golden) -> None:
    assert encoder.identity.revision == golden.revision
    vectors = np.concatenate([encode(encoder, text) for text in golden.texts])
    compare(encoder, vectors, golden)


def test_agrees_in_one_padded_batch(encoder: Encoder, golden: Golden) -> None:
    compare(encoder, encode(encoder, *golden.texts), golden)


def compare(encoder: Encoder, vectors: np.ndarray, golden: Golden) -> None:
    cosines = np.einsum("nd,nd->n", vectors, golden.vectors)
    of_any, in_the_mean = FAR[encoder.identity.precision]
    assert cosines.min() >= 1 - of_any, golden.texts[int(cosines.argmin())]
    assert cosines.mean() >= 1 - in_the_mean


@pytest.mark.parametrize("mode", MODES, ids="-".join)
def test_second_model_agrees_with_sentence_transformers(
    mode: tuple[str, str], tiny_model: Path, tmp_path: Path, golden: Golden
) -> None:
    """Another architecture, and first-token pooling."""
    engine, precision = mode
    exact = tiny_encoder("torch", "fp32", tiny_model, tmp_path)
    encoder = tiny_encoder(engine, precision, tiny_model, tmp_path)
    wanted, vectors = (encode(one, *golden.texts) for one in (exact, encoder))
    cosines = np.einsum("nd,nd->n", vectors, wanted)
    # Random weights spread what bf16 rounds further than trained ones do.
    assert cosines.min() >= 1 - (1e-5 if precision == "fp32" else 1e-2)


def test_several_threads_may_encode_at_once(encoder: Encoder, golden: Golden) -> None:
    alone = [encode(encoder, text) for text in golden.texts]
    gate = threading.Barrier(4)

    def run(start: int) -> list[bool]:
        gate.wait()
        order = [(start + step) % len(alone) for step in range(len(alone))]
        return [np.allclose(encode(encoder, golden.texts[i]), alone[i], atol=1e-6) for i in order]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, range(0, 16, 4)))
    assert all(all(one) for one in found)


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
    exact = encoder.identity.precision == "fp32"
    assert float(alone @ padded) >= 1 - (1e-6 if exact else 1e-3)
    assert np.abs(alone - padded).max() < (1e-5 if exact else 1e-2)


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


def test_a_text_longer_than_the_model_has_positions_is_an_encoder_error(encoder: Encoder) -> None:
    with pytest.raises(EncoderError):
        encoder.encode([Tokens(np.full(600, 2000, dtype=np.int32))])


def test_identity_names_engine_and_precision(encoder: Encoder) -> None:
    identity = encoder.identity
    assert (identity.engine, identity.precision) in MODES
    assert identity.normalized


def test_wrong_dimension_names_the_key(tmp_path: Path, model_files: ModelFiles) -> None:
    config = EmbeddingsConfig(dimension=768, state_dir=tmp_path)
    with pytest.raises(StartError, match=r"^embeddings\.dimension: .*384.*768"):
        open_encoder(config)


def test_batch_larger_than_the_queue_names_the_key(tmp_path: Path, model_files: ModelFiles) -> None:
    config = EmbeddingsConfig(client_batch=10, queue_texts=9, state_dir=tmp_path)
    with pytest.raises(StartError, match=r"embeddings\.client_batch"):
        open_encoder(config)


@pytest.mark.parametrize(
    ("engine", "package"),
    [("torch", "sentence_transformers"), ("onnx", "onnxruntime"), ("openvino", "openvino")],
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
    settings = {"encoder": engine, "precision": "fp32", "state_dir": tmp_path}
    config = EmbeddingsConfig.model_validate(settings)
    with pytest.raises(StartError, match=rf"embeddings\.encoder: .*aistack\[{engine}\]"):
        open_encoder(config)


def test_precision_that_an_engine_has_not_names_the_key(
    tmp_path: Path, model_files: ModelFiles
) -> None:
    config = EmbeddingsConfig(encoder="onnx", precision="bf16", state_dir=tmp_path)
    with pytest.raises(StartError, match=r"^embeddings\.precision: .*fp32 only, not bf16"):
        open_encoder(config)


def test_other_weights_than_the_configured_ones_end_the_start(
    tmp_path: Path, graph_state: Path, model_files: ModelFiles
) -> None:
    right = EmbeddingsConfig(
        encoder="onnx", state_dir=graph_state, revision=model_files.weights_digest()
    )
    assert open_encoder(right)[1].identity.revision == right.revision
    wrong = EmbeddingsConfig(encoder="onnx", state_dir=tmp_path, revision="0" * 64)
    with pytest.raises(StartError, match=r"^embeddings\.revision: the SHA-256 of .*safetensors"):
        open_encoder(wrong)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dimension", [0, 384, 1000])
def test_dimension_that_cannot_be_cut_to_names_the_key(
    tmp_path: Path, model_files: ModelFiles, dimension: int
) -> None:
    config = EmbeddingsConfig(dimensions=(64, dimension), state_dir=tmp_path)
    with pytest.raises(StartError, match=rf"^embeddings\.dimensions: {dimension} is not below"):
        open_encoder(config)


def test_rows_are_given_unit_length_and_nan_stays() -> None:
    rows = np.array([[3.0, 4.0], [0.0, 0.0], [np.nan, 1.0]])
    made = normalized(rows)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made[0], [0.6, 0.8], rtol=1e-6)
    assert made[1].tolist() == [0.0, 0.0]
    assert np.isnan(made[2]).any()


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


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_no_engine_reports_on_its_user(tmp_path: Path, graph_state: Path, engine: str) -> None:
    """ONNX Runtime's wheel leaves a device id in the home of whom it would report on; OpenVINO
    sends an event when it is imported, and leaves an id too."""
    for name in NEEDS[engine]:
        pytest.importorskip(name)
    code = (
        "import socket, sys; from pathlib import Path; sent = [];"
        "socket.socket.connect = lambda self, address: sent.append(address);"
        "socket.getaddrinfo = lambda *a, **k: sent.append(a) or [];"
        "from aistack.config import EmbeddingsConfig;"
        "from aistack.embeddings.engines import open_encoder;"
        "_, encoder = open_encoder(EmbeddingsConfig(state_dir=Path(sys.argv[1]),"
        " encoder=sys.argv[2], precision='fp32'));"
        "encoder.encode(encoder.tokenize(['a text']));"
        "sys.exit(f'reported to {sent}' if sent else 0)"
    )
    # In what takes itself for a test machine nobody reports anything.
    clean = {k: v for k, v in os.environ.items() if k in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")}
    subprocess.run(
        [sys.executable, "-c", code, str(graph_state), engine],
        env=clean | {"HOME": str(tmp_path)},
        check=True,
    )
    assert list(tmp_path.rglob("*")) == []
