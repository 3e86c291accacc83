"""The curl commands in the API pages, one per operation. A test runs them as they stand.

Those that show or delete one document find or make it first, so that each works when it is pasted
alone and none removes what somebody else put there.
"""

from __future__ import annotations

CREATE_COLLECTION = """
curl "$AISTACK_URL/v1/collections" \\
  -H "Authorization: Bearer $AISTACK_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{"name": "notes", "description": "What I wrote down"}'
"""

LIST_COLLECTIONS = """
curl "$AISTACK_URL/v1/collections" -H "Authorization: Bearer $AISTACK_API_KEY"
"""

GET_COLLECTION = """
curl "$AISTACK_URL/v1/collections/default" -H "Authorization: Bearer $AISTACK_API_KEY"
"""

UPDATE_COLLECTION = """
curl -s -o /dev/null "$AISTACK_URL/v1/collections" \\
  -H "Authorization: Bearer $AISTACK_API_KEY" \\
  -H "Content-Type: application/json" \\
  --data '{"name": "notes"}'
curl -X PATCH "$AISTACK_URL/v1/collections/notes" \\
  -H "Authorization: Bearer $AISTACK_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{"settings": {"fusion": "dbsf", "collapse": "near"}}'
"""

DELETE_COLLECTION = """
curl "$AISTACK_URL/v1/collections" \\
  -H "Authorization: Bearer $AISTACK_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{"name": "thrown-away"}'
curl -X DELETE "$AISTACK_URL/v1/collections/thrown-away" \\
  -H "Authorization: Bearer $AISTACK_API_KEY"
"""

CREATE_DOCUMENT = """
curl "$AISTACK_URL/v1/documents" \\
  -H "Authorization: Bearer $AISTACK_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{"source": "notes/tarn.md", "content_type": "text/markdown",
       "text": "# Tarns\\n\\nA tarn is a small lake in the mountains.", "metadata": {"year": 2026}}'
"""

LIST_DOCUMENTS = """
curl "$AISTACK_URL/v1/documents?limit=10" -H "Authorization: Bearer $AISTACK_API_KEY"
"""

_NEWEST_READY = """
DOCUMENT_ID=$(curl -s "$AISTACK_URL/v1/documents?state=ready&limit=1" \\
  -H "Authorization: Bearer $AISTACK_API_KEY" | sed 's/.*"data":\\[{"id":"\\([^"]*\\)".*/\\1/')
"""

GET_DOCUMENT = f"""{_NEWEST_READY}
curl "$AISTACK_URL/v1/documents/$DOCUMENT_ID" -H "Authorization: Bearer $AISTACK_API_KEY"
""".replace("\n\n", "\n")

GET_TEXT = f"""{_NEWEST_READY}
curl "$AISTACK_URL/v1/documents/$DOCUMENT_ID/text" -H "Authorization: Bearer $AISTACK_API_KEY"
""".replace("\n\n", "\n")

RETRY_DOCUMENTS = """
curl "$AISTACK_URL/v1/documents/retry" \\
  -H "Authorization: Bearer $AISTACK_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{"collection": "default"}'
"""

RETRY_DOCUMENT = """
DOCUMENT_ID=$(curl -s "$AISTACK_URL/v1/documents" \\
  -H "Authorization: Bearer $AISTACK_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{"source": "without-text.html", "content_type": "text/html", "text": "<p></p>"}' \\
  | sed 's/{"id":"\\([^"]*\\)".*/\\1/')
until curl -s "$AISTACK_URL/v1/documents/$DOCUMENT_ID" \\
  -H "Authorization: Bearer $AISTACK_API_KEY" | grep -q '"state":"failed"'; do sleep 1; done
curl -X POST "$AISTACK_URL/v1/documents/$DOCUMENT_ID/retry" \\
  -H "Authorization: Bearer $AISTACK_API_KEY"
"""

DELETE_DOCUMENT = """
DOCUMENT_ID=$(curl -s "$AISTACK_URL/v1/documents" \\
  -H "Authorization: Bearer $AISTACK_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{"source": "thrown-away.txt", "text": "Not for long."}' \\
  | sed 's/{"id":"\\([^"]*\\)".*/\\1/')
curl -X DELETE "$AISTACK_URL/v1/documents/$DOCUMENT_ID" \\
  -H "Authorization: Bearer $AISTACK_API_KEY"
"""

SEARCH = """
curl "$AISTACK_URL/v1/search" \\
  -H "Authorization: Bearer $AISTACK_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{"query": "a small lake in the mountains", "limit": 3}'
"""

GET_VECTORS = """
curl "$AISTACK_URL/v1/vectors" -H "Authorization: Bearer $AISTACK_API_KEY"
"""

RECONCILE_VECTORS = """
curl -X POST "$AISTACK_URL/v1/vectors/reconcile" -H "Authorization: Bearer $AISTACK_API_KEY"
"""

REBUILD_VECTORS = """
curl -X POST "$AISTACK_URL/v1/vectors/rebuild" -H "Authorization: Bearer $AISTACK_API_KEY"
"""
