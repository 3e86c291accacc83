"""The layers of a BERT encoder as ONNX, written node by node from its configuration and weights.

    n texts with t tokens in all, the longest with s (`packing`)
      -> embeddings -> N layers

The tokens of all texts stand in one row, and only within attention each text has its own, padded
to the longest: padding costs a quarter of what it costs where it goes through all layers, and texts
of different lengths may share a pass. Some operators are ONNX Runtime's own (com.microsoft), which
OpenVINO reads as well; all are exact (Gelu by erf), only the order of sums differs from PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

#: Raised when the graph changes: a graph kept by an older builder is then made anew.
BUILDER = 3
#: What every ONNX Runtime since 1.15 reads.
OPSET = 17
IR_VERSION = 8

Float = NDArray[np.float32]


class GraphFiles(Protocol):
    """What a graph is made from: a model directory that was read and found whole."""

    @property
    def directory(self) -> Path: ...

    @property
    def weights(self) -> Path: ...

    @property
    def architecture(self) -> Mapping[str, Any]: ...

    @property
    def settings(self) -> str: ...


class GraphBuilder:
    """The state of one build: nodes and initializers in the order in which they were made."""

    #: Inputs, int32, with their axes, and the output (n, columns) float32.
    inputs: Mapping[str, Sequence[str]] = {
        "input_ids": ["t"],
        "position_ids": ["t"],
        "attention_mask": ["n", "s"],
        "rows": ["n", "s"],
        "places": ["t"],
    }
    output: str

    def __init__(self, files: GraphFiles, weight: Any) -> None:
        self._config = files.architecture
        self._weight = weight
        self._nodes: list[NodeProto] = []
        self._initializers: list[Any] = []
        self._constants: set[str] = set()

    def _head(self, hidden: str) -> int:
        """Make `output` from the last layer (t, d); how many columns it has."""
        raise NotImplementedError

    def model(self) -> ModelProto:
        from onnx import TensorProto, helper

        hidden = self._embeddings()
        self._attention_bias()
        for layer in range(int(self._config["num_hidden_layers"])):
            hidden = self._layer(f"encoder.layer.{layer}", hidden)
        columns = self._head(hidden)
        given = [
            helper.make_tensor_value_info(name, TensorProto.INT32, axes)
            for name, axes in self.inputs.items()
        ]
        out = helper.make_tensor_value_info(self.output, TensorProto.FLOAT, ["n", columns])
        graph = helper.make_graph(self._nodes, "encoder", given, [out], self._initializers)
        return helper.make_model(
            graph,
            producer_name="aistack",
            producer_version=str(BUILDER),
            ir_version=IR_VERSION,
            opset_imports=[
                helper.make_opsetid("", OPSET),
                helper.make_opsetid("com.microsoft", 1),
            ],
        )

    def _embeddings(self) -> str:
        kinds = self._weight("embeddings.token_type_embeddings.weight")
        positions = self._weight("embeddings.position_embeddings.weight")
        words = self._look_up(
            "words", self._named("embeddings.word_embeddings.weight"), "input_ids"
        )
        if "token_type_ids" in self.inputs:
            table = self._constant("embeddings.token_type_embeddings.weight", kinds)
            typed = self._look_up("kinds", table, "token_type_ids")
            self._plain("Add", [words, typed], "words.typed")
            words = "words.typed"
        else:
            # All tokens have type 0: its vector joins the positions, and one look-up is saved.
            positions = positions + kinds[0]
        table = self._constant("embeddings.positions", positions)
        placed = self._look_up("positions", table, "position_ids")
        self._node(
            "SkipLayerNormalization",
            [
                words,
                placed,
                self._named("embeddings.LayerNorm.weight"),
                self._named("embeddings.LayerNorm.bias"),
            ],
            ["embedded"],
            epsilon=float(self._config["layer_norm_eps"]),
        )
        return "embedded"

    def _look_up(self, name: str, table: str, places: str) -> str:
        self._plain("Gather", [table, places], name, axis=0)
        return name

    def _attention_bias(self) -> None:
        from onnx import TensorProto

        # (n, 1, 1, s): 0 for what is a token, and enough below it for what is none.
        self._plain("Cast", ["attention_mask"], "mask", to=int(TensorProto.FLOAT))
        one = self._constant("mask.one", np.array(1, dtype=np.float32))
        far = self._constant("mask.far", np.array(-10000, dtype=np.float32))
        axes = self._constant("mask.axes", np.array([1, 2], dtype=np.int64))
        self._plain("Sub", [one, "mask"], "mask.none")
        self._plain("Mul", ["mask.none", far], "mask.bias")
        self._plain("Unsqueeze", ["mask.bias", axes], "bias")

    def _attention(self, name: str, hidden: str) -> str:
        """What each token (t, d) takes from the others of its text, which alone are padded here."""
        heads = int(self._config["num_attention_heads"])
        parts = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
        weights = [self._weight(f"{part}.weight").T for part in parts]
        biases = [self._weight(f"{part}.bias") for part in parts]
        width = weights[0].shape[1]
        # The queries are scaled here, once and for all.
        scale = np.float32((width // heads) ** -0.5)
        joint = np.concatenate([weights[0] * scale, *weights[1:]], axis=1)
        bias = np.concatenate([biases[0] * scale, *biases[1:]])
        weight = self._constant(f"{name}.qkv.weight", joint)
        given = [hidden, weight, self._constant(f"{name}.qkv.bias", bias)]
        self._plain("Gemm", given, f"{name}.qkv")
        self._plain("Gather", [f"{name}.qkv", "rows"], f"{name}.padded", axis=0)
        names = [f"{name}.{part}" for part in ("q", "k", "v")]
        self._node("Split", [f"{name}.padded"], names, domain="", axis=2)
        shape = self._shape("heads", [0, 0, heads, width // heads])
        for part, order in zip(names, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True):
            self._plain("Reshape", [part, shape], f"{part}.heads")
            self._plain("Transpose", [f"{part}.heads"], f"{part}.turned", perm=order)
        query, key, value = (f"{part}.turned" for part in names)
        self._plain("MatMul", [query, key], f"{name}.products")
        self._plain("Add", [f"{name}.products", "bias"], f"{name}.scores")
        self._plain("Softmax", [f"{name}.scores"], f"{name}.shares", axis=-1)
        self._plain("MatMul", [f"{name}.shares", value], f"{name}.taken")
        self._plain("Transpose", [f"{name}.taken"], f"{name}.beside", perm=[0, 2, 1, 3])
        self._plain(
            "Reshape", [f"{name}.beside", self._shape("places", [-1, width])], f"{name}.all"
        )
        self._plain("Gather", [f"{name}.all", "places"], f"{name}.context", axis=0)
        return f"{name}.context"

    def _shape(self, name: str, sizes: list[int]) -> str:
        return self._constant(f"shape.{name}", np.array(sizes, dtype=np.int64))

    def _layer(self, name: str, hidden: str) -> str:
        context = self._attention(name, hidden)
        attended = self._dense(f"{name}.attention.output.dense", context)
        middle = self._skip(f"{name}.attention.output", attended, hidden)
        wide = self._dense(f"{name}.intermediate.dense", middle)
        gelu_bias = self._named(f"{name}.intermediate.dense.bias")
        self._node("BiasGelu", [wide, gelu_bias], [f"{name}.gelu"])
        narrow = self._dense(f"{name}.output.dense", f"{name}.gelu")
        return self._skip(f"{name}.output", narrow, middle)

    def _dense(self, name: str, source: str) -> str:
        # Without its bias: the operator that follows adds it in the same sweep.
        weight = self._constant(f"{name}.weight", self._weight(f"{name}.weight").T)
        self._node("MatMul", [source, weight], [f"{name}.product"], domain="")
        return f"{name}.product"

    def _skip(self, name: str, source: str, residual: str) -> str:
        self._node(
            "SkipLayerNormalization",
            [
                source,
                residual,
                self._named(f"{name}.LayerNorm.weight"),
                self._named(f"{name}.LayerNorm.bias"),
                self._named(f"{name}.dense.bias"),
            ],
            [f"{name}.normed"],
            epsilon=float(self._config["layer_norm_eps"]),
        )
        return f"{name}.normed"

    def _first(self, hidden: str, target: str) -> None:
        """`target` (n, d): the first token of each text."""
        first = self._constant("rows.first", np.array(0, dtype=np.int64))
        self._plain("Gather", ["rows", first], f"{target}.rows", axis=1)
        self._plain("Gather", [hidden, f"{target}.rows"], target, axis=0)

    def _named(self, name: str) -> str:
        return self._constant(name, self._weight(name))

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        from onnx import numpy_helper

        if name in self._constants:
            return name
        self._constants.add(name)
        # ascontiguousarray makes a scalar a vector of one, and Gather would keep that axis.
        whole = np.ascontiguousarray(value).reshape(value.shape)
        self._initializers.append(numpy_helper.from_array(whole, name))
        return name

    def _plain(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        """A node of ONNX itself, with one output."""
        self._node(kind, inputs, [output], domain="", **attributes)

    def _node(
        self,
        kind: str,
        inputs: list[str],
        outputs: list[str],
        *,
        domain: str = "com.microsoft",
        **attributes: Any,
    ) -> None:
        from onnx import helper

        node = helper.make_node(
            kind, inputs, outputs, name=f"{outputs[0]}/{kind}", domain=domain, **attributes
        )
        self._nodes.append(node)
