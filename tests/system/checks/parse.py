"""Documents that are parsed in processes of their own become searchable, a hostile one too."""

from __future__ import annotations

import uuid

from .client import CheckError, client, parser, run
from .documents import wait_ready

#: The last one ends tree-sitter's grammar for Bash, in most processes.
DOCUMENTS = (
    ("page.html", "text/html", "<h1>Heron</h1><p>The heron of Ostmoor stands on one leg.</p>"),
    ("heron.py", "text/x-python", "def heron():\n    return 'Ostmoor'\n"),
    (
        "heron.sh",
        "text/x-sh",
        "]]func \u212c\U0005a34a\u2709\U000940ff${[[X\u0d56s\x17{\U0010b992\U0009e885a = bimpl A"
        " {<<-'E'\n[[\U000d4795\x13\u2934\u254f\U0001166btype heron\n",
    ),
)


def check() -> str:
    """Into a collection of its own, which it deletes."""
    options = parser(__doc__)
    stack = client(options.parse_args())
    collection = f"parse-{uuid.uuid4().hex[:8]}"
    stack.expect(201, "POST", "/v1/collections", {"name": collection})
    made = {}
    for source, kind, text in DOCUMENTS:
        body = {"collection": collection, "source": source, "content_type": kind, "text": text}
        made[source] = str(stack.expect(202, "POST", "/v1/documents", body)["id"])
    for source, identity in made.items():
        wait_ready(stack, source, identity, 60.0)
    body = {"query": "heron", "collection": collection, "mode": "lexical"}
    found = {hit["source"] for hit in stack.expect(200, "POST", "/v1/search", body)["hits"]}
    if found != set(made):
        raise CheckError(f"of {sorted(made)} only {sorted(found)} is found")
    answer = stack.request("DELETE", f"/v1/collections/{collection}")
    if answer.status not in {200, 202, 204}:
        raise CheckError(f"the collection was not deleted: {answer}")
    return f"parse: {len(made)} documents"


if __name__ == "__main__":
    run(check)
