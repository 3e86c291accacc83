"""Finds exactly what `store` put in: after a restart, an upgrade, a restore."""

from __future__ import annotations

import json
from pathlib import Path

from .client import CheckError, client, parser, run
from .documents import DOCUMENTS, find


def check() -> str:
    """The same documents and the same chunks."""
    options = parser(__doc__)
    options.add_argument("--collection", default="check-store")
    options.add_argument("--state", type=Path, required=True)
    asked = options.parse_args()
    stack = client(asked)
    state = json.loads(asked.state.read_text())
    for source, identity in state["documents"].items():
        found = stack.expect(200, "GET", f"/v1/documents/{identity}")
        if (found["source"], found["state"]) != (source, "ready"):
            raise CheckError(f"{source} is now {found['source']}, {found['state']}")
    for document in DOCUMENTS:
        chunk = find(stack, asked.collection, document)["chunk_id"]
        if chunk != state["chunks"][document.source]:
            raise CheckError(f"{document.source} is found as another chunk: {chunk}")
    return f"recalled {len(state['documents'])} documents"


if __name__ == "__main__":
    run(check)
