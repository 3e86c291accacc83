"""Renders a host: every file that NixOS would put in place for it, without building the host.

The stand-in's derivations carry their text, so one `nix derivation show` of the host gives all of
it. The exact form (`exact=True`) keeps store paths, for booting; in the readable form, for reading
a diff, `/nix/store/<hash>-name` is `/nix/store/_-name`, and files of the checkout are left out.

A rendered host is a folder:
  units/<name>            unit files, `units/<name>.d/*.conf` drop-ins
  etc/<path>              files of /etc
  store/<hash>-<name>     what those refer to, and so on: scripts, configurations
  manifest.json           links between units, users, groups, tmpfiles rules, sysctl values, what is
                          on everybody's PATH, and the packages that are referred to, by name
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nix.toolchain import ROOT, Nix

RENDERED = ROOT / "nix" / "tests" / "rendered"
#: The host that the system test boots; the others are the examples.
GUEST = "guest"
REFRESH = "make rendered"
STORE_PATH = re.compile(r"/nix/store/[0-9a-z]{32}-[0-9A-Za-z+._?=-]+")


@dataclass(frozen=True, slots=True)
class File:
    """One rendered file, or a link."""

    text: bytes = b""
    executable: bool = False
    link: str | None = None


@dataclass(slots=True)
class Tree:
    """Rendered files by their path below the host's folder."""

    files: dict[str, File] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Replace a folder by this tree."""
        if folder.exists():
            shutil.rmtree(folder)
        for name, file in sorted(self.files.items()):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if file.link is not None:
                path.symlink_to(file.link)
                continue
            path.write_bytes(file.text)
            path.chmod(0o755 if file.executable else 0o644)

    @staticmethod
    def read(folder: Path) -> Tree:
        """A folder as a tree."""
        files: dict[str, File] = {}
        for path in sorted(folder.rglob("*")):
            name = str(path.relative_to(folder))
            if path.is_symlink():
                files[name] = File(link=str(path.readlink()))
            elif path.is_file():
                executable = bool(path.stat().st_mode & 0o100)
                files[name] = File(text=path.read_bytes(), executable=executable)
        return Tree(files)


class Host:
    """The derivations of one host."""

    def __init__(self, tool: Nix, expression: str) -> None:
        self.tool = tool
        self.drv = tool.eval_raw(f"{expression}.config.system.build.toplevel.drvPath")
        shown = tool.run("derivation", "show", "--store", tool.store, "--offline", "-r", self.drv)
        self.derivations: Mapping[str, Any] = json.loads(shown)
        top = self.derivations[self.drv]
        self.manifest: Mapping[str, Any] = json.loads(top["env"]["manifest"])
        self.units: Mapping[str, str] = json.loads(top["env"]["units"])
        self.made: dict[str, Any] = {
            output["path"]: derivation
            for derivation in self.derivations.values()
            for output in derivation["outputs"].values()
            if "path" in output
        }
        self.sources = {
            source for derivation in self.derivations.values() for source in derivation["inputSrcs"]
        }

    def tree(self, exact: bool) -> Tree:
        """Everything, as files."""
        files = {f"units/{name}": File(text.encode()) for name, text in self.units.items()}
        for name in self.manifest["masked"]:
            files[f"units/{name}"] = File(link="/dev/null")
        packages: dict[str, str] = {}
        for name, path in self.manifest["etc"].items():
            content = dict(self._content(path, packages))
            for inner, file in content.items():
                files[f"etc/{name}{inner}"] = file
        named = "\n".join([*self.manifest["tmpfiles"], *self.manifest["systemPackages"]])
        waiting = self._references([*files.values(), File(named.encode())])
        seen: set[str] = set()
        while waiting:
            path = waiting.pop()
            if path in seen:
                continue
            seen.add(path)
            found = dict(self._content(path, packages))
            for inner, file in found.items():
                files[f"store/{Path(path).name}{inner}"] = file
            waiting += self._references(found.values())
        kept = ("wants", "requires", "aliases", "groups", "tmpfiles", "sysctl", "systemPackages")
        manifest = {key: self.manifest[key] for key in kept} | {
            "packages": packages,
            "users": {
                name: {key: user[key] for key in ("uid", "group", "extraGroups", "home")}
                for name, user in self.manifest["users"].items()
                if user["enable"]
            },
        }
        files["manifest.json"] = File(_spread(json.dumps(manifest)).encode())
        return Tree(files) if exact else _readable(files, self.sources)

    def _content(self, path: str, packages: dict[str, str]) -> Iterator[tuple[str, File]]:
        """The files of one store path by their path in it ("" where it is a file itself)."""
        if path in self.sources:
            yield from _files_of(self.tool.outside(path))
            return
        derivation = self.made.get(path)
        if derivation is None:
            raise ValueError(f"{path} is referred to, but nothing in the host makes it")
        env = derivation["env"]
        if "passAsFile" in env and "text" in env["passAsFile"].split():
            executable = env.get("executable") == "1"
            yield env.get("destination", ""), File(env["text"].encode(), executable)
        elif "pname" in env:
            packages[path] = env["pname"]
        elif "outputHash" in env:
            # A download: a model.
            packages[path] = env["name"]
        elif "entries" in env:
            for entry in json.loads(env["entries"]):
                yield f"/{entry['name']}", File(link=entry["path"])
        elif "buildCommand" in env:
            drv = next(drv for drv, one in self.derivations.items() if one is derivation)
            built = self.tool.run(
                "build", "--store", self.tool.store, "--offline", "--no-link",
                "--print-out-paths", "--option", "sandbox-paths", "/usr /bin /lib /lib64",
                f"{drv}^out",
            ).split()[0]  # fmt: skip
            yield from _files_of(self.tool.outside(built))
        else:
            raise ValueError(f"{path} has no text and no name of a package: it cannot be rendered")

    def _references(self, files: Sequence[File] | Any) -> list[str]:
        """Store paths that files name and that this host makes; a package's are its own."""
        found: list[str] = []
        for file in files:
            text = file.link if file.link is not None else file.text.decode(errors="replace")
            found += STORE_PATH.findall(text)
        return sorted(set(found))


