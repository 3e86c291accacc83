"""`encoder = "auto"`: the fastest that is true to fp32 is taken, and the choice stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from aistack.config import EmbeddingsConfig
from aistack.embeddings import choice, host, probes
from aistack.embeddings.choice_file import Candidate
from aistack.embeddings.cut import Cost
from aistack.embeddings.encoder import Encoder, EncoderError, Tokens, Vectors
from aistack.embeddings.engines import MissingEngineError, open_encoder
from aistack.models import EmbeddingSet, ModelFiles
from aistack.service.errors import StartError

ONNX, BF16, FP32 = (
    Candidate("onnx", "fp32"),
    Candidate("openvino", "bf16"),
    Candidate("openvino", "fp32"),
)


@dataclass
class Angle:
    """An encoder whose vectors have the cosine `cosine` to the exact ones."""

    cosine: float = 1.0
    dies: bool = False
    max_tokens: int = 256
    cost: Cost = field(default=Cost(1))
    identity: EmbeddingSet = field(
        default_factory=lambda: EmbeddingSet("angle", "0" * 64, "onnx", "fp32", 3, True)
    )

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        return [Tokens(np.array([len(text)], dtype=np.int32)) for text in texts]

    def encode(self, batch: Sequence[Tokens]) -> Vectors:
        if self.dies:
            raise EncoderError("it died")
        turns = np.array([tokens.ids[0] for tokens in batch], dtype=np.float64)
        exact = np.stack([np.cos(turns), np.sin(turns), np.zeros(len(batch))], axis=1)
        third = np.array([0.0, 0.0, 1.0])
        mixed = self.cosine * exact + np.sqrt(1 - self.cosine**2) * third
        vectors: Vectors = mixed.astype(np.float32)
        return vectors


def opens(**engines: Encoder | StartError) -> Callable[[Candidate], Encoder]:
    """An opener of encoders by `engine_precision`; what is not given is not installed."""

    def open_(one: Candidate) -> Encoder:
        found = engines.get(f"{one.engine}_{one.precision}", MissingEngineError("not installed"))
        if isinstance(found, StartError):
            raise found
        return found

    return open_


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Texts per second by the encoder's id: what the clock would have said."""
    said: dict[int, float] = {}
    monkeypatch.setattr(
        choice, "speeds", lambda encoders: [said[id(encoder)] for encoder in encoders]
    )
    return said


@pytest.mark.parametrize(
    ("cosine", "rate", "taken"),
    [
        (0.9999, 200.0, BF16),
        (0.9999, 109.0, ONNX),  # within the noise
        (0.9985, 900.0, ONNX),  # fast and untrue
        (float("nan"), 900.0, ONNX),
    ],
)
def test_the_fastest_that_is_true_is_taken(
    rates: dict[int, float], cosine: float, rate: float, taken: Candidate
) -> None:
    exact, other = Angle(), Angle(cosine)
    rates.update({id(exact): 100.0, id(other): rate})
    trial = choice.measure([ONNX, BF16], opens(onnx_fp32=exact, openvino_bf16=other))
    assert choice.pick(trial) == taken


def test_an_engine_that_fails_in_its_passes_is_left_out(rates: dict[int, float]) -> None:
    exact = Angle()
    rates[id(exact)] = 100.0
    trial = choice.measure([ONNX, BF16], opens(onnx_fp32=exact, openvino_bf16=Angle(dies=True)))
    assert choice.pick(trial) == ONNX
    assert [one.fault for one in trial.measured] == ["", "it died (None)"]


def test_an_engine_that_cannot_load_is_told_and_a_missing_one_is_not() -> None:
    refused = StartError("this processor does not compute in bf16")
    trial = choice.measure(choice.ALL, opens(onnx_fp32=Angle(), openvino_bf16=refused))
    assert [str(one) for one in trial.measured] == [
        "onnx fp32 cosine 1.00000",
        "openvino bf16 this processor does not compute in bf16",
    ]


def test_fp32_of_an_engine_is_measured_where_its_bf16_is_not_to_be_had(
    rates: dict[int, float],
) -> None:
    exact, second, half = Angle(), Angle(), Angle(0.9999)
    rates.update({id(exact): 100.0, id(second): 130.0, id(half): 200.0})
    without = choice.measure([ONNX, BF16, FP32], opens(onnx_fp32=exact, openvino_fp32=second))
    assert choice.pick(without) == FP32
    engines = opens(onnx_fp32=exact, openvino_fp32=second, openvino_bf16=half)
    assert FP32 not in choice.measure([ONNX, BF16, FP32], engines).encoders
    assert FP32 in choice.measure([ONNX, BF16, FP32], engines, every=True).encoders


def test_bf16_alone_is_compared_with_an_fp32_that_is_not_a_candidate() -> None:
    trial = choice.measure([BF16], opens(onnx_fp32=Angle(), openvino_bf16=Angle(0.9)))
    with pytest.raises(StartError, match=r"no engine gives true vectors.*openvino bf16 cosine 0.9"):
        choice.pick(trial)


def test_a_reference_that_fails_ends_the_start_with_one_line() -> None:
    with pytest.raises(StartError, match=r"^embeddings\.encoder: onnx in fp32 cannot be used here"):
        choice.measure([ONNX], opens(onnx_fp32=Angle(dies=True)))


def test_nothing_installed_is_the_first_engine_s_error() -> None:
    with pytest.raises(MissingEngineError):
        choice.measure([ONNX, BF16], opens())


def test_what_may_pass_decides_nothing() -> None:
    """A disk that is not there yet must not lead to another engine."""
    lost = StartError("state_dir cannot be written")
    lost.__cause__ = OSError(5, "Input/output error")
    with pytest.raises(StartError, match="state_dir"):
        choice.measure([ONNX, BF16], opens(onnx_fp32=lost, openvino_bf16=Angle()))


def test_the_median_of_interleaved_rounds_counts() -> None:
    ticks = iter([0.0, 1.0, 1.0, 3.0] + [0.0, 9.0, 9.0, 11.0] + [0.0, 1.0, 1.0, 3.0] * 3)
    assert probes.speeds([Angle(), Angle()], clock=lambda: next(ticks)) == [
        len(probes.TIMED) / 1.0,
        len(probes.TIMED) / 2.0,
    ]


def test_probe_texts_have_many_lengths(model_files: ModelFiles, graph_state: Path) -> None:
    pytest.importorskip("onnxruntime")
    encoder = open_encoder(EmbeddingsConfig(encoder="onnx", state_dir=graph_state))[1]
    lengths = sorted(len(tokens) for tokens in encoder.tokenize(probes.PROBES))
    assert len(lengths) == 64
    assert lengths[0] < 12
    assert lengths[-1] > 100
    assert not any(tokens.truncated for tokens in encoder.tokenize(probes.PROBES))


def test_flags_of_the_processor_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "processor\t: 0\nflags\t\t: fpu sse2 avx2 avx512_bf16 amx_tile ht\nbugs\t: none\n"
    (tmp_path / "cpuinfo").write_text(text, encoding="ascii")
    monkeypatch.setattr(host, "Path", lambda _: tmp_path / "cpuinfo")
    assert host.cpu_flags.__wrapped__() == ("amx_tile", "avx2", "avx512_bf16")
    (tmp_path / "cpuinfo").unlink()
    assert host.cpu_flags.__wrapped__() == ()
