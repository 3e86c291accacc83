"""The command line and the certificate of a site on this machine."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from fix_cli import Ended

Cli = Callable[..., Ended]


class _Collections(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"data": []}'
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server with a certificate that nobody knows yet: its address and the certificate."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: no certificate can be made")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    command += f" -subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout {key}"
    subprocess.run([*command.split(), "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with HTTPServer(("127.0.0.1", 0), _Collections) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"https://localhost:{server.server_port}", certificate
        server.shutdown()
        thread.join()


def test_a_certificate_that_is_not_trusted_is_said(
    site: tuple[str, Path], aistack: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, certificate = site
    monkeypatch.setenv("AISTACK_API_KEY", "ais_x")
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    ended = aistack("collections", "list", "--url", address)
    assert ended.code == 3
    assert "is not trusted" in ended.err
    assert "SSL_CERT_FILE" in ended.err
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    ended = aistack("collections", "list", "--url", address)
    assert ended.code == 0, ended.err
