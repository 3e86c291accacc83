"""Nobody gets in without a key, with a forged one, or with one that lacks the scope."""

from __future__ import annotations

from pathlib import Path

from .client import Answer, CheckError, client, parser, run

#: A well-formed request of each route prefix; whether its errors have OpenAI's shape.
GUARDED: tuple[tuple[str, str, object, bool], ...] = (
    ("POST", "/v1/embeddings", {"model": "all-minilm-l6-v2", "input": "x"}, True),
    ("POST", "/embed", {"inputs": "x"}, False),
    ("POST", "/v1/rerank", {"query": "x", "documents": ["y"]}, False),
    ("GET", "/v1/collections", None, False),
    ("GET", "/v1/documents", None, False),
    ("GET", "/v1/vectors", None, False),
    ("POST", "/v1/search", {"query": "x"}, False),
    ("POST", "/v1/chat/completions", {"model": "local", "messages": []}, True),
    ("GET", "/v1/models", None, True),
)
#: What only the machine itself may ask.
INSIDE = ("/metrics", "/readyz", "/livez")


def forged(key: str) -> str:
    """The key of the same id with another secret and a checksum that does not fit."""
    changed = "1" if key[-10] == "0" else "0"
    return key[:-10] + changed + key[-9:]


def shaped(answer: Answer, status: int, *, openai: bool, what: str) -> None:
    """An error of this status in its route's shape."""
    if answer.status != status:
        raise CheckError(f"{what}: {status} was expected, it is {answer}")
    kind = answer.headers.get("content-type", "")
    if openai:
        good = isinstance(answer.json().get("error"), dict)
    else:
        good = kind.startswith("application/problem+json") and answer.json()["status"] == status
    if not good:
        raise CheckError(f"{what}: not the shape of its route's errors: {kind} {answer}")


def check() -> str:
    """All guarded routes with all wrong keys."""
    options = parser(__doc__)
    options.add_argument("--narrow-key-file", type=Path, help="a key with the scope search alone")
    asked = options.parse_args()
    stack = client(asked)
    if not stack.key:
        raise CheckError("give --key-file")
    for method, path, body, openai in GUARDED:
        for what, key in (
            ("no key", ""),
            ("a word", "hello"),
            ("a forged key", forged(stack.key)),
            ("an unknown key", "ais_0000000000_" + "0" * 38),
        ):
            answer = stack.request(method, path, body, key=key)
            shaped(answer, 401, openai=openai, what=f"{method} {path} with {what}")
    if asked.narrow_key_file:
        narrow = asked.narrow_key_file.read_text(encoding="utf-8").strip()
        for method, path, body, openai in GUARDED:
            if path != "/v1/search":
                answer = stack.request(method, path, body, key=narrow)
                shaped(answer, 403, openai=openai, what=f"{method} {path} without the scope")
    for path in INSIDE:
        answer = stack.request("GET", path)
        if answer.status != 404:
            raise CheckError(f"{path} is there from outside: {answer}")
    return f"auth: {len(GUARDED)} routes guarded"


if __name__ == "__main__":
    run(check)
