"""Nix for the tests: evaluates the project's Nix code on a stand-in for nixpkgs.

`nix()` gives a `Nix`, whose methods evaluate expressions and hosts, build, and parse files. It is
Nix 2.26 from Debian trixie in the cache folder (`nix.debian`), with a store of its own: nothing
of an installed Nix is read or changed, and nothing is downloaded during an evaluation.

The stand-in (`tests/nix/nixpkgs`) has a small `lib` of its own. Where nixpkgs' real `lib` is at
hand, `AISTACK_NIXPKGS_LIB` names the folder that contains `lib/`, and `Nix.with_real_lib()`
evaluates on that.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from nix.debian import Prefix, UnavailableError, cache_folder, locked, prefix

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = Path(__file__).resolve().parent / "nixpkgs"
SYSTEM = "x86_64-linux"
#: The variable that names the folder in which nixpkgs' real `lib/` is.
LIBRARY = "AISTACK_NIXPKGS_LIB"
#: The stand-in with that lib is removed when it was not used for a week.
REAL_LIB, UNUSED_SECONDS = "nixpkgs-real-lib", 7 * 86400
#: Longest time of one evaluation, in seconds; it takes less than one.
EVALUATION_SECONDS = 300

#: `build-hook` must also be in $NIX_CONFIG: the hook re-executes /proc/self/exe, which is the
#: dynamic loader here, and the same line in nix.conf is ignored by 2.26.
CONFIGURATION = """\
experimental-features = nix-command flakes
sandbox = false
build-users-group =
substituters =
build-hook =
flake-registry =
use-xdg-base-directories = true
warn-dirty = false
"""


class NixError(Exception):
    """Nix refused; the text is what it said, without escape sequences."""


@dataclass(frozen=True, slots=True)
class Nix:
    """One Nix with its store, the checkout it evaluates, and the nixpkgs it puts under it."""

    prefix: Prefix
    home: Path
    nixpkgs: Path = STAND_IN
    root: Path = ROOT
    #: The NixOS release whose options hosts have, where the supported ones differ.
    release: str = "26.05"

    def run(self, *arguments: str | Path, stdin: str | None = None, tool: str = "nix") -> str:
        """Standard output of a Nix command; raises `NixError` with its message."""
        done = subprocess.run(
            self.prefix.command("nix", *arguments, argv0=tool),
            input=stdin,
            capture_output=True,
            text=True,
            env=self.environment(),
            timeout=EVALUATION_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise NixError(done.stderr.strip())
        return done.stdout

    def environment(self) -> dict[str, str]:
        """What Nix needs in its environment: its own folders, and no terminal."""
        kept = {key: os.environ[key] for key in ("PATH", "LANG", "TMPDIR") if key in os.environ}
        return kept | {
            "HOME": str(self.home / "home"),
            "NIX_CONF_DIR": str(self.home / "etc"),
            "NIX_CONFIG": "build-hook =",
            "NO_COLOR": "1",
            "TERM": "dumb",
        }

    @property
    def store(self) -> Path:
        """The folder in which `/nix/store` of this Nix lies."""
        return self.home / "store"

    def eval_json(self, expression: str) -> Any:
        """The value of an expression; `nixpkgs`, `aistack` (the flake) and `root` are in scope."""
        return json.loads(self._eval("--json", expression))

    def eval_raw(self, expression: str) -> str:
        """The value of an expression that is a string."""
        return self._eval("--raw", expression)

    def _eval(self, form: str, expression: str) -> str:
        scope = (
            f"let root = {self.root};"
            f' nixpkgs = import {self.nixpkgs}/outputs.nix {{ release = "{self.release}"; }};'
            f" aistack = import {STAND_IN.parent}/flake-of.nix {{ inherit root nixpkgs; }}; in\n"
        )
        return self.run(
            "eval", "--store", self.store, "--impure", "--offline", form, "--file", "-",
            stdin=scope + expression,
        )  # fmt: skip

    def host(self, *modules: str | Path) -> str:
        """An expression: the NixOS host made of our module and `modules` (Nix text or files)."""
        listed = " ".join(f"({module})" for module in modules)
        return (
            f'(nixpkgs.lib.nixosSystem {{ system = "{SYSTEM}";'
            f" modules = [ aistack.nixosModules.default {listed} ]; }})"
        )

    def flake(self, command: str, *arguments: str) -> str:
        """A flake command (`eval`, `build`, `show`, …) on a copy of the checkout, offline.

        The copy has what git tracks and what it would track; `#attr` stands for an output of it.
        """
        with self.staged() as staged:
            return self.run(
                *command.split(),
                "--store", self.store, "--offline", "--no-write-lock-file",
                "--override-input", "nixpkgs", f"path:{self.nixpkgs}",
                *(f"path:{staged}{a}" if a.startswith("#") else a for a in arguments),
            )  # fmt: skip

    @contextmanager
    def staged(self) -> Iterator[Path]:
        """The copy that `flake` uses; nobody changes it inside the block.

        Each checkout has its own, and the runs on one checkout take turns.
        """
        digest = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]
        target = self.home / f"staged-{digest}"
        with locked(target):
            stage(self.root, target)
            yield target

    def build(self, expression: str) -> Path:
        """Build the derivation that an expression gives; where its output lies on this machine.

        Links inside point to `/nix/store`, which lies under `Nix.store`.
        """
        path = self._eval("--raw", f"({expression}).drvPath")
        out = self.run(
            "build", "--store", self.store, "--offline", "--no-link", "--print-out-paths",
            "--option", "sandbox-paths", "/usr /bin /lib /lib64",
            f"{path}^*",
        ).split()[0]  # fmt: skip
        return self.outside(out)

    def outside(self, path: str | Path) -> Path:
        """Where a `/nix/store` path lies on this machine."""
        return self.store / str(path).lstrip("/")

    def closure(self, path: str | Path) -> list[str]:
        """All store paths that a built store path refers to, itself included."""
        return self.run("path-info", "--store", self.store, "--offline", "-r", path).split()

    def parse(self, files: Sequence[Path]) -> None:
        """Check the syntax of files and that their variables are bound; raises `NixError`."""
        self.run("--parse", *files, tool="nix-instantiate")

    def with_real_lib(self) -> Nix:
        """The same Nix on the stand-in with nixpkgs' real `lib`; `UnavailableError` without it."""
        chosen = os.environ.get(LIBRARY)
        if not chosen:
            raise UnavailableError(f"{LIBRARY} does not name nixpkgs' real lib")
        library = Path(chosen) / "lib"
        if not (library / "modules.nix").exists():
            raise UnavailableError(f"{LIBRARY}={chosen} has no lib/modules.nix")
        return replace(self, nixpkgs=with_lib(library, self.home))


