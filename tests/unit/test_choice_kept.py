"""The choice of an engine stands: what is kept of it, and what alone makes it anew."""

from __future__ import annotations

import errno
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import structlog

from aistack.config import EmbeddingsConfig
from aistack.embeddings import choice, choice_file
from aistack.embeddings.choice_file import Candidate, Choice, ChoiceFile, Measured
from aistack.embeddings.encoder import Encoder, Tokens, Vectors
from aistack.embeddings.engines import open_encoder, open_model
from aistack.embeddings.onnx_graph import kept_graph
from aistack.models import find_model
from aistack.service.errors import StartError

Auto = Callable[..., EmbeddingsConfig]
ONNX, FP32 = Candidate("onnx", "fp32"), Candidate("openvino", "fp32")

ENGINES = ("onnxruntime", "onnx", "openvino")
needs_two = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ENGINES),
    reason="the onnx and openvino extras are not installed",
)


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> list[Candidate]:
    """openvino in fp32 is measured twice as fast as onnx; the list grows by what is measured."""
    asked: list[Candidate] = []

    def speeds(encoders: Sequence[Encoder]) -> list[float]:
        asked.extend(
            one
            for one in choice.ALL
            for encoder in encoders
            if (encoder.identity.engine, encoder.identity.precision) == one
        )
        return [200.0 if one.identity.engine == "openvino" else 100.0 for one in encoders]

    monkeypatch.setattr(choice, "speeds", speeds)
    monkeypatch.setattr(choice, "has_gpu", lambda: False)
    return asked


@pytest.fixture
def auto(tiny_model: Path) -> Auto:
    """A configuration; in fp32 where it says nothing else, which every processor has."""

    def make(state: Path, **more: object) -> EmbeddingsConfig:
        settings = {"model": tiny_model, "dimension": 32, "state_dir": state, "precision": "fp32"}
        return EmbeddingsConfig.model_validate(settings | more)

    return make


def engine(config: EmbeddingsConfig) -> str:
    return open_encoder(config)[1].identity.engine


@needs_two
def test_first_start_measures_and_the_next_ones_do_not(
    auto: Auto, tmp_path: Path, two: list[Candidate]
) -> None:
    assert engine(auto(tmp_path)) == "openvino"
    assert two == [ONNX, FP32]
    assert engine(auto(tmp_path)) == "openvino"
    assert two == [ONNX, FP32]


