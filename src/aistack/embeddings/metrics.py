"""What the embeddings service counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from aistack.service.metrics import SECONDS

TEXTS = Counter(
    "aistack_embeddings_texts_total",
    "Texts answered, by where the vector came from: encoded, cache, or joined to an equal text",
    ["source"],
)
TOKENS = Counter("aistack_embeddings_tokens_total", "Tokens that were encoded")
PADDED = Counter("aistack_embeddings_padded_tokens_total", "Tokens of all passes with padding")
TRUNCATED = Counter("aistack_embeddings_truncated_total", "Texts cut at the model's length")
PASSES = Counter("aistack_embeddings_passes_total", "Forward passes", ["outcome"])
PASS_SECONDS = Histogram(
    "aistack_embeddings_pass_seconds", "Seconds of one forward pass", buckets=SECONDS
)
PASS_TEXTS = Histogram(
    "aistack_embeddings_pass_texts",
    "Texts of one forward pass",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
)
PHASE_SECONDS = Histogram(
    "aistack_embeddings_phase_seconds",
    "Seconds that the texts of a request spent in a phase: cache, tokenize, queue, encode",
    ["phase"],
    buckets=SECONDS,
)
QUEUE = Gauge("aistack_embeddings_queue_texts", "Texts that wait for the encoder")
LANES = Gauge("aistack_embeddings_lanes", "Lanes (encoder threads) that run")
CACHE = Counter(
    "aistack_embeddings_cache_total",
    "Look-ups of the vector cache: hit, miss, corrupt, or error (not reachable)",
    ["outcome"],
)
CACHE_WRITES = Counter(
    "aistack_embeddings_cache_writes_total", "Vectors stored, or not: ok, error", ["outcome"]
)
MODEL = Gauge(
    "aistack_embeddings_model_info",
    "1; the labels say what is loaded",
    ["model", "revision", "engine", "precision", "dimension"],
)
