"""The stand-in for nixpkgs is strict, and its `lib` does what nixpkgs' own does."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nix.rendering import hosts
from nix.toolchain import ROOT, STAND_IN, Nix, NixError

CONFORMANCE = Path(__file__).parent / "data" / "conformance.nix"


def nix_files() -> list[Path]:
    """Every Nix file that git tracks or would track."""
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "*.nix"],
        check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    return sorted({ROOT / name for name in listed if (ROOT / name).exists()})


def test_every_nix_file_parses(nix_tool: Nix) -> None:
    files = nix_files()
    assert len(files) > 60
    nix_tool.parse(files)


def test_the_parser_finds_an_unbound_variable(nix_tool: Nix, tmp_path: Path) -> None:
    broken = tmp_path / "broken.nix"
    broken.write_text("{ a = notBound; }\n")
    with pytest.raises(NixError, match="notBound"):
        nix_tool.parse([broken])


def cases(tool: Nix) -> dict[str, Any]:
    """The answers of a lib to the conformance cases."""
    answers = tool.eval_json(f"import {CONFORMANCE} {{ inherit (nixpkgs) lib; }}")
    assert isinstance(answers, dict)
    return answers


def test_the_small_lib_answers_as_nixpkgs_own(nix_tool: Nix, real_lib_nix: Nix) -> None:
    ours, real = cases(nix_tool), cases(real_lib_nix)
    assert {name: (ours[name], real[name]) for name in real if ours[name] != real[name]} == {}


def test_the_small_lib_answers_as_before(nix_tool: Nix) -> None:
    """Where nixpkgs' lib is not at hand: the answers that both gave when they were compared."""
    golden = json.loads(CONFORMANCE.with_suffix(".json").read_text())
    assert cases(nix_tool) == golden


@pytest.mark.parametrize(
    "name", [*(f"{case}" for case in ("guest", "laptop", "server", "external")), "three-machines"]
)
def test_hosts_are_the_same_derivation_on_both_libs(
    nix_tool: Nix, real_lib_nix: Nix, name: str
) -> None:
    chosen = {n: m for n, m in hosts(nix_tool).items() if n == name or n.startswith(f"{name}-")}
    assert chosen
    for module in chosen.values():
        expression = f"{nix_tool.host(module)}.config.system.build.toplevel.drvPath"
        assert nix_tool.eval_raw(expression) == real_lib_nix.eval_raw(expression)


#: A setting that upstream has not, and the option's name as the message must say it.
MISSPELT = {
    "services.postgresql.ensureDatabase": '[ "x" ]',
    "services.redis.servers.a.unixSocketPermission": "660",
    "services.nginx.recommendedProxySetting": "true",
    "services.nginx.virtualHosts.a.forceSsl": "true",
    "services.nginx.virtualHosts.a.locations./.proxypass": '"http://x"',
    "services.prometheus.scrapeConfig": "[ ]",
    "services.prometheus.exporters.node.listen": '"127.0.0.1"',
    "services.grafana.provision.datasource": "{ }",
    "services.qdrant.setting": "{ }",
    "systemd.services.a.wantsBy": "[ ]",
    "systemd.sockets.a.listenStream": "[ ]",
    "users.users.a.extraGroup": "[ ]",
    "networking.firewall.allowedTCPPort": "[ 1 ]",
    "security.acme.default.email": '"a@b"',
    "services.llama-cpp.settings": "{ }",
}


@pytest.mark.parametrize("name", sorted(MISSPELT))
def test_an_option_that_nixos_has_not_is_refused(nix_tool: Nix, name: str) -> None:
    path = " ".join(f'"{part}"' for part in name.split("."))
    module = f"({{ lib, ... }}: lib.setAttrByPath [ {path} ] ({MISSPELT[name]}))"
    with pytest.raises(NixError) as refusal:
        nix_tool.eval_raw(forced(module, name))
    assert "does not exist" in str(refusal.value)
    assert name.rpartition(".")[2] in str(refusal.value)


WRONG_TYPE = {
    "services.postgresql.ensureDatabases": '"x"',
    "services.redis.servers.a.port": '"6379"',
    "services.redis.servers.a.unixSocketPerm": '"0660"',
    "services.nginx.clientMaxBodySize": "10",
    "services.nginx.virtualHosts.a.locations./.priority": '"first"',
    "services.prometheus.listenAddress": "null",
    "services.prometheus.rules": "[ { groups = [ ]; } ]",
    "systemd.services.a.after": '"network.target"',
    "systemd.services.a.environment": "{ PORT = 80; }",
    "networking.hostName": '"a.b"',
    "networking.firewall.allowedTCPPorts": "[ 65536 ]",
    "environment.systemPackages": '[ "curl" ]',
}


@pytest.mark.parametrize("name", sorted(WRONG_TYPE))
def test_a_value_of_the_wrong_type_is_refused(nix_tool: Nix, name: str) -> None:
    path = " ".join(f'"{part}"' for part in name.split("."))
    module = f"({{ lib, ... }}: lib.setAttrByPath [ {path} ] ({WRONG_TYPE[name]}))"
    with pytest.raises(NixError) as refusal:
        nix_tool.eval_raw(forced(module, name))
    assert "is not of type" in str(refusal.value)
    assert name.rpartition(".")[2] in str(refusal.value)


