"""Prompts and Matryoshka dimensions come from the model's own files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from aistack.model_prompts import Prompts
from aistack.models import ModelFiles, find_model
from aistack.service.errors import StartError

E5 = {"prompts": {"query": "query: ", "passage": "passage: "}, "default_prompt_name": "passage"}


@pytest.fixture
def directory(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be changed."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def say(directory: Path, table: Any, name: str = "config_sentence_transformers.json") -> None:
    path = directory / name
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**before, **table}), encoding="utf-8")


def test_a_model_without_prompts_is_its_weights(directory: Path, model_files: ModelFiles) -> None:
    assert model_files.prompts == Prompts()
    assert model_files.matryoshka == ()
    files = find_model(directory)
    assert files.revision() == files.weights_digest()
    # What sentence-transformers 5 writes for a model without any.
    say(directory, {"prompts": {"query": "", "document": ""}, "default_prompt_name": None})
    assert find_model(directory).revision() == files.revision()


def test_prompts_are_read_by_name_and_by_the_kind_of_input(directory: Path) -> None:
    say(directory, E5)
    prompts = find_model(directory).prompts
    assert prompts.text("query") == "query: "
    assert prompts.text() == "passage: "
    assert prompts.for_input("query") == "query: "
    assert prompts.for_input("document") == "passage: "
    with pytest.raises(KeyError):
        prompts.text("other")


def test_a_kind_of_input_without_a_prompt_has_the_default_one() -> None:
    assert Prompts({"query": "q: "}).for_input("document") == ""
    assert Prompts({"query": "q: ", "any": "a: "}, "any").for_input("document") == "a: "
    assert Prompts({"document": "d: ", "passage": "p: "}).for_input("document") == "d: "


@pytest.mark.parametrize(
    "other",
    [
        {"prompts": {"query": "q: ", "passage": "passage: "}},
        {"default_prompt_name": "query"},
        {"default_prompt_name": None},
    ],
)
def test_other_prompts_are_another_revision(directory: Path, other: dict[str, Any]) -> None:
    plain = find_model(directory).revision()
    say(directory, E5)
    first = find_model(directory)
    say(directory, other)
    second = find_model(directory)
    assert len({plain, first.revision(), second.revision()}) == 3
    assert first.weights_digest() == second.weights_digest()


def test_matryoshka_dimensions_are_read_from_either_file(directory: Path) -> None:
    say(directory, {"matryoshka_dims": [16, 8]})
    say(directory, {"matryoshka_dimensions": [32, 24, 64]}, "config.json")
    assert find_model(directory).matryoshka == (8, 16, 24)


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ({"prompts": ["query: "]}, "prompts must be a table"),
        ({"prompts": {"query": 1}}, "prompts must be a table"),
        ({"prompts": {"query": "q"}, "default_prompt_name": "x"}, "default_prompt_name is 'x'"),
        ({"default_prompt_name": "x"}, "default_prompt_name is 'x'"),
        ({"matryoshka_dims": "64"}, "matryoshka_dims must be a list"),
        ({"matryoshka_dims": [True]}, "matryoshka_dims must be a list"),
    ],
)
def test_damage_is_one_line_that_names_the_file(
    directory: Path, table: dict[str, Any], named: str
) -> None:
    say(directory, table)
    with pytest.raises(StartError, match=rf"config_sentence_transformers\.json: {named}") as raised:
        find_model(directory)
    assert "\n" not in str(raised.value)


def test_prompts_that_are_not_pooled_are_refused(directory: Path) -> None:
    say(directory, {"include_prompt": False}, "1_Pooling/config.json")
    find_model(directory)
    say(directory, E5)
    with pytest.raises(StartError, match="include_prompt is false"):
        find_model(directory)
