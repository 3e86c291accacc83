"""Puts documents in and writes down what must be found later (see `recall`)."""

from __future__ import annotations

import json
from pathlib import Path

from .client import client, parser, run
from .documents import DOCUMENTS, find, put


def check() -> str:
    """Upload, search, write."""
    options = parser(__doc__)
    options.add_argument("--collection", default="check-store")
    options.add_argument("--state", type=Path, required=True)
    asked = options.parse_args()
    stack = client(asked)
    identities = put(stack, asked.collection)
    chunks = {one.source: find(stack, asked.collection, one)["chunk_id"] for one in DOCUMENTS}
    asked.state.write_text(json.dumps({"documents": identities, "chunks": chunks}))
    return f"stored {len(identities)} documents"


if __name__ == "__main__":
    run(check)
