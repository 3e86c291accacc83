"""`choice.json`: which engine and precision each model was given, and what was measured then."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import orjson
import structlog

from aistack.embeddings.encoder import EngineName, Precision, Vectors
from aistack.embeddings.host import cpu_flags
from aistack.embeddings.onnx_graph import write_whole
from aistack.models import ModelFiles
from aistack.service.errors import StartError

log = structlog.get_logger()

NAME = "choice.json"
VERSION = 1
_PACKAGES = ("onnxruntime", "openvino", "torch")


class Candidate(NamedTuple):
    """An engine in a precision."""

    engine: EngineName
    precision: Precision

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}"


@dataclass(frozen=True, slots=True)
class Measured:
    """`cosine`: the mean to fp32 on the probe texts; `rate`: texts per second, None where it was
    not compared; `fault`: why it could not be used."""

    candidate: Candidate
    cosine: float | None
    rate: float | None
    fault: str = ""

    def __str__(self) -> str:
        parts = [str(self.candidate)]
        if self.cosine is not None:
            parts.append(f"cosine {self.cosine:.5f}")
        if self.rate is not None:
            parts.append(f"{self.rate:.0f} texts/s")
        return " ".join([*parts, self.fault]).rstrip()


@dataclass(frozen=True, slots=True)
class Choice:
    """One model's. `reference` (n, d) float32 are the fp32 vectors of `probes.CHECKED`; `host` the
    versions of the engines and the processor's flags at that time."""

    candidate: Candidate
    reason: str
    reference: Vectors
    measured: list[Measured]
    host: list[str]


def host() -> list[str]:
    """The engines' versions and the processor's flags."""
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return [*found, *cpu_flags()]


def entries(state: Path) -> Mapping[str, Any]:
    """Every model's entry by `model_key`, as it was written; empty without a file.

    Raises ValueError, AttributeError when it is damaged, StartError when it cannot be read.
    """
    path = state / NAME
    try:
        document = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StartError(
            f"embeddings.state_dir: {path} cannot be read ({error.strerror}): give the"
            " service a directory of its own"
        ) from error
    if document.get("version") != VERSION or not isinstance(document.get("choices"), dict):
        raise ValueError(f"not a file of version {VERSION}")
    choices: dict[str, Any] = document["choices"]
    return choices


def model_key(files: ModelFiles, revision: str) -> str:
    """What the choice and the kept graphs of a model go by."""
    return f"{revision[:16]}-{files.settings[:8]}"


class ChoiceFile:
    """The entry of one model in the file of a state directory."""

    def __init__(self, state: Path, files: ModelFiles, revision: str) -> None:
        self.path = state / NAME
        self._state = state
        self._key = model_key(files, revision)
        self._name = files.name
        self._dimension = files.dimension

    def read(self) -> tuple[Choice | None, bool]:
        """The choice, None where there is none; and whether the file is damaged (one warning).

        Raises StartError when it is there and cannot be read.
        """
        try:
            entry = entries(self._state).get(self._key)
            return (None if entry is None else self._parse(entry)), False
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning(
                "choice_damaged",
                file=str(self.path),
                reason=f"{type(error).__name__}: {error}",
                action="measured anew",
            )
            return None, True

    def write(self, choice: Choice) -> None:
        """Put the model's entry in; those of other models stay. Raises StartError."""
        try:
            choices = dict(entries(self._state))
        except (ValueError, AttributeError):
            choices = {}
        choices[self._key] = self._entry(choice)
        text = orjson.dumps({"version": VERSION, "choices": choices}, option=orjson.OPT_INDENT_2)
        try:
            write_whole(self.path, text + b"\n")
        except OSError as error:
            raise StartError(
                f"embeddings.state_dir: {self.path} cannot be written ({error.strerror}): give the"
                " service a writable directory, or set embeddings.encoder and embeddings.precision"
            ) from error

    def _entry(self, choice: Choice) -> dict[str, Any]:
        return {
            "model": self._name,
            "engine": choice.candidate.engine,
            "precision": choice.candidate.precision,
            "reason": choice.reason,
            "measured": [
                {
                    "engine": one.candidate.engine,
                    "precision": one.candidate.precision,
                    "cosine": one.cosine,
                    "texts_per_second": one.rate,
                    "fault": one.fault,
                }
                for one in choice.measured
            ],
            "host": choice.host,
            "reference": base64.b64encode(choice.reference.astype("<f4").tobytes()).decode(),
        }

    def _parse(self, entry: Mapping[str, Any]) -> Choice:
        reference = np.frombuffer(base64.b64decode(entry["reference"], validate=True), dtype="<f4")
        measured = [
            Measured(_candidate(one), one["cosine"], one["texts_per_second"], str(one["fault"]))
            for one in entry["measured"]
        ]
        return Choice(
            _candidate(entry),
            str(entry["reason"]),
            reference.reshape(-1, self._dimension).astype(np.float32),
            measured,
            [str(one) for one in entry["host"]],
        )


def _candidate(entry: Mapping[str, Any]) -> Candidate:
    engine, precision = entry["engine"], entry["precision"]
    if engine not in get_args(EngineName) or precision not in get_args(Precision):
        raise ValueError(f"{engine!r} in {precision!r} is unknown here")
    return Candidate(engine, precision)