def with_lib(library: Path, home: Path) -> Path:
    """The stand-in with another `lib`, in a folder that is named after what is in it.

    So it never changes: other runs, of other checkouts too, may read it at the same time.
    """
    files = {
        str(path.relative_to(STAND_IN)): path
        for path in STAND_IN.rglob("*")
        if path.is_file() and path.relative_to(STAND_IN).parts[0] != "lib"
    }
    files |= {f"lib/{p.relative_to(library)}": p for p in library.rglob("*") if p.is_file()}
    contents = {name: path.read_bytes() for name, path in sorted(files.items())}
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    target = home / f"{REAL_LIB}-{digest.hexdigest()[:16]}"
    with locked(home / REAL_LIB):
        if not target.is_dir():
            with tempfile.TemporaryDirectory(dir=home, prefix=f".{REAL_LIB}-") as work:
                for name, content in contents.items():
                    copy = Path(work) / "made" / name
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copy.write_bytes(content)
                (Path(work) / "made").rename(target)
        os.utime(target)
        for other in home.glob(f"{REAL_LIB}-*"):
            if time.time() - other.stat().st_mtime > UNUSED_SECONDS:
                shutil.rmtree(other)
    return target


def stage(source: Path, target: Path) -> None:
    """Copy what git tracks or would track, so that a flake sees new files too, and only those.

    The caller holds a lock on `target`. What a killed run left half copied is copied again.
    """
    listed = subprocess.run(
        ["git", "-C", source, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    names = {name for name in listed.split("\0") if name and (source / name).is_file()}
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(target.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif str(path.relative_to(target)) not in names:
            path.unlink()
    for name in names:
        wanted, copy = source / name, target / name
        if not copy.exists() or copy.read_bytes() != wanted.read_bytes():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(wanted, copy)


@cache
def nix() -> Nix:
    """The tests' Nix; unpacked on first use. Raises `UnavailableError` where that cannot be."""
    unpacked = prefix("nix", "trixie", ["nix-bin"])
    home = cache_folder() / "nix"
    (home / "home").mkdir(parents=True, exist_ok=True)
    configuration = home / "etc" / "nix.conf"
    with locked(home / "etc"):
        configuration.parent.mkdir(exist_ok=True)
        if not configuration.exists() or configuration.read_text() != CONFIGURATION:
            new = configuration.with_suffix(".new")
            new.write_text(CONFIGURATION)
            new.rename(configuration)
        tool = Nix(prefix=unpacked, home=home)
        # Nix makes a new store's folders in steps that fail when two do it at once.
        if not (tool.store / "nix/var/nix/db/schema").exists():
            tool.run("store", "info", "--store", tool.store, "--offline")
    return tool
