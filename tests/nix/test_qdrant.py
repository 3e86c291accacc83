"""Qdrant's configuration, and the two scripts around it. Qdrant itself cannot be had here."""

from __future__ import annotations

import http.server
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nix.hosts import BASE
from nix.toolchain import SYSTEM, Nix, NixError

ON = "services.aistack.qdrant.enable = true;"


def config(nix: Nix, module: str, expression: str) -> Any:
    """An expression over `c`, the configuration of a host with `module`."""
    host = nix.host(BASE, f"{{ {module} }}")
    scope = f"let c = {host}.config; pkgs = nixpkgs.legacyPackages.{SYSTEM}; in "
    return nix.eval_json(scope + expression)


def test_is_off_by_default(nix_tool: Nix) -> None:
    assert config(nix_tool, "", "c.services.qdrant.enable") is False
    assert config(nix_tool, "", 'c.systemd.units ? "aistack-qdrant-key.service"') is False


def test_listens_on_loopback_without_cors_or_telemetry(nix_tool: Nix) -> None:
    settings = config(nix_tool, ON, "c.services.qdrant.settings")
    assert settings["service"]["host"] == "127.0.0.1"
    assert settings["service"]["enable_cors"] is False
    assert settings["telemetry_disabled"] is True
    assert "api_key" not in settings["service"]


def test_settings_of_the_user_stand_over_ours(nix_tool: Nix) -> None:
    own = ON + "services.aistack.qdrant.settings.service.enable_cors = true;"
    assert config(nix_tool, own, "c.services.qdrant.settings.service.enable_cors") is True
    plain = ON + "services.qdrant.settings.service.enable_cors = true;"
    assert config(nix_tool, plain, "c.services.qdrant.settings.service.enable_cors") is True


def test_does_not_start_without_its_key(nix_tool: Nix) -> None:
    units = config(nix_tool, ON, "c.systemd.units")
    qdrant, key = units["qdrant.service"]["text"], units["aistack-qdrant-key.service"]["text"]
    # No "-" before the path: a missing file is a failed start, not an open Qdrant.
    assert "\nEnvironmentFile=/run/aistack-qdrant/environment\n" in qdrant
    assert re.search(r"^Requires=.*aistack-qdrant-key.service", qdrant, re.M)
    assert re.search(r"^After=.*aistack-qdrant-key.service", qdrant, re.M)
    assert "LoadCredential=key:/var/lib/aistack/secrets/qdrant-api-key" in key
    assert re.search(r"^Requires=.*aistack-secrets.service", key, re.M)
    assert "qdrant-api-key" in config(nix_tool, ON, "c.services.aistack.secrets.generate")


def test_given_key_is_used_and_watched(nix_tool: Nix) -> None:
    given = ON + 'services.aistack.qdrant.apiKeyFile = "/run/secrets/q";'
    key = config(nix_tool, given, 'c.systemd.units."aistack-qdrant-key.service".text')
    assert "LoadCredential=key:/run/secrets/q" in key
    assert "aistack-secrets.service" not in key
    assert "qdrant-api-key" not in config(nix_tool, given, "c.services.aistack.secrets.generate")
    watched = config(nix_tool, given, "c.services.aistack.secrets.watch.aistack-qdrant-key")
    assert watched == ["/run/secrets/q"]


def test_confinement_is_ours_and_upstreams(nix_tool: Nix) -> None:
    text = config(nix_tool, ON, 'c.systemd.units."qdrant.service".text')
    for line in (
        "DynamicUser=true", "ProtectProc=noaccess",  # upstream's
        "ProtectSystem=strict", "PrivateDevices=true", "PrivateUsers=true", "PrivateMounts=true",
        "MemoryDenyWriteExecute=true", "IPAddressDeny=any", "IPAddressAllow=localhost",
        "SystemCallErrorNumber=EPERM", "UMask=0077", "MemoryMax=4G",
    ):  # fmt: skip
        assert f"\n{line}\n" in text, line


def test_cluster_is_passed_through(nix_tool: Nix) -> None:
    module = (
        ON
        + """services.aistack.qdrant = {
      settings = { cluster = { enabled = true; p2p.port = 6335; }; service.host = "10.0.0.5"; };
      cluster.bootstrap = "http://10.0.0.4:6335"; };"""
    )
    assert config(nix_tool, module, "c.services.qdrant.settings.cluster") == {
        "enabled": True, "p2p": {"port": 6335},
    }  # fmt: skip
    text = config(nix_tool, module, 'c.systemd.units."qdrant.service".text')
    assert 'Environment="QDRANT_BOOTSTRAP=http://10.0.0.4:6335"' in text
    assert "QDRANT_URI" not in text
    assert "IPAddressDeny" not in text
    warnings = config(nix_tool, module, "c.warnings")
    assert any("without TLS" in warning for warning in warnings)


@pytest.mark.parametrize(
    ("module", "fix"),
    [
        ('services.aistack.qdrant.settings.service.api_key = "x";', "qdrant.apiKeyFile ="),
        ("services.aistack.qdrant.settings.cluster.enabled = true;", "cluster.uri ="),
        ('services.aistack.qdrant.cluster.uri = "http://a:6335";', "cluster.enabled = true"),
        ("services.aistack.qdrant.apiKeyFile = ./key;", "apiKeyFile"),
    ],
)
def test_wrong_configuration_says_what_to_write(nix_tool: Nix, module: str, fix: str) -> None:
    with pytest.raises(NixError, match=fix):
        config(nix_tool, ON + module, "c.system.build.toplevel.drvPath")


@pytest.mark.parametrize(
    ("content", "made"),
    [("aB9._~+/=-\n", "QDRANT__SERVICE__API_KEY=aB9._~+/=-\n"), ("", None), ("a b\n", None),
     ("two\nlines\n", None), ("$(id)\n", None)],
)  # fmt: skip
def test_key_script_writes_one_line_or_fails(
    nix_tool: Nix, tmp_path: Path, content: str, made: str | None
) -> None:
    script = config(nix_tool, ON, "c.systemd.services.aistack-qdrant-key.script")
    (tmp_path / "key").write_text(content)
    done = subprocess.run(
        ["bash", "-e", "-c", script], capture_output=True, text=True, check=False,
        env={**os.environ, "CREDENTIALS_DIRECTORY": str(tmp_path),
             "RUNTIME_DIRECTORY": str(tmp_path)},
    )  # fmt: skip
    written = tmp_path / "environment"
    if made is None:
        assert done.returncode == 1
        assert "not one line of letters" in done.stderr
        assert not written.exists()
    else:
        assert (done.returncode, written.read_text()) == (0, made)


@contextmanager
def answering(statuses: dict[str, list[int]]) -> Iterator[int]:
    """A server whose answers the test lists; the last one stays."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            left = statuses[self.path]
            self.send_response(left.pop(0) if len(left) > 1 else left[0])
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(("collections", "status"), [(401, 0), (403, 0), (200, 1)])
def test_active_means_ready_and_closed(nix_tool: Nix, collections: int, status: int) -> None:
    """ExecStartPost waits while Qdrant is not ready, and fails where it lets anybody in."""
    with answering({"/readyz": [503, 200], "/collections": [collections]}) as port:
        module = ON + f"services.aistack.qdrant.settings.service.http_port = {port};"
        script = config(
            nix_tool, module, "c.systemd.services.qdrant.serviceConfig.ExecStartPost.text"
        )
        script = re.sub(r"/nix/store/[^ ]*/bin/curl", "curl", script)
        done = subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, check=False, timeout=60
        )
    assert done.returncode == status, done.stderr
    if status:
        assert "answers 200 without a key" in done.stderr
