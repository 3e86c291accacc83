"""`encoder = "auto"`: the fastest engine that is true to fp32 here, measured once and then kept.

Engine and precision are part of an embedding set's identity, so another choice would mean to embed
every document again. Therefore the first choice stands, whatever is installed or faster later: it
is kept in `state_dir/choice.json` and read at each start. It is made anew when the engine is no
longer installed, or no longer gives the vectors that it gave; `aistack models prepare --choose`
makes it anew on demand. What the configuration names is kept as well, for a later `auto`. An
installation from before there was a choice stays with onnx in fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from aistack.config import EmbeddingsConfig
from aistack.embeddings.choice_file import Candidate, Choice, ChoiceFile, Measured, host
from aistack.embeddings.encoder import Encoder, EncoderError, Vectors
from aistack.embeddings.engines import MissingEngineError, load
from aistack.embeddings.host import has_gpu
from aistack.embeddings.onnx_graph import kept_graphs
from aistack.embeddings.probes import CHECKED, PROBES, mean_cosine, speeds, vectors_of
from aistack.models import EmbeddingSet, ModelFiles
from aistack.service.errors import StartError

log = structlog.get_logger()

#: Mean cosine to fp32 on the probe texts below which an engine is not taken.
LEAST_COSINE = 0.999
#: How much faster than the one before it an engine must be: less is noise, not worth a change.
MARGIN = 1.1
#: In the order of preference; int8 is not among them (docs/embeddings.md).
ALL = (
    Candidate("onnx", "fp32"),
    Candidate("openvino", "bf16"),
    Candidate("openvino", "fp32"),
    Candidate("torch", "bf16"),
    Candidate("torch", "fp32"),
)
BEFORE = ALL[0]
FP32 = tuple(one for one in ALL if one.precision == "fp32")

Open = Callable[[Candidate], Encoder]


@dataclass(frozen=True, slots=True)
class Trial:
    """What was measured, the encoders that are still loaded, and what they were compared with:
    the set `compared`, its vectors of `PROBES`."""

    measured: list[Measured]
    encoders: dict[Candidate, Encoder]
    compared: EmbeddingSet
    vectors: Vectors


def choose(files: ModelFiles, revision: str, config: EmbeddingsConfig) -> Encoder:
    """The engine that the configuration leaves open, loaded. Raises StartError, OSError."""
    open_ = opener(files, revision, config)
    file = ChoiceFile(config.state_dir, files, revision)
    known, damaged = file.read()
    if known is not None and admits(config, known.candidate):
        if (encoder := _known(known, open_)) is not None:
            return encoder
    elif known is None and not damaged and from_before(files, revision, config):
        try:
            return _from_before(file, open_)
        except MissingEngineError as error:
            log.warning("engine_gone", engine=BEFORE.engine, reason=str(error))
    trial = measure(candidates(config), open_)
    winner = pick(trial)
    file.write(decided(winner, trial))
    log.info(
        "engine_chosen",
        engine=winner.engine,
        precision=winner.precision,
        measured=[str(one) for one in trial.measured],
    )
    return trial.encoders[winner]


def remember(one: Candidate, encoder: Encoder, file: ChoiceFile) -> None:
    """Keep what the configuration names: its vectors are stored, so a later `auto` stays with it.

    Raises StartError where a pass fails.
    """
    known, _ = file.read()
    if known is None or known.candidate != one:
        _keep(file, Choice(one, "configured", reference_of(encoder, CHECKED), [], host()))


def _keep(file: ChoiceFile, choice: Choice) -> None:
    try:
        file.write(choice)
    except StartError as error:
        # Nothing depends on it until something else changes.
        log.warning("choice_not_kept", reason=str(error))


def opener(files: ModelFiles, revision: str, config: EmbeddingsConfig) -> Open:
    """`load` with all but the engine and the precision said."""
    return lambda one: load(files, revision, one.engine, one.precision, config)


def from_before(files: ModelFiles, revision: str, config: EmbeddingsConfig) -> bool:
    """Whether a state directory without a choice is of an installation that ran onnx in fp32."""
    return admits(config, BEFORE) and bool(kept_graphs(files, revision, config.state_dir))


def decided(winner: Candidate, trial: Trial) -> Choice:
    """What is kept of a trial."""
    return Choice(winner, "measured", trial.vectors[: len(CHECKED)], trial.measured, host())


def admits(config: EmbeddingsConfig, one: Candidate) -> bool:
    """Whether the configuration leaves `one` open."""
    return config.encoder in ("auto", one.engine) and config.precision in ("auto", one.precision)


def candidates(config: EmbeddingsConfig, *, torch: bool | None = None) -> list[Candidate]:
    """What is to be measured, the preferred first.

    `torch` is left out where there is no GPU unless it is asked for: on a processor it was never
    the fastest (`aistack models prepare` shows it), and its import alone takes seconds.
    """
    if torch is None:
        torch = config.encoder == "torch" or has_gpu()
    return [one for one in ALL if admits(config, one) and (torch or one.engine != "torch")]


def measure(
    wanted: Sequence[Candidate],
    open_: Open,
    *,
    references: Sequence[Candidate] = FP32,
    every: bool = False,
) -> Trial:
    """Load and measure what can be loaded; an engine's fp32 after its bf16 only with `every`.

    The first of `references` that is among them, else the first that can be loaded, gives the
    vectors to compare with. Raises the first StartError where nothing loads, and what may pass
    (OSError, MemoryError) at once.
    """
    encoders: dict[Candidate, Encoder] = {}
    errors: list[StartError] = []
    faults: dict[Candidate, str] = {}

    def try_to_open(one: Candidate) -> Encoder | None:
        try:
            return open_(one)
        except StartError as error:
            if isinstance(error.__cause__, (OSError, MemoryError)):
                raise
            errors.append(error)
            if not isinstance(error, MissingEngineError):
                faults[one] = str(error)
        return None

    for one in wanted:
        # Where a processor has instructions for bf16, fp32 of the same engine is never the faster.
        if not every and one.precision == "fp32" and Candidate(one.engine, "bf16") in encoders:
            continue
        if (encoder := try_to_open(one)) is not None:
            encoders[one] = encoder
    if not encoders:
        raise errors[0]
    loaded = [one for one in references if one in encoders]
    reference = encoders[loaded[0]] if loaded else None
    for one in references:
        reference = reference or try_to_open(one)
    if reference is None:
        raise errors[0]
    # Alone, what gives the vectors needs no comparison: eight are kept for later starts.
    alone = list(encoders.values()) == [reference]
    expected = reference_of(reference, CHECKED if alone else PROBES)
    cosines: dict[Candidate, float] = {}
    for one, encoder in list(encoders.items()):
        try:
            given = expected if encoder is reference else vectors_of(encoder, PROBES)
        except EncoderError as error:
            faults[one] = f"{error} ({error.__cause__})"
            del encoders[one]
            continue
        cosines[one] = mean_cosine(given, expected)
    # Alone there is nothing to compare.
    timed = speeds(list(encoders.values())) if len(encoders) > 1 else [None] * len(encoders)
    rates = dict(zip(encoders, timed, strict=True))
    measured = [
        Measured(one, cosines.get(one), rates.get(one), faults.get(one, ""))
        for one in wanted
        if one in encoders or one in faults
    ]
    return Trial(measured, encoders, reference.identity, expected)


def pick(trial: Trial) -> Candidate:
    """The fastest that is true to fp32. Raises StartError where none is."""
    best: Measured | None = None
    for one in trial.measured:
        # Written so that a NaN, which compares false, is left out.
        if one.cosine is None or not one.cosine >= LEAST_COSINE:
            continue
        if best is None or (one.rate or 0.0) > MARGIN * (best.rate or 0.0):
            best = one
    if best is None:
        told = "; ".join(str(one) for one in trial.measured)
        raise StartError(
            f"embeddings.encoder: no engine gives true vectors here ({told}): install another one"
            " with pip install 'aistack[onnx]', and set embeddings.precision to fp32"
        )
    return best.candidate


def reference_of(encoder: Encoder, texts: Sequence[str]) -> Vectors:
    """What others are to agree with. Raises StartError where a pass fails."""
    try:
        return vectors_of(encoder, texts)
    except EncoderError as error:
        one = encoder.identity
        raise StartError(
            f"embeddings.encoder: {one.engine} in {one.precision} cannot be used here"
            f" ({error.__cause__ or error}): set the key to another engine"
        ) from error


def holds(encoder: Encoder, reference: Vectors) -> bool:
    """Whether the encoder still gives the vectors of `CHECKED`."""
    try:
        given = vectors_of(encoder, CHECKED)
    except EncoderError:
        return False
    return given.shape == reference.shape and mean_cosine(given, reference) >= LEAST_COSINE


def _known(choice: Choice, open_: Open) -> Encoder | None:
    one = choice.candidate
    said = partial(log.warning, engine=one.engine, precision=one.precision)
    try:
        encoder = open_(one)
    except MissingEngineError as error:
        said("engine_gone", reason=str(error), action="measured anew")
        return None
    if not holds(encoder, choice.reference):
        said("engine_untrue", reason="other vectors than when chosen", action="measured anew")
        return None
    if changed := sorted(set(host()) ^ set(choice.host)):
        log.info("engine_kept", engine=one.engine, precision=one.precision, changed=changed)
    return encoder


def _from_before(file: ChoiceFile, open_: Open) -> Encoder:
    encoder = open_(BEFORE)
    _keep(file, Choice(BEFORE, "from before", reference_of(encoder, CHECKED), [], host()))
    log.info(
        "engine_kept",
        engine=BEFORE.engine,
        precision=BEFORE.precision,
        reason="its vectors are stored; `aistack models prepare --choose` measures all engines",
    )
    return encoder
