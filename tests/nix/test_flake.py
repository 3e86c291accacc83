"""The flake: its lock file, and what it offers to a user on both systems."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from nix.toolchain import ROOT, SYSTEM, Nix

SYSTEMS = ["aarch64-linux", "x86_64-linux"]
#: Checks of examples with CUDA, whose packages are not evaluated for every machine.
CUDA = {"example-server", "example-three-machines-gpu"}
LOCK = ROOT / "flake.lock"
#: Revision, hash and time of nixpkgs as two unrelated projects' flake.lock files have them
#: (nix-community/nixos-anywhere and MasterofNull/NixOS-Dev-Quick-Deploy). The hash can only be
#: checked by who fetches nixpkgs, so another revision takes two attestations too.
ATTESTED = {
    "8eeec934ae0dbeca3d7868c059568a65c08b2fc3": (
        "sha256-lDebytrYdd47IBLwvNOD+6AGeoqZ78CIKlp70hzW280=",
        1784011430,
    ),
}


def test_lock_has_the_shape_that_nix_writes() -> None:
    lock = json.loads(LOCK.read_text())
    assert set(lock) == {"nodes", "root", "version"}
    assert (lock["root"], lock["version"]) == ("root", 7)
    assert lock["nodes"]["root"] == {"inputs": {"nixpkgs": "nixpkgs"}}
    assert set(lock["nodes"]) == {"root", "nixpkgs"}
    locked = lock["nodes"]["nixpkgs"]["locked"]
    assert set(locked) == {"lastModified", "narHash", "owner", "repo", "rev", "type"}
    assert (locked["narHash"], locked["lastModified"]) == ATTESTED[locked["rev"]]
    assert LOCK.read_text() == json.dumps(lock, indent=2, sort_keys=True) + "\n"


def test_lock_says_what_the_inputs_say(nix_tool: Nix) -> None:
    inputs = nix_tool.eval_json('(import (root + "/flake.nix")).inputs')
    original = json.loads(LOCK.read_text())["nodes"]["nixpkgs"]["original"]
    url = f"{original['type']}:{original['owner']}/{original['repo']}/{original['ref']}"
    assert inputs == {"nixpkgs": {"url": url}}


def test_nix_takes_the_lock_as_it_is(nix_tool: Nix) -> None:
    # Without an override and offline: were the lock and flake.nix apart, Nix would want to fetch.
    with nix_tool.staged() as staged:
        said = nix_tool.run(
            "flake", "metadata", "--json", "--store", nix_tool.store, "--offline",
            "--no-update-lock-file", f"path:{staged}",
        )  # fmt: skip
    assert json.loads(said)["locks"] == json.loads(LOCK.read_text())


@pytest.mark.parametrize("lib", ["nix_tool", "real_lib_nix"])
def test_check_passes_on_both_systems(lib: str, request: pytest.FixtureRequest) -> None:
    nix: Nix = request.getfixturevalue(lib)
    nix.flake("flake check --no-build --all-systems", "#")


def test_outputs_for_each_system(nix_tool: Nix) -> None:
    shown = nix_tool.eval_json(
        "builtins.mapAttrs (_: builtins.mapAttrs (_: builtins.attrNames))"
        " { inherit (aistack) packages apps devShells checks; }"
    )
    for kind, systems in shown.items():
        assert sorted(systems) == SYSTEMS, kind
        assert set(systems["aarch64-linux"]) == set(systems["x86_64-linux"]) - CUDA, kind
    packages = set(shown["packages"][SYSTEM])
    models = {"all-minilm-l6-v2", "smollm2-135m-instruct"}
    assert packages == {"default", "aistack", "aistack-up", "procrastinate"} | models
    assert shown["apps"][SYSTEM] == ["default", "up"]
    assert {"format", "package", "procrastinate"} <= set(shown["checks"][SYSTEM])
    assert sorted(nix_tool.eval_json("builtins.attrNames aistack.formatter")) == SYSTEMS


def test_default_package_is_the_application(nix_tool: Nix) -> None:
    packages = f"aistack.packages.{SYSTEM}"
    assert nix_tool.eval_json(f"{packages}.default.drvPath == {packages}.aistack.drvPath") is True
    assert nix_tool.eval_json(f"{packages}.default.meta.mainProgram") == "aistack"


def test_module_is_one_path_for_every_system(nix_tool: Nix) -> None:
    # A path, so that importing it twice, under both names, is one module.
    assert nix_tool.eval_json("builtins.mapAttrs (_: toString) aistack.nixosModules") == {
        "aistack": str(ROOT / "nix" / "modules"),
        "default": str(ROOT / "nix" / "modules"),
    }
    host = nix_tool.host("aistack.nixosModules.aistack", "{ services.aistack.enable = true; }")
    assert nix_tool.eval_json(f"{host}.config.services.aistack.enable") is True


def test_examples_with_cuda_are_checked_where_cuda_is(nix_tool: Nix) -> None:
    found = nix_tool.eval_json("builtins.mapAttrs (_: builtins.attrNames) aistack.checks")
    assert set(found["x86_64-linux"]) >= CUDA
    assert not CUDA & set(found["aarch64-linux"])
    assert "example-laptop" in found["aarch64-linux"]


def test_module_needs_no_overlay(nix_tool: Nix) -> None:
    host = nix_tool.host("{ services.aistack.enable = true; }")
    assert nix_tool.eval_json("nixpkgs.legacyPackages ? aistack") is False
    assert (
        nix_tool.eval_json(
            f"{host}.config.services.aistack.package.drvPath"
            f" == aistack.packages.{SYSTEM}.aistack.drvPath"
        )
        is True
    )


def test_overlay_gives_the_same_packages(nix_tool: Nix) -> None:
    expression = f"""
      let
        before = nixpkgs.legacyPackages.{SYSTEM};
        after = before // {{ pythonPackagesExtensions = [ ]; }};
        added = aistack.overlays.default (after // added) after;
      in
      builtins.mapAttrs (_: package: package.drvPath)
        (builtins.removeAttrs added [ "pythonPackagesExtensions" ])
    """
    added = nix_tool.eval_json(expression)
    names = " ".join(added)
    own = nix_tool.eval_json(
        f"builtins.mapAttrs (_: package: package.drvPath)"
        f" {{ inherit (aistack.packages.{SYSTEM}) {names}; }}"
    )
    assert added == own
    assert "aistack" in added


def test_cuda_packages_are_apart(nix_tool: Nix) -> None:
    cuda = nix_tool.eval_json(
        f"map (package: package.pname) aistack.legacyPackages.{SYSTEM}.cuda.aistack.dependencies"
    )
    assert "torch" in cuda
    free = nix_tool.eval_json(
        f"map (package: package.pname) aistack.packages.{SYSTEM}.aistack.dependencies"
    )
    assert "torch" not in free


def test_app_starts_the_stack_with_its_servers_on_path(nix_tool: Nix) -> None:
    program = nix_tool.eval_json(f"aistack.apps.{SYSTEM}.default.program")
    package = f"aistack.packages.{SYSTEM}.aistack-up"
    assert program.endswith("/bin/aistack-up")
    text = nix_tool.eval_json(f"{package}.text")
    for server in ("postgresql", "valkey", "llama-cpp", "util-linux"):
        assert re.search(rf"PATH=.*-{server}\b", text), server
    assert re.search(r"^exec /nix/store/\S+/bin/aistack up \"\$@\"$", text, re.MULTILINE)


def test_flake_names_no_file_that_git_does_not_have() -> None:
    # In a flake only tracked files exist: one that is ignored would be missing for every user.
    named = set(re.findall(r"\./[\w./-]+", (ROOT / "flake.nix").read_text()))
    assert named
    assert not [path for path in named if not Path(ROOT / path).exists()]
