"""What the reranker counts, apart from what the encoder counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from aistack.service.metrics import SECONDS

PAIRS = Counter("aistack_rerank_pairs_total", "Pairs of a query and a document that were scored")
TOKENS = Counter("aistack_rerank_tokens_total", "Tokens of the pairs that were scored")
PADDED = Counter("aistack_rerank_padded_tokens_total", "Tokens of all passes with padding")
TRUNCATED = Counter("aistack_rerank_truncated_total", "Documents cut at the model's length")
PASSES = Counter("aistack_rerank_passes_total", "Forward passes", ["outcome"])
PASS_SECONDS = Histogram(
    "aistack_rerank_pass_seconds", "Seconds of one forward pass", buckets=SECONDS
)
PHASE_SECONDS = Histogram(
    "aistack_rerank_phase_seconds",
    "Seconds that the pairs of a request spent in a phase: tokenize, queue, encode",
    ["phase"],
    buckets=SECONDS,
)
QUEUE = Gauge("aistack_rerank_queue_pairs", "Pairs that wait for the cross-encoder")
LANES = Gauge("aistack_rerank_lanes", "Lanes (cross-encoder threads) that run")
MODEL = Gauge(
    "aistack_rerank_model_info",
    "1; the labels say what is loaded",
    ["model", "revision", "engine"],
)
