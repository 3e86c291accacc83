"""The examples: each evaluates as a whole host, and is what it says it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nix.toolchain import ROOT, SYSTEM, Nix

FOLDER = ROOT / "nix" / "examples"
#: As `nix/examples/default.nix` lists them.
EXAMPLES = {
    "laptop": "laptop.nix",
    "server": "server.nix",
    "external": "external.nix",
    "three-machines-front": "three-machines/front.nix",
    "three-machines-data": "three-machines/data.nix",
    "three-machines-gpu": "three-machines/gpu.nix",
}
#: What a host has beside its example: it is a container, so that it needs no disks.
HOST = '{ boot.isContainer = true; system.stateVersion = "26.05"; }'

#: The options of sops-nix (modules/sops/default.nix) and agenix (modules/age.nix) that the examples
#: set, with where each puts its files.
PROVIDERS = {
    "sops": """
      ({ lib, ... }: {
        options.sops.defaultSopsFile = lib.mkOption { type = lib.types.path; };
        options.sops.secrets = lib.mkOption {
          type = lib.types.attrsOf (lib.types.submodule ({ name, ... }: {
            options.path = lib.mkOption { type = lib.types.str; default = "/run/secrets/${name}"; };
          }));
        };
      })
    """,
    "agenix": """
      ({ lib, ... }: {
        options.age.secrets = lib.mkOption {
          type = lib.types.attrsOf (lib.types.submodule ({ name, ... }: {
            options.file = lib.mkOption { type = lib.types.path; };
            options.path = lib.mkOption { type = lib.types.str; default = "/run/agenix/${name}"; };
          }));
        };
      })
    """,
}


def config(nix: Nix, example: str, *more: str) -> str:
    """An expression: the configuration of a host made of an example."""
    return f"{nix.host(HOST, FOLDER / example, *more)}.config"


def units(nix: Nix, example: str) -> set[str]:
    """Names of the services that a host made of an example has."""
    return set(nix.eval_json(f"builtins.attrNames {config(nix, example)}.systemd.services"))


def test_every_file_is_an_example_or_part_of_one() -> None:
    files = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.nix")}
    providers = {f"{name}.nix" for name in PROVIDERS}
    assert files == set(EXAMPLES.values()) | providers | {
        "default.nix",
        "three-machines/common.nix",
    }


def test_the_flake_checks_every_example(nix_tool: Nix) -> None:
    checks = set(nix_tool.eval_json(f"builtins.attrNames aistack.checks.{SYSTEM}"))
    assert {f"example-{name}" for name in EXAMPLES} <= checks


@pytest.mark.parametrize("release", ["26.05", "26.11"])
@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_evaluates(nix_tool: Nix, example: str, release: str) -> None:
    nix = replace(nix_tool, release=release)
    top = nix.eval_json(f"{config(nix, example)}.system.build.toplevel.drvPath")
    assert top.endswith(".drv")


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_nixpkgs_own_lib_gives_the_same_system(
    nix_tool: Nix, real_lib_nix: Nix, example: str
) -> None:
    own, real = (
        nix.eval_json(f"{config(nix, example)}.system.build.toplevel.drvPath")
        for nix in (nix_tool, real_lib_nix)
    )
    assert own == real


@pytest.mark.parametrize("provider", PROVIDERS)
def test_secrets_of_a_provider_reach_the_units_as_credentials(nix_tool: Nix, provider: str) -> None:
    of = config(nix_tool, f"{provider}.nix", PROVIDERS[provider])
    assert nix_tool.eval_json(f"{of}.system.build.toplevel.drvPath").endswith(".drv")
    loaded = nix_tool.eval_json(f"{of}.systemd.services.aistack-aidb.serviceConfig.LoadCredential")
    directory = {"sops": "/run/secrets", "agenix": "/run/agenix"}[provider]
    sources = {line.partition(":")[2] for line in loaded}
    assert {f"{directory}/aistack-pepper", f"{directory}/aistack-postgres"} <= sources


def test_laptop_is_complete_and_closed(nix_tool: Nix) -> None:
    services = units(nix_tool, "laptop.nix")
    assert {
        *("aistack-embeddings", "aistack-aidb", "aistack-coordinator", "aistack-llama-chat"),
        *("postgresql", "redis-aistack", "nginx", "prometheus", "grafana"),
    } <= services
    of = config(nix_tool, "laptop.nix")
    assert nix_tool.eval_json(f"{of}.networking.firewall.allowedTCPPorts") == []
    assert nix_tool.eval_json(f"{of}.services.aistack.llama.acceleration") == "vulkan"


def test_server_computes_with_cuda_and_is_open(nix_tool: Nix) -> None:
    of = config(nix_tool, "server.nix")
    assert nix_tool.eval_json(f"{of}.networking.firewall.allowedTCPPorts") == [80, 443]
    assert nix_tool.eval_json(f"{of}.services.aistack.llama.acceleration") == "cuda"
    dependencies = nix_tool.eval_json(
        f"map (package: package.pname) {of}.services.aistack.package.dependencies"
    )
    assert "torch" in dependencies
    assert nix_tool.eval_json(f'{of}.security.acme.certs ? "ai.example.org"') is True


def test_external_runs_nothing_but_the_services_and_nginx(nix_tool: Nix) -> None:
    services = units(nix_tool, "external.nix")
    assert not services & {
        *("postgresql", "redis-aistack", "aistack-llama-chat", "prometheus", "grafana"),
    }
    assert {"aistack-aidb", "aistack-coordinator", "aistack-embeddings", "nginx"} <= services


ROLES: dict[str, dict[str, Any]] = {
    "front": {
        "has": {"aistack-coordinator", "nginx", "prometheus"},
        "lacks": {"aistack-aidb", "aistack-embeddings", "postgresql", "aistack-llama-chat"},
    },
    "data": {
        "has": {"aistack-aidb", "aistack-embeddings", "postgresql", "redis-aistack", "nginx"},
        "lacks": {"aistack-coordinator", "aistack-llama-chat", "prometheus"},
    },
    "gpu": {
        "has": {"aistack-embeddings", "aistack-llama-chat", "redis-aistack", "nginx"},
        "lacks": {"aistack-coordinator", "aistack-aidb", "postgresql", "prometheus"},
    },
}


@pytest.mark.parametrize("machine", ROLES)
def test_each_of_three_machines_runs_its_roles(nix_tool: Nix, machine: str) -> None:
    services = units(nix_tool, f"three-machines/{machine}.nix")
    assert services >= ROLES[machine]["has"]
    assert not services & ROLES[machine]["lacks"]


@pytest.mark.parametrize("example", [*EXAMPLES.values(), "sops.nix", "agenix.nix"])
def test_no_example_puts_a_secret_where_the_store_would_have_it(example: str) -> None:
    # Every file option names a path outside the store, as a string.
    for line in (FOLDER / example).read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and name.strip().endswith(("File", "certificateKey", "authority")):
            allowed = ('"/run/', '"/var/', "config.sops", "config.age", "./secrets.yaml")
            assert value.strip().startswith(allowed), line


PAGES = ("install-nixos", "nixos-settings")


def test_the_documentation_shows_the_examples() -> None:
    page = "".join((ROOT / "docs" / f"{name}.md").read_text() for name in PAGES)
    for example in ("laptop", "server", "external", "sops", "agenix"):
        text = Path(FOLDER / f"{example}.nix").read_text()
        assert f"```nix\n{text}```" in page, f"none of {PAGES} shows nix/examples/{example}.nix"
