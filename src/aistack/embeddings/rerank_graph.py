"""The ONNX graph of a BERT cross-encoder, made as that of an embedding model is:

    the inputs of an embedding model's graph, and token_type_ids (t,) int32
      -> embeddings -> N layers -> first token -> pooler (tanh) -> classifier
    logit  (n, 1) float32

The head is that of transformers' BertForSequenceClassification.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from aistack.embeddings.graph_builder import GraphBuilder
from aistack.embeddings.onnx_graph import kept, serialized
from aistack.embeddings.rerank_model import RerankFiles


def kept_classifier(files: RerankFiles, revision: str, state: Path) -> Path:
    """The graph's file in `state`, as `onnx_graph.kept`. Raises StartError."""
    return kept(files, revision, state, build_classifier)


def build_classifier(files: RerankFiles) -> bytes:
    """The serialised graph: the same bytes for the same files. Raises StartError."""
    return serialized(files, _Classifier, option="embeddings.rerank_encoder")


class _Classifier(GraphBuilder):
    """BertForSequenceClassification's head: pooler and one row of weights."""

    inputs: Mapping[str, Sequence[str]] = {**GraphBuilder.inputs, "token_type_ids": ["t"]}
    output = "logit"

    def _head(self, hidden: str) -> int:
        self._first(hidden, "first")
        self._linear("pooler.dense", "first", "pooler.sum")
        self._node("Tanh", ["pooler.sum"], ["pooled"], domain="")
        return self._linear("classifier", "pooled", self.output)

    def _linear(self, name: str, source: str, target: str) -> int:
        """`target` = `source` times the transposed weight plus the bias; the weight's rows."""
        weight = self._weight(f"{name}.weight")
        given = [source, self._constant(f"{name}.weight", weight), self._named(f"{name}.bias")]
        self._node("Gemm", given, [target], domain="", transB=1)
        return int(weight.shape[0])
