"""`aistack` on the machine finds the stack for root and for others."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from nix.hosts import BASE
from nix.toolchain import Nix

SITE = '{ services.aistack.nginx.hostName = "ai.example.org"; }'
CERTIFICATE = "/var/lib/aistack-tls/certificate.pem"
NOBODY = 65534


@pytest.fixture
def script(nix_tool: Nix) -> str:
    """The command; in place of the program it shows its environment."""
    text: str = nix_tool.eval_json(
        f"let c = {nix_tool.host(BASE, SITE)}.config; in (builtins.head"
        ' (builtins.filter (p: p.name == "aistack") c.environment.systemPackages)).text'
    )
    start, _, program = text.rstrip().rpartition("exec ")
    assert program.endswith('/bin/aistack "$@"')
    return f"{start} /usr/bin/env"


def shown(script: str, user: int, **environment: str) -> dict[str, str]:
    """The variables of ours that the program gets."""
    if os.geteuid() not in {0, user}:
        pytest.skip("only root can be another user")
    done = subprocess.run(
        ["/bin/bash", "-c", script], env=environment, user=user, cwd="/",
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    lines = dict(line.split("=", 1) for line in done.stdout.splitlines())
    return {name: lines[name] for name in lines if name.startswith(("AISTACK", "SSL"))}


def test_root_has_the_keys_of_the_machine(script: str) -> None:
    assert shown(script, 0) == {
        "AISTACK_DATA_DIR": "/var/lib/aistack",
        "SSL_CERT_FILE": CERTIFICATE,
    }


def test_others_have_the_address(script: str) -> None:
    assert shown(script, NOBODY, HOME="/nowhere") == {
        "AISTACK_URL": "https://ai.example.org",
        "SSL_CERT_FILE": CERTIFICATE,
    }


def test_who_names_a_stack_is_left_alone(script: str) -> None:
    named = {"AISTACK_URL": "https://other.example.org"}
    assert shown(script, NOBODY, **named) == named
    assert shown(script, 0, **named) == named
    # One in the home, made by `aistack up`, where anybody may look.
    with tempfile.TemporaryDirectory() as home:
        own = Path(home) / "aistack/endpoint.json"
        own.parent.mkdir()
        own.touch()
        Path(home).chmod(0o755)
        assert "AISTACK_URL" not in shown(script, NOBODY, XDG_DATA_HOME=home)


@pytest.mark.parametrize(
    ("addresses", "reached"),
    [(None, True), ('[ "127.0.0.1" ]', True), ('[ "192.0.2.7" ]', False)],
)
def test_the_machine_knows_the_name_of_its_site(
    nix_tool: Nix, addresses: str | None, reached: bool
) -> None:
    more = f"services.aistack.nginx.listenAddresses = {addresses};" if addresses else ""
    hosts = nix_tool.eval_json(
        f"{nix_tool.host(BASE, SITE, '{ ' + more + ' }')}.config.networking.hosts"
    )
    assert ("ai.example.org" in hosts.get("127.0.0.1", [])) is reached


def test_no_dashboards_without_what_they_show(nix_tool: Nix) -> None:
    host = nix_tool.host(BASE, "{ services.aistack.prometheus.enable = false; }")
    assert nix_tool.eval_json(f"{host}.config.services.aistack.grafana.enable") is False
