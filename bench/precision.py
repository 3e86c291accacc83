"""What each engine and precision costs in quality: nDCG@10 of the vectors alone on Cranfield.

    python -m bench.precision [DATA/cranfield] [--json FILE]

A document is one vector of its abstract, cut at the length that the model reads. `int8` is ONNX
Runtime's dynamic quantization of the kept graph (MatMul and Attention, per channel), which no
service offers: it is made here to show why. Speed is in texts per CPU second of one thread, in
batches of at most 512 padded tokens. The intervals are of the loss to fp32, by a paired bootstrap
over all questions.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aistack.config import EmbeddingsConfig
from aistack.embeddings.choice_file import Candidate
from aistack.embeddings.encoder import Encoder, Vectors
from aistack.embeddings.engines import load, open_model
from aistack.embeddings.onnx_graph import kept_graph
from aistack.embeddings.probes import vectors_of
from aistack.evaluation.metrics import ndcg
from aistack.models import ModelFiles
from aistack.service.errors import StartError
from bench.cranfield import Cranfield, read

MODES = (Candidate("onnx", "fp32"), Candidate("openvino", "fp32"), Candidate("openvino", "bf16"))
#: Loss of nDCG@10 on the even questions over which a precision is not offered.
MOST_LOSS = 0.005
RESAMPLES = 10_000


def int8(files: ModelFiles, revision: str, state: Path) -> Encoder:
    """The onnx engine over the quantized graph."""
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph, small = kept_graph(files, revision, state), state / "int8.model"
    quantize_dynamic(
        str(graph),
        str(small),
        per_channel=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Attention"],
        # Shape inference knows nothing of the fused operators, whose output is float (1).
        extra_options={"DefaultTensorType": 1},
    )
    encoder = load(files, revision, "onnx", "fp32", EmbeddingsConfig(state_dir=state))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    whole: Any = encoder
    whole._session = onnxruntime.InferenceSession(
        str(small), options, providers=["CPUExecutionProvider"]
    )
    whole.identity = replace(encoder.identity, precision="int8")
    return encoder


def scores(documents: Vectors, queries: Vectors, collection: Cranfield) -> NDArray[np.float64]:
    """nDCG@10 of each question, in the collection's order."""
    names = list(collection.documents)
    found = np.argsort(-(queries @ documents.T), axis=1, kind="stable")[:, :10]
    return np.array(
        [
            ndcg([names[i] for i in row], collection.gains[number])
            for row, number in zip(found, collection.queries, strict=True)
        ]
    )


def measure(encoder: Encoder, collection: Cranfield) -> tuple[Vectors, Vectors, float]:
    """The documents, the questions, and documents per CPU second."""
    began = time.process_time()
    documents = vectors_of(encoder, [text for _, text in collection.documents.values()])
    seconds = time.process_time() - began
    return (
        documents,
        vectors_of(encoder, list(collection.queries.values())),
        len(documents) / seconds,
    )


def loss_interval(loss: NDArray[np.float64]) -> tuple[float, float]:
    """Of the mean, 95%, by bootstrap with a fixed seed."""
    drawn = np.random.default_rng(0).integers(0, len(loss), (RESAMPLES, len(loss)))
    low, high = np.percentile(loss[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def run(collection: Cranfield, state: Path) -> list[dict[str, Any]]:
    """One row for each mode that this machine has; the others are compared with the first."""
    config = EmbeddingsConfig(state_dir=state)
    files, revision = open_model(config)
    encoders: list[Encoder] = []
    for mode in MODES:
        try:
            encoders.append(load(files, revision, *mode, config))
        except StartError as error:
            print(f"skipped: {mode}: {error}", file=sys.stderr)
    encoders.append(int8(files, revision, state))
    even = np.array([number % 2 == 0 for number in collection.queries])
    rows: list[dict[str, Any]] = []
    exact: tuple[Vectors, NDArray[np.float64]] | None = None
    for encoder in encoders:
        documents, queries, rate = measure(encoder, collection)
        ranked = scores(documents, queries, collection)
        exact = exact or (documents, ranked)
        cosines = np.einsum("nd,nd->n", documents, exact[0])
        loss = exact[1] - ranked
        rows.append(
            {
                "mode": f"{encoder.identity.engine} {encoder.identity.precision}",
                "even": float(ranked[even].mean()),
                "all": float(ranked.mean()),
                "loss_even": float(loss[even].mean()),
                "loss_interval": loss_interval(loss),
                "cosine": float(cosines.mean()),
                "least_cosine": float(cosines.min()),
                "texts_per_cpu_second": rate,
            }
        )
    return rows


def report(rows: Sequence[dict[str, Any]]) -> str:
    """The table."""
    lines = [f"{'':16}{'even':>8}{'all':>8}{'loss even':>11}{'95% of loss, all':>20}"]
    lines[0] += f"{'cosine':>9}{'least':>9}{'texts/cpu-s':>13}"
    for row in rows:
        low, high = row["loss_interval"]
        lines.append(
            f"{row['mode']:16}{row['even']:8.4f}{row['all']:8.4f}{row['loss_even']:11.4f}"
            f"{f'{low:+.4f} … {high:+.4f}':>20}{row['cosine']:9.5f}{row['least_cosine']:9.5f}"
            f"{row['texts_per_cpu_second']:13.1f}"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure and print. 1 when a precision that is offered loses too much."""
    parser = argparse.ArgumentParser(description=__doc__)
    data = Path(
        os.environ.get("AISTACK_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data"
    )
    parser.add_argument("directory", type=Path, nargs="?", default=data / "cranfield")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if not (given.directory / "cran.all.1400.xml").exists():
        print(
            "skipped: no Cranfield; name its directory, or set AISTACK_TEST_DATA", file=sys.stderr
        )
        return 0
    with tempfile.TemporaryDirectory(prefix="bp-") as state:
        rows = run(read(given.directory), Path(state))
    print(report(rows))
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    offered = [row for row in rows if not row["mode"].endswith("int8")]
    return int(any(row["loss_even"] > MOST_LOSS for row in offered))


if __name__ == "__main__":
    sys.exit(main())