@needs_two
def test_the_choice_stands_when_another_engine_would_be_faster_now(
    auto: Auto, tmp_path: Path, two: list[Candidate], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine(auto(tmp_path)) == "openvino"
    monkeypatch.setattr(choice, "speeds", lambda encoders: [900.0, 1.0])
    # As after an update of an engine, or on another processor.
    monkeypatch.setattr(choice, "host", lambda: ["openvino 9999.1", "avx2"])
    with structlog.testing.capture_logs() as logs:
        assert engine(auto(tmp_path)) == "openvino"
    (kept,) = logs
    assert kept["event"] == "engine_kept"
    assert "openvino 9999.1" in kept["changed"]


@needs_two
def test_installation_from_before_stays_with_onnx_and_says_so_once(
    auto: Auto, tmp_path: Path, two: list[Candidate]
) -> None:
    kept_graph(*open_model(auto(tmp_path)), tmp_path)
    with structlog.testing.capture_logs() as logs:
        assert engine(auto(tmp_path)) == "onnx"
        assert engine(auto(tmp_path)) == "onnx"
    (said,) = logs
    assert (said["event"], said["engine"], said["precision"]) == ("engine_kept", "onnx", "fp32")
    assert "aistack models prepare --choose" in said["reason"]
    assert two == []


@needs_two
@pytest.mark.parametrize("named", ["onnx", "openvino"])
def test_auto_stays_with_what_the_configuration_named_before(
    auto: Auto, tmp_path: Path, two: list[Candidate], named: str
) -> None:
    assert engine(auto(tmp_path, encoder=named)) == named
    assert engine(auto(tmp_path)) == named
    assert two == []


@needs_two
def test_graph_of_another_model_is_no_installation_from_before(
    auto: Auto, tmp_path: Path, two: list[Candidate], tiny_model: Path
) -> None:
    files = find_model(tiny_model)
    (tmp_path / f"{'a' * 16}-{files.settings[:8]}-v1-{'b' * 64}.onnx").write_bytes(b"")
    assert engine(auto(tmp_path)) == "openvino"


@needs_two
def test_engine_that_is_gone_is_chosen_anew_with_a_warning(
    auto: Auto, tmp_path: Path, two: list[Candidate], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine(auto(tmp_path)) == "openvino"
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.delitem(sys.modules, "aistack.embeddings.openvino_engine", raising=False)
    with structlog.testing.capture_logs() as logs:
        assert engine(auto(tmp_path)) == "onnx"
    assert [one["event"] for one in logs] == ["engine_gone", "engine_chosen"]
    assert "aistack[openvino]" in logs[0]["reason"]


@needs_two
def test_engine_that_gives_other_vectors_is_chosen_anew_with_a_warning(
    auto: Auto, tmp_path: Path, two: list[Candidate], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine(auto(tmp_path)) == "openvino"
    from aistack.embeddings.openvino_engine import OpenvinoEncoder

    def turned(encoder: OpenvinoEncoder, batch: Sequence[Tokens]) -> Vectors:
        return np.roll(honest(encoder, batch), 1, axis=1)

    honest = OpenvinoEncoder.encode
    monkeypatch.setattr(OpenvinoEncoder, "encode", turned)
    with structlog.testing.capture_logs() as logs:
        assert engine(auto(tmp_path)) == "onnx"
    assert [one["event"] for one in logs] == ["engine_untrue", "engine_chosen"]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda text: text[: len(text) // 2],
    "nothing": lambda text: b"",
    "another kind": lambda text: b"[1, 2]",
    "another version": lambda text: text.replace(b'"version": 1', b'"version": 99'),
    "unknown engine": lambda text: text.replace(b'"engine": "openvino"', b'"engine": "tpu"'),
    "reference": lambda text: text.replace(b'"reference": "', b'"reference": "AAA'),
}


@needs_two
@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_damaged_file_is_one_warning_and_a_new_choice(
    auto: Auto, tmp_path: Path, two: list[Candidate], damage: str
) -> None:
    assert engine(auto(tmp_path)) == "openvino"
    path = tmp_path / "choice.json"
    good = path.read_bytes()
    path.write_bytes(DAMAGES[damage](good))
    assert path.read_bytes() != good
    with structlog.testing.capture_logs() as logs:
        # Not onnx, although a graph is there and no choice can be read: no old installation.
        assert engine(auto(tmp_path)) == "openvino"
    assert [one["event"] for one in logs] == ["choice_damaged", "engine_chosen"]
    assert path.read_bytes() == good
    assert [one.name for one in tmp_path.iterdir() if one.suffix not in (".json", ".onnx")] == []


@needs_two
def test_choice_that_the_configuration_no_longer_admits_is_replaced(
    auto: Auto, tmp_path: Path, two: list[Candidate]
) -> None:
    open_encoder(auto(tmp_path, encoder="onnx"))
    assert engine(auto(tmp_path)) == "onnx"
    assert engine(auto(tmp_path, encoder="openvino", precision="auto")) == "openvino"
    assert engine(auto(tmp_path)) == "openvino"


def test_engine_that_is_named_runs_where_the_choice_cannot_be_kept(
    auto: Auto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(choice_file, "write_whole", full)
    with structlog.testing.capture_logs() as logs:
        assert engine(auto(tmp_path, encoder="onnx")) == "onnx"
    (said,) = logs
    assert said["event"] == "choice_not_kept"
    assert "No space left on device" in said["reason"]


@needs_two
def test_models_have_choices_of_their_own(
    auto: Auto, tmp_path: Path, two: list[Candidate], tiny_model: Path
) -> None:
    files = find_model(tiny_model)
    open_encoder(auto(tmp_path))
    first = ChoiceFile(tmp_path, files, files.revision())
    mine, damaged = first.read()
    assert not damaged
    assert mine is not None
    assert mine.candidate == FP32
    other = ChoiceFile(tmp_path, files, "f" * 64)
    assert other.read() == (None, False)
    other.write(Choice(ONNX, "measured", mine.reference, [Measured(ONNX, 1.0, 9.0)], []))
    again, _ = first.read()
    assert again is not None
    assert (again.candidate, again.measured) == (mine.candidate, mine.measured)
    np.testing.assert_array_equal(again.reference, mine.reference)
    assert len(json.loads((tmp_path / "choice.json").read_bytes())["choices"]) == 2


@needs_two
def test_choice_that_cannot_be_read_or_kept_ends_the_start(
    auto: Auto, tmp_path: Path, two: list[Candidate], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next start might come to another one."""
    (tmp_path / "choice.json").mkdir()
    with pytest.raises(StartError, match=r"^embeddings\.state_dir: .*choice\.json cannot be read"):
        open_encoder(auto(tmp_path))
    (tmp_path / "choice.json").rmdir()

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(choice_file, "write_whole", full)
    with pytest.raises(
        StartError, match=r"^embeddings\.state_dir: .*choice\.json cannot be written"
    ):
        open_encoder(auto(tmp_path / "new"))


@needs_two
def test_where_no_code_may_be_made_at_run_time_onnx_is_taken(
    tmp_path: Path, tiny_model: Path
) -> None:
    """As in a unit with MemoryDenyWriteExecute: OpenVINO compiles its kernels and may not."""
    code = """
import ctypes, sys
from pathlib import Path
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
if ctypes.CDLL(None).prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0):
    sys.exit(77)
from aistack.config import EmbeddingsConfig
from aistack.embeddings.engines import open_encoder, open_model
from aistack.service.errors import StartError
def run(encoder):
    settings = {"model": sys.argv[1], "dimension": 32, "state_dir": sys.argv[2], "encoder": encoder}
    return open_encoder(EmbeddingsConfig.model_validate(settings))[1].identity.engine
print(run("auto"))
try:
    print(run("openvino"))
except StartError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_model), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip("this kernel is older than 6.3 and has no PR_SET_MDWE")
    assert done.returncode == 0, done.stderr
    told, engine, refused = done.stdout.splitlines()
    assert "engine_chosen" in told
    assert "MemoryDenyWriteExecute=false" in told
    assert engine == "onnx"
    assert "embeddings.encoder to onnx" in refused
