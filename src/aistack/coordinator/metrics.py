"""What the coordinator counts; labels are the two models and few fixed words."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

from aistack.service.metrics import SECONDS

TOKENS = Counter("aistack_chat_tokens_total", "Tokens of chats", ["model", "direction"])
FIRST_TOKEN = Histogram(
    "aistack_chat_first_token_seconds",
    "Seconds from the request to the first text of a streamed answer",
    ["model"],
    buckets=SECONDS,
)
ANSWERS = Counter(
    "aistack_chat_answers_total",
    "Answers by outcome: complete, not_in_documents, untraced, failed, abandoned",
    ["model", "outcome"],
)
GROUNDED = Histogram(
    "aistack_chat_grounded_ratio",
    "Share of an answer's claims that a retrieved passage supports",
    buckets=(0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0),
)
CITATIONS = Counter("aistack_chat_citations_total", "Citations given")
INEXACT = Counter(
    "aistack_chat_inexact_passages_total",
    "Hits whose text is not the span they name, and which are therefore never cited",
)