def forced(module: str, name: str) -> str:
    """An expression that reads an option of a host without our module, whole."""
    parts = name.split(".")
    # What is below a name of the user's own is read through its parent.
    path = ".".join(f'"{part}"' for part in parts[: 4 if parts[-1] in ("virtualHosts",) else 3])
    return (
        '(let host = nixpkgs.lib.nixosSystem { system = "x86_64-linux";'
        f" modules = [ {module} ]; }};"
        f' in builtins.seq host.config builtins.deepSeq host.config.{path} "read")'
    )


@pytest.mark.parametrize(
    ("package", "message"),
    [
        ("pkgs.postgresqll", "postgresqll"),
        ("pkgs.python3Packages.fast-api", "fast-api"),
        ("pkgs.postgresql18Packages.pg_vector", "pg_vector"),
        ("pkgs.aistack", "aistack"),
    ],
)
def test_a_package_that_nixpkgs_has_not_is_refused(
    nix_tool: Nix, package: str, message: str
) -> None:
    with pytest.raises(NixError, match=f"'{message}' missing"):
        nix_tool.eval_raw(f"let pkgs = nixpkgs.legacyPackages.x86_64-linux; in {package}.name")


def test_an_unfree_package_is_refused_until_it_is_allowed(nix_tool: Nix) -> None:
    expression = '(import nixpkgs {{ system = "x86_64-linux"; config = {}; }}).open-webui.outPath'
    with pytest.raises(NixError, match="unfree"):
        nix_tool.eval_raw(expression.format("{ }"))
    allowed = '{ allowUnfreePredicate = package: nixpkgs.lib.getName package == "open-webui"; }'
    assert "open-webui" in nix_tool.eval_raw(expression.format(allowed))


def test_the_releases_differ_in_the_options_of_llama_cpp(nix_tool: Nix) -> None:
    host = "(nixpkgs.lib.nixosSystem { modules = [ ]; }).options.services.llama-cpp"
    newer = replace(nix_tool, release="26.11")
    assert nix_tool.eval_json(f"{host} ? settings") is False
    assert newer.eval_json(f"{host} ? settings") is True
    removed = (
        "(nixpkgs.lib.nixosSystem { modules = [ { services.llama-cpp.extraFlags = [ ]; } ]; })"
        ".config.system.build.toplevel.drvPath"
    )
    with pytest.raises(NixError, match="extraFlags"):
        newer.eval_raw(removed)


def test_every_host_evaluates_on_the_newer_release_too(nix_tool: Nix) -> None:
    newer = replace(nix_tool, release="26.11")
    for name, module in hosts(nix_tool).items():
        host = newer.host(module)
        top = newer.eval_raw(f"{host}.config.system.build.toplevel.name")
        assert top.endswith("26.11.stand-in"), name


def heads() -> dict[str, str]:
    """What the stand-in's files that declare options say of their facts, by name, on one line."""
    found = {}
    for path in sorted((STAND_IN / "nixos").rglob("*.nix")):
        text = path.read_text()
        if "mkOption" not in text:
            continue
        head = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
        said = " ".join(line.removeprefix("#").strip() for line in head)
        found[str(path.relative_to(STAND_IN / "nixos"))] = said.partition("Facts: ")[2]
    return found


#: A revision in a repository; and files that were compared with none.
REVISION = re.compile(r"\b[\w-]+/nixpkgs at [0-9a-f]{40}\b")
UNREAD = "not read again"
#: Between these lines the decision lists the latter.
BEGIN, END = "<!-- not read again -->\n", "<!-- end -->"


def test_every_declared_option_says_where_its_facts_are_from() -> None:
    files = heads()
    assert len(files) > 20
    for name, said in files.items():
        if other := re.fullmatch(r"as ([\w-]+\.nix) says\.?(?:: .*)?", said):
            said = (STAND_IN / "nixos" / name).with_name(other[1]).read_text().replace("\n# ", " ")
        assert REVISION.search(said) or UNREAD in said, f"{name}: {said!r}"
        assert "nixos/" in said, f"{name} names no file of nixpkgs: {said!r}"


def test_the_decision_lists_what_was_compared_with_no_revision() -> None:
    page = (ROOT / "docs/decisions/0012-a-stand-in-for-nixpkgs.md").read_text(encoding="utf-8")
    whole = [name for name, said in heads().items() if UNREAD in said and not REVISION.search(said)]
    parts = [name for name, said in heads().items() if UNREAD in said and REVISION.search(said)]
    wanted = "".join(
        f"- {kind}: {', '.join(f'`{name}`' for name in names)}\n"
        for kind, names in {"whole files": whole, "parts of": parts}.items()
    )
    assert page.split(BEGIN)[1].split(END)[0] == wanted
