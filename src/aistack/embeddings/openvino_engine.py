"""The `openvino` engine: OpenVINO over the graph that `onnx_graph` makes. For CPUs. An extra."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

# Importing OpenVINO sends an event about its user and leaves an id in the home; where this package
# of its is not to be had it takes an empty one of its own (openvino/tools/ovc/telemetry_utils.py).
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import numpy as np  # noqa: E402
import openvino  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from aistack.embeddings.cut import Cost  # noqa: E402
from aistack.embeddings.encoder import (  # noqa: E402
    EncoderError,
    Ids,
    LoadedModel,
    Precision,
    Tokens,
    Vectors,
    normalized,
)
from aistack.embeddings.onnx_graph import kept_graph  # noqa: E402
from aistack.embeddings.packing import PADDING, pack  # noqa: E402
from aistack.models import ModelFiles  # noqa: E402
from aistack.service.errors import StartError  # noqa: E402

#: What OpenVINO calls each precision.
HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16"}
#: Kernels that are kept, each made for one shape of a batch; OpenVINO's own number is 5000.
COMPILED = 128
#: For `pack`: a pass of another shape than the one before costs up to 1 ms more, and OpenVINO keeps
#: up to .4 MB for each pair of n and s for ever, whatever COMPILED is: 630 MiB after 2,300 batches
#: of different shapes, and growing. So rounded it stood still at 405 MiB (bf16, all-MiniLM-L6-v2).
MULTIPLE = 8


class OpenvinoEncoder(LoadedModel):
    """BERT encoder in float32, or in bfloat16 with unit length made in float32.

    Safe for several threads: each has an inference request of its own, and there are as many
    streams as `lanes`, each with `threads` cores; further callers wait for a stream.
    """

    #: A pass costs 1.3 ms more than its tokens do at .063 ms each in bf16, 2.4 and .12 ms in fp32
    #: (AMD EPYC with AVX512-BF16, one thread): 20 tokens. After a pass of another shape it is 1 ms
    #: more.
    cost = Cost(20, PADDING)

    def __init__(
        self,
        files: ModelFiles,
        revision: str,
        *,
        precision: Precision,
        threads: int,
        lanes: int,
        state: Path,
    ) -> None:
        """Raises StartError, also where the processor has no instructions for `precision`."""
        super().__init__(files, revision, "openvino", precision)
        self._vocabulary = int(files.architecture["vocab_size"])
        graph = kept_graph(files, revision, state)
        core = openvino.Core()
        if precision == "bf16" and "BF16" not in core.get_property(
            "CPU", "OPTIMIZATION_CAPABILITIES"
        ):
            raise StartError(
                "embeddings.precision: this processor does not compute in bf16: set the key to fp32"
            )
        settings = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "INFERENCE_NUM_THREADS": threads * lanes,
            "NUM_STREAMS": lanes,
            # Bound to cores, the threads of two services would share one and leave another idle.
            "ENABLE_CPU_PINNING": False,
            "CPU_RUNTIME_CACHE_CAPACITY": COMPILED,
        }
        try:
            self._compiled = core.compile_model(core.read_model(str(graph)), "CPU", settings)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[-200:]
            raise StartError(
                f"{graph}: OpenVINO {openvino.__version__} cannot load the graph ({reason}): it"
                " needs memory that may be written and executed (MemoryDenyWriteExecute=false in"
                " its unit); or set embeddings.encoder to onnx"
            ) from error
        self._local = threading.local()

    def encode(self, batch: Sequence[Tokens]) -> Vectors:
        """(n, d) float32, unit length. Raises EncoderError."""
        if not batch:
            return self._nothing()
        packed = pack(batch, multiple=MULTIPLE)
        ids = packed["input_ids"]
        # OpenVINO does not check: it would answer with what lies beside the tables.
        if ids.min() < 0 or ids.max() >= self._vocabulary:
            raise EncoderError("the openvino engine was given an id that is not in the vocabulary")
        if max(map(len, batch)) > self.max_tokens:
            raise EncoderError("the openvino engine was given a text longer than the model reads")
        try:
            rows = self._run(packed)
        except (RuntimeError, MemoryError) as error:
            raise EncoderError("the openvino engine failed in a forward pass") from error
        return normalized(rows[: len(batch)])

    def _run(self, packed: Mapping[str, Ids]) -> NDArray[np.float32]:
        """The output, in memory that the next pass of this thread writes to."""
        request = self._request()
        for name, values in packed.items():
            # Given to `infer` they would be copied, which takes a fifth of a millisecond.
            request.set_tensor(name, openvino.Tensor(values, shared_memory=True))
        rows: NDArray[np.float32] = request.infer(share_outputs=True).to_tuple()[0]
        return rows

    def _request(self) -> openvino.InferRequest:
        request = getattr(self._local, "request", None)
        if request is None:
            request = self._local.request = self._compiled.create_infer_request()
        return request
