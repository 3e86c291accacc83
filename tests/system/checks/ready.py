"""Polls until the stack answers a search, an embedding and the list of models."""

from __future__ import annotations

import http.client

from .client import Client, client, parser, run, until

NEEDED: tuple[tuple[str, str, object], ...] = (
    ("GET", "/v1/models", None),
    ("POST", "/v1/embeddings", {"model": "all-minilm-l6-v2", "input": "ready"}),
    ("GET", "/v1/collections", None),
    (
        "POST",
        "/v1/chat/completions",
        {"model": "local", "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]},
    ),
)


def check() -> str:
    """Every needed route, in turn."""
    options = parser(__doc__)
    options.add_argument("--timeout", type=float, default=120.0)
    asked = options.parse_args()
    stack = client(asked)
    for needed in NEEDED:
        poll(stack, needed, asked.timeout)
    return "ready"


def poll(stack: Client, needed: tuple[str, str, object], seconds: float) -> None:
    """Until it is answered with 200."""
    last = "not asked"

    def answered() -> bool:
        nonlocal last
        try:
            answer = stack.request(*needed)
        except (OSError, http.client.HTTPException) as error:
            last = f"{type(error).__name__}: {error}"
            return False
        last = str(answer)
        return answer.status == 200

    until(answered, seconds, lambda: f"{needed[1]}: {last}")


if __name__ == "__main__":
    run(check)
