"""The graph is made reproducibly, kept atomically, and mended when its file is damaged."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest

from aistack.embeddings.encoder import Tokens
from aistack.embeddings.onnx_graph import build_graph, kept_graph
from aistack.embeddings.packing import pack
from aistack.models import ModelFiles, find_model
from aistack.service.errors import StartError

pytest.importorskip("onnx", reason="the onnx extra is not installed")


def test_two_builds_give_the_same_bytes(model_files: ModelFiles) -> None:
    digests = {hashlib.sha256(build_graph(model_files)).hexdigest() for _ in range(2)}
    assert len(digests) == 1


def test_graph_is_valid_onnx_with_the_promised_signature(
    graph_state: Path, model_files: ModelFiles
) -> None:
    import onnxruntime

    path = kept_graph(model_files, model_files.revision(), graph_state)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert {i.name: (i.type, i.shape) for i in session.get_inputs()} == {
        "input_ids": ("tensor(int32)", ["t"]),
        "position_ids": ("tensor(int32)", ["t"]),
        "attention_mask": ("tensor(int32)", ["n", "s"]),
        "rows": ("tensor(int32)", ["n", "s"]),
        "places": ("tensor(int32)", ["t"]),
    }
    batch = [Tokens(np.array(ids, dtype=np.int32)) for ids in ([101, 2054, 102], [101, 102])]
    (vectors,) = session.run(None, pack(batch))
    assert vectors.shape == (2, model_files.dimension)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


def test_kept_file_is_used_again(graph_state: Path, model_files: ModelFiles) -> None:
    revision = model_files.revision()
    first = kept_graph(model_files, revision, graph_state)
    stamp = first.stat().st_mtime_ns
    assert kept_graph(model_files, revision, graph_state) == first
    assert first.stat().st_mtime_ns == stamp
    assert revision[:16] in first.name


def test_damaged_file_is_made_anew(tmp_path: Path, model_files: ModelFiles) -> None:
    revision = model_files.revision()
    path = kept_graph(model_files, revision, tmp_path)
    good = path.read_bytes()
    with path.open("r+b") as stream:
        stream.seek(len(good) // 2)
        stream.write(b"\xff" * 64)
    assert kept_graph(model_files, revision, tmp_path) == path
    assert path.read_bytes() == good
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_graph_of_other_settings_replaces_the_old_one(
    tmp_path: Path, model_files: ModelFiles
) -> None:
    revision = model_files.revision()
    old = kept_graph(model_files, revision, tmp_path)
    changed = dataclasses.replace(model_files, pooling="cls", settings="0" * 64)
    new = kept_graph(changed, revision, tmp_path)
    assert new != old
    assert list(tmp_path.iterdir()) == [new]


def test_graph_of_another_model_is_left_for_who_goes_back_to_it(
    tmp_path: Path, tiny_model: Path
) -> None:
    files = find_model(tiny_model)
    kept = [kept_graph(files, digit * 64, tmp_path) for digit in "12"]
    assert sorted(tmp_path.iterdir()) == kept
    third = kept_graph(files, "3" * 64, tmp_path)
    # Of all others the newest alone: a disk does not fill with models that were tried.
    assert sorted(tmp_path.iterdir()) == [kept[1], third]


def test_what_is_no_graph_of_ours_is_left_alone(tmp_path: Path, tiny_model: Path) -> None:
    names = ["choice.json", "mine.onnx"]
    for name in names:
        (tmp_path / name).write_bytes(b"{}")
    files = find_model(tiny_model)
    made = kept_graph(files, files.revision(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([made.name, *names])


def test_unwritable_state_directory_names_the_key(tmp_path: Path, model_files: ModelFiles) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    with pytest.raises(StartError, match=r"embeddings\.state_dir"):
        kept_graph(model_files, "0" * 64, blocked / "state")


@pytest.mark.parametrize(
    ("key", "value"),
    [("model_type", "t5"), ("hidden_act", "relu"), ("position_embedding_type", "x")],
)
def test_other_architectures_are_refused_by_name(
    model_files: ModelFiles, key: str, value: str
) -> None:
    other = dataclasses.replace(model_files, architecture={**model_files.architecture, key: value})
    with pytest.raises(StartError, match=f"{key} is '{value}'.*torch"):
        build_graph(other)