def _files_of(path: Path) -> Iterator[tuple[str, File]]:
    """The files of a path on this machine."""
    if path.is_symlink():
        yield "", File(link=str(path.readlink()))
    elif path.is_file():
        yield "", File(path.read_bytes(), bool(path.stat().st_mode & 0o100))
    else:
        for child in sorted(path.iterdir()):
            for inner, file in _files_of(child):
                yield f"/{child.name}{inner}", file


def _readable(files: Mapping[str, File], sources: set[str]) -> Tree:
    """The same files without hashes; equal names get a number, in the order of their text."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for file in [files[name] for name in sorted(files, key=_without_hashes)]:
        for path in STORE_PATH.findall(file.link or file.text.decode(errors="replace")):
            if path in names:
                continue
            plain = Path(path).name[33:]
            count = 1
            while (candidate := f"{'_' if count == 1 else f'_{count}'}-{plain}") in taken:
                count += 1
            taken.add(candidate)
            names[path] = candidate

    def renamed(text: str) -> str:
        return STORE_PATH.sub(lambda match: f"/nix/store/{names[match[0]]}", text)

    result: dict[str, File] = {}
    left_out = {Path(source).name for source in sources}
    for name, file in files.items():
        where = name
        if name.startswith("store/"):
            top, _, rest = name.removeprefix("store/").partition("/")
            if top in left_out:
                continue
            where = f"store/{names[f'/nix/store/{top}']}" + (f"/{rest}" if rest else "")
        if file.link is not None:
            result[where] = File(link=renamed(file.link))
        else:
            text = _spread(renamed(file.text.decode(errors="surrogateescape")))
            result[where] = File(text.encode(errors="surrogateescape"), file.executable)
    return Tree(result)


def _spread(text: str) -> str:
    """JSON over many lines, so that a diff shows the value that changed; other text as it is."""
    if not text.startswith(("{", "[")):
        return text
    try:
        return json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    except json.JSONDecodeError:
        return text


def _without_hashes(name: str) -> str:
    return re.sub(r"^store/[0-9a-z]{32}-", "store/", name)


def hosts(tool: Nix) -> dict[str, str]:
    """The hosts that are rendered: name to module file."""
    examples = json.loads(tool.run(
        "eval", "--store", tool.store, "--impure", "--offline", "--json", "--expr",
        f"builtins.mapAttrs (_: toString) (import {tool.root}/nix/examples)",
    ))  # fmt: skip
    return {GUEST: f"{tool.root}/tests/system/host.nix"} | dict(sorted(examples.items()))


def render(tool: Nix, name: str, module: str) -> Tree:
    """One host as files."""
    return Host(tool, tool.host(module)).tree(exact=name == GUEST)
