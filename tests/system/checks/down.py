"""While one service is away its routes answer 503 with Retry-After, and the others answer."""

from __future__ import annotations

from .client import CheckError, client, parser, run

#: A request of each service that needs no other of ours; `openai` is the shape of its errors.
ROUTES: dict[str, tuple[tuple[str, str, object, bool], ...]] = {
    "embeddings": (
        ("POST", "/v1/embeddings", {"model": "all-minilm-l6-v2", "input": "down"}, True),
        ("POST", "/embed", {"inputs": "down"}, False),
    ),
    "aidb": (
        ("GET", "/v1/collections", None, False),
        ("POST", "/v1/search", {"query": "down", "mode": "lexical"}, False),
    ),
    "coordinator": (("GET", "/v1/models", None, True),),
}


def check() -> str:
    """The routes of the one that is away, then of the others."""
    options = parser(__doc__)
    options.add_argument("--service", choices=sorted(ROUTES), required=True)
    asked = options.parse_args()
    stack = client(asked)
    for name, routes in ROUTES.items():
        for method, path, body, openai in routes:
            answer = stack.request(method, path, body)
            if name != asked.service:
                if answer.status != 200:
                    raise CheckError(f"{path} of {name} suffers from {asked.service}: {answer}")
                continue
            if answer.status != 503 or not answer.headers.get("retry-after", "").isdigit():
                raise CheckError(f"{path}: 503 with Retry-After was expected, it is {answer}")
            kind = answer.headers.get("content-type", "")
            if not openai and not kind.startswith("application/problem+json"):
                raise CheckError(f"{path}: {kind} is no problem document")
            if openai and "error" not in answer.json():
                raise CheckError(f"{path}: not OpenAI's shape: {answer}")
    return f"{asked.service} is away, the others answer"


if __name__ == "__main__":
    run(check)
