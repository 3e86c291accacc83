"""The guest: a copy of the tree with the closure, the packages' stand-ins and the rendered host.

Units, scripts and configurations are laid byte for byte as they were committed; what differs is in
`differences.toml`.
"""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from system import closure
from system.differences import Differences
from system.manifest import Manifest
from system.tree import sysusers

RENDERED = closure.REPOSITORY / "nix/tests/rendered/guest"
PACKAGES = Path(__file__).parent / "packages.toml"
GUEST = Path(__file__).parent / "guest"
#: Programs of ours that stand for what a package would bring.
PROGRAMS = {
    "aistack": "aistack.py",
    "llama-server": "llama_server.py",
    "otlp-sink": "otlp_sink.py",
    **{name: name for name in ("postgres", "libpq-client", "wait-for-postgresql")},
}
#: A unit of the test's own, beside the agent.
SINK = "aistack-test-otlp.service"
DROP_IN = "zz-guest.conf"
PROFILE = "/nix/profile"
CURRENT_SYSTEM = f"L+ /run/current-system/sw - - - - {PROFILE}"


def assemble(tree: Path, packages: Path, root: Path, *, rendered: Path = RENDERED) -> Manifest:
    """Make the guest in `root`, which must not exist; it shares files with `tree` by hard links."""
    manifest = Manifest.read(rendered / "manifest.json")
    differences = Differences.read()
    subprocess.run(["cp", "-al", str(tree), str(root)], check=True, timeout=120)
    closure.lay(tree, packages, root)
    for name, source in PROGRAMS.items():
        place(root, f"/usr/lib/aistack/bin/{name}", (GUEST / source).read_bytes(), 0o755)
    shutil.copytree(rendered / "store", root / "nix/store", symlinks=True, dirs_exist_ok=True)
    stand_ins(root, manifest.packages, table())
    profile(root, manifest.system_packages)
    units(root, rendered / "units", manifest, differences)
    if (rendered / "etc").exists():
        for file in sorted((rendered / "etc").rglob("*")):
            if file.is_symlink() or not file.is_dir():
                lay(file, root / "etc" / file.relative_to(rendered / "etc"))
    for placed in differences.placed:
        link(root / placed.path.lstrip("/"), placed.origin)
    _state(root, manifest)
    return manifest


def table() -> dict[str, Any]:
    """What stands for which package."""
    return tomllib.loads(PACKAGES.read_text(encoding="utf-8"))


def profile(root: Path, packages: Sequence[str]) -> None:
    """The programs of the system's packages, where /run/current-system/sw will lead."""
    for path in packages:
        for program in sorted((root / path.lstrip("/") / "bin").glob("*")):
            link(root / PROFILE.lstrip("/") / "bin" / program.name, f"{path}/bin/{program.name}")


def _state(root: Path, manifest: Manifest) -> None:
    place(root, "/etc/sysusers.d/host.conf", manifest.sysusers().encode())
    sysusers(root)
    rules = "".join(f"{rule}\n" for rule in (*manifest.tmpfiles, CURRENT_SYSTEM))
    place(root, "/etc/tmpfiles.d/host.conf", rules.encode())
    values = "".join(f"{key} = {value}\n" for key, value in sorted(manifest.sysctl.items()))
    place(root, "/etc/sysctl.d/60-host.conf", values.encode())


def units(root: Path, rendered: Path, manifest: Manifest, differences: Differences) -> None:
    """The unit files and their links."""
    left_out = {one.unit for one in differences.without}
    where = root / "etc/systemd/system"
    known = set()
    for file in sorted(rendered.rglob("*")):
        if file.is_dir() or file.relative_to(rendered).parts[0].removesuffix(".d") in left_out:
            continue
        lay(file, where / file.relative_to(rendered))
        known.add(file.name)
    for kind, pairs in (("wants", manifest.wants), ("requires", manifest.requires)):
        for owner, unit in pairs:
            if unit not in left_out:
                link(where / f"{owner}.{kind}" / unit, f"../{unit}")
    lay(GUEST / SINK, where / SINK)
    link(where / "multi-user.target.wants" / SINK, f"../{SINK}")
    for alias, unit in manifest.aliases:
        link(where / alias, unit)
    for unit, text in differences.drop_ins().items():
        if unit not in known:
            raise ValueError(f"{unit} is not rendered, but stands in differences.toml")
        place(root, f"/etc/systemd/system/{unit}.d/{DROP_IN}", text.encode())
    if missing := left_out - {file.name for file in rendered.iterdir()}:
        raise ValueError(f"not rendered, but in differences.toml: {', '.join(sorted(missing))}")


def stand_ins(root: Path, packages: Mapping[str, str], known: Mapping[str, Any]) -> None:
    """A directory in the store for every package, with the programs that the table names."""
    unknown = sorted({pname for pname in packages.values() if pname not in known})
    if unknown:
        raise ValueError(f"packages.toml does not say what stands for {', '.join(unknown)}")
    for path, pname in packages.items():
        target = root / path.lstrip("/")
        for name, origin in files_of(known[pname]).items():
            if not (root / origin.lstrip("/")).exists():
                raise ValueError(f"packages.toml: {pname}: the guest has no {origin}")
            link(target / name, origin)


def files_of(entry: Mapping[str, Any]) -> dict[str, str]:
    """What a package consists of: path inside it → file or directory of the guest."""
    programs = entry.get("programs", {})
    if isinstance(programs, list):
        programs = {name: f"/usr/bin/{name}" for name in programs}
    found = {f"bin/{name}": origin for name, origin in programs.items()}
    return {**found, **entry.get("files", {})}


def lay(source: Path, target: Path) -> None:
    """Copy a file or a link over whatever is there, which the tree's own copy keeps."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    shutil.copy2(source, target, follow_symlinks=False)


def place(root: Path, path: str, data: bytes, mode: int = 0o644) -> None:
    """Write a file of the guest."""
    target = root / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    target.write_bytes(data)
    target.chmod(mode)


def link(path: Path, origin: str) -> None:
    """A symbolic link in place of whatever is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(origin)
