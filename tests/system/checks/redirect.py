"""Plain HTTP leads to HTTPS with the host, the path and the query as they were."""

from __future__ import annotations

import http.client
from urllib.parse import urlsplit

from .client import CheckError, parser, run


def check() -> str:
    """One request for each way to write the host."""
    options = parser(__doc__)
    options.add_argument("--http-port", type=int, default=80)
    asked = options.parse_args()
    parts = urlsplit(asked.base_url)
    host, port = parts.hostname or "", parts.port or 443
    wanted = f"https://{host}" if port == 443 else f"https://{host}:{port}"
    shown = host if asked.http_port == 80 else f"{host}:{asked.http_port}"
    for path in ("/v1/models", "/v1/documents?limit=3&cursor=a%2Fb"):
        connection = http.client.HTTPConnection(host, asked.http_port, timeout=30)
        connection.request("GET", path, headers={"host": shown})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        location = answer.getheader("location", "")
        if answer.status not in {301, 308} or location != wanted + path:
            raise CheckError(f"http://{shown}{path} gives {answer.status} to {location!r}")
    return "redirect: host, port and query kept"


if __name__ == "__main__":
    run(check)
