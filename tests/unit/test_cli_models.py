"""`aistack models` on a real, tiny model."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from aistack.config import EmbeddingsConfig
from aistack.embeddings import choice
from aistack.embeddings.engines import open_encoder
from fix_cli import Ended

Models = Callable[..., Ended]

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnxruntime", "onnx", "openvino")),
    reason="the onnx and openvino extras are not installed",
)


@pytest.fixture
def models(
    aistack: Callable[..., Ended], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Models:
    """`models("list")` on a state directory of the test's own; onnx is measured the slowest."""
    monkeypatch.setattr(
        choice,
        "speeds",
        lambda encoders: [100.0 + 50 * (one.identity.engine == "openvino") for one in encoders],
    )
    config = tmp_path / "config.json"
    settings = {"model": str(tiny_model), "dimension": 32, "precision": "fp32"}
    config.write_text(json.dumps({"embeddings": settings}), encoding="utf-8")
    common = ("--config", str(config), "--state", str(tmp_path / "state"))
    return lambda *words: aistack("models", *words, *common)


def runs(tiny_model: Path, state: Path) -> str:
    """The engine that the service would run."""
    settings = {"model": tiny_model, "dimension": 32, "precision": "fp32", "state_dir": state}
    return open_encoder(EmbeddingsConfig.model_validate(settings))[1].identity.engine


def test_prepare_makes_the_graph_and_the_choice(
    models: Models, tiny_model: Path, tmp_path: Path
) -> None:
    said = models("prepare", "--json").json
    torch = importlib.util.find_spec("sentence_transformers") is not None
    assert said["compared_with"] == ["torch" if torch else "onnx", "fp32"]
    assert (said["chosen"], said["written"]) == (["openvino", "fp32"], True)
    cosines = {one["engine"]: one["cosine"] for one in said["engines"]}
    assert set(cosines) == {"onnx", "openvino", *(["torch"] if torch else [])}
    assert min(cosines.values()) > 0.99999
    assert len(list((tmp_path / "state").glob("*.onnx"))) == 1
    assert runs(tiny_model, tmp_path / "state") == "openvino"


def test_a_choice_that_stands_is_left_without_choose(
    models: Models, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models("prepare")
    monkeypatch.setattr(choice, "speeds", lambda all_: [900.0, *([1.0] * (len(all_) - 1))])
    again = models("prepare")
    assert again.code == 0
    assert "openvino fp32 was chosen before and stands" in again.err
    assert runs(tiny_model, tmp_path / "state") == "openvino"
    assert models("prepare", "--choose", "--json").json["chosen"] == ["onnx", "fp32"]
    assert runs(tiny_model, tmp_path / "state") == "onnx"


def test_installation_from_before_is_left_without_choose(
    models: Models, tiny_model: Path, tmp_path: Path
) -> None:
    old = {"model": tiny_model, "dimension": 32, "encoder": "onnx"}
    open_encoder(EmbeddingsConfig.model_validate({**old, "state_dir": tmp_path / "state"}))
    said = models("prepare", "--json").json
    assert (said["chosen"], said["fastest"]) == (["onnx", "fp32"], ["openvino", "fp32"])
    assert runs(tiny_model, tmp_path / "state") == "onnx"


def test_prepare_of_one_engine_measures_that_one(models: Models) -> None:
    said = models("prepare", "--encoder", "onnx", "--json").json
    assert [one["engine"] for one in said["engines"]] == ["onnx"]


def test_the_table_is_for_people(models: Models) -> None:
    ended = models("prepare", "--encoder", "onnx")
    first, row, last = ended.out.splitlines()
    assert first.split() == ["engine", "precision", "cosine", "texts/s"]
    assert row.split() == ["onnx", "fp32", "1.00000", "-", "chosen"]
    assert last.startswith("tiny, compared with ")


def test_list_shows_the_configured_model_first(models: Models, tmp_path: Path) -> None:
    before = models("list", "--json").json["models"]
    assert [(one["model"], one["engine"], one["graph_bytes"]) for one in before] == [
        ("tiny", None, None)
    ]
    models("prepare")
    (one,) = models("list", "--json").json["models"]
    assert (one["engine"], one["precision"], one["reason"]) == ("openvino", "fp32", "measured")
    assert one["graph_bytes"] > 1000
    assert "openvino fp32 (measured)" in models("list").out


def test_a_damaged_choice_is_named(models: Models, tmp_path: Path) -> None:
    models("prepare")
    (tmp_path / "state" / "choice.json").write_text("[", encoding="utf-8")
    ended = models("list")
    assert ended.code == 1
    assert "choice.json is damaged" in ended.err
    assert "aistack models prepare" in ended.err


def test_without_a_file_the_running_stack_s_configuration_holds(
    aistack: Callable[..., Ended], tiny_model: Path, tmp_path: Path
) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    run.mkdir()
    endpoint = {"base_url": "http://127.0.0.1:1", "run_dir": str(run), "pid": os.getpid()}
    (data / "endpoint.json").write_text(json.dumps(endpoint), encoding="utf-8")
    missing = aistack("models", "list", "--data-dir", str(data))
    assert missing.code == 2
    assert "--config" in missing.err
    settings = {"model": str(tiny_model), "dimension": 32, "state_dir": str(tmp_path / "kept")}
    (run / "embeddings.json").write_text(json.dumps({"embeddings": settings}), encoding="utf-8")
    said = aistack("models", "list", "--data-dir", str(data), "--json").json
    assert said["state_dir"] == str(tmp_path / "kept")
    assert said["models"][0]["model"] == "tiny"


def test_where_nothing_runs_the_data_directory_is_meant(
    aistack: Callable[..., Ended], tiny_model: Path, tmp_path: Path
) -> None:
    words = ("models", "prepare", "--model", str(tiny_model), "--encoder", "onnx", "--json")
    said = aistack(*words, "--data-dir", str(tmp_path)).json
    # Where `aistack up` has the service look. The dimension is the named model's own.
    assert said["state_dir"] == str(tmp_path / "embeddings")
    assert (tmp_path / "embeddings" / "choice.json").exists()


def test_a_model_that_is_not_there_is_one_line(models: Models, tmp_path: Path) -> None:
    ended = models("prepare", "--model", str(tmp_path / "nowhere"))
    assert ended.code == 78
    assert ended.err.count("\n") == 1
    assert "is not a directory" in ended.err
