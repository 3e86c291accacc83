"""The default encoder of this machine against sentence-transformers in fp32, one thread each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from aistack.models import find_model
from bench.embeddings.bars import Figure
from bench.embeddings.machine import ENCODER_CORE, Way, in_turns, pinned
from bench.embeddings.raw import Raw
from bench.embeddings.texts import SHAPES, texts

BATCH = 32
COSINE_BAR = 0.999
#: Where the CPU computes bfloat16 by itself, and elsewhere.
BAR_BF16, BAR = 2.0, 1.15
BF16 = frozenset({"avx512_bf16", "amx_bf16"})
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def measure(state: Path, rounds: int) -> list[Figure]:
    """Texts of mixed lengths have the bar; the others are reported."""
    try:
        import torch
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise SystemExit(f"{error.name} is not installed: `make install-torch`") from error
    raw = Raw(state)
    identity = raw.encoder.identity
    with pinned(ENCODER_CORE):
        torch.set_num_threads(1)
        model = SentenceTransformer(str(find_model(None).directory), device="cpu")
    flags = cpu_flags()
    print(f"CPU: {flags}; default encoder: {identity.engine} {identity.precision}")
    figures: list[Figure] = []
    for shape in SHAPES:
        given = texts(shape)
        ours_: Callable[[], object] = partial(raw.cut, given, len(given))
        theirs_: Callable[[], object] = partial(model.encode, given, batch_size=BATCH)
        ways = {
            "ours": Way(ours_, len(given), ENCODER_CORE),
            "theirs": Way(theirs_, len(given), ENCODER_CORE),
        }
        rates = in_turns(ways, rounds)
        with pinned(ENCODER_CORE):
            theirs = model.encode(given, batch_size=BATCH, normalize_embeddings=True)
            ours = np.stack([raw.encoder.encode(raw.encoder.tokenize([one]))[0] for one in given])
        cosines = np.einsum("nd,nd->n", ours, theirs)
        barred = shape == "mixed"
        figures += [
            Figure(f"{shape}: {identity.engine} {identity.precision}",
                   rates.per_cpu_second("ours"), "texts/cpu-s"),
            Figure(f"{shape}: sentence-transformers fp32",
                   rates.per_cpu_second("theirs"), "texts/cpu-s"),
            Figure(f"{shape}: ratio", rates.ratio("ours", "theirs"),
                   at_least=bar(flags) if barred else None),
            Figure(f"{shape}: the same by CPU time", rates.cpu_ratio("ours", "theirs")),
            Figure(f"{shape}: mean cosine", float(cosines.mean()), at_least=COSINE_BAR,
                   note=f"least {cosines.min():.5f}"),
        ]  # fmt: skip
    return figures


def bar(flags: str) -> float:
    """What the default encoder must be worth on a CPU with these flags."""
    return BAR_BF16 if BF16 & set(flags.split()) else BAR


def cpu_flags() -> str:
    """The instruction sets of this machine's first core that matter here."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("flags"):
            have = set(line.partition(":")[2].split())
            return " ".join(flag for flag in FLAGS if flag in have) or "none of the known ones"
    return "unknown"
