"""The curl commands in the API pages, one per operation. A test runs them as they stand."""

from __future__ import annotations

CHAT = """
curl "$AISTACK_URL/v1/chat/completions" \\
  -H "Authorization: Bearer $AISTACK_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{"model": "aistack", "messages": [{"role": "user", "content": "What is a tarn?"}]}'
"""

MODELS = """
curl "$AISTACK_URL/v1/models" -H "Authorization: Bearer $AISTACK_API_KEY"
"""
