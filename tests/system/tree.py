"""A minimal Debian userland with systemd, unpacked and never installed.

No maintainer script is run, so it is made as root or not, without chroot; the few things that they
would have done and that the guest needs are done here by name.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from nix.debian import Prefix, prefix
from system import cache

SUITE = "trixie"
#: The userland itself; python3 is what the project's closure runs on.
BASE = (
    *("base-files", "base-passwd", "bash", "dash", "coreutils", "util-linux", "mount", "login"),
    *("passwd", "grep", "sed", "mawk", "findutils", "tar", "gzip", "libc-bin", "ncurses-bin"),
    *("procps", "iproute2", "systemd", "systemd-sysv", "dbus", "libnss-systemd", "python3"),
    *("curl", "openssl", "ca-certificates", "diffutils", "libgomp1"),
)
#: Programs that stand for packages of nixpkgs; PostgreSQL and llama.cpp come with the closure.
PROGRAMS = (
    *("redis-server", "nginx-light", "prometheus", "prometheus-alertmanager"),
    *("prometheus-node-exporter", "prometheus-postgres-exporter", "prometheus-redis-exporter"),
    *("prometheus-nginx-exporter", "prometheus-blackbox-exporter", "jq", "zstd"),
)
#: Units of Debian that start what the rendered units start, need hardware that the guest lacks, or
#: finish an installation that never happened.
UNITS_REMOVED = (
    *("redis-server.service", "redis-server@.service", "nginx.service", "prometheus*.service"),
    *("prometheus*.timer", "systemd-firstboot.service", "systemd-hwdb-update.service"),
    *("systemd-journal-catalog-update.service", "systemd-update-done.service", "getty.target"),
    *("systemd-machine-id-commit.service", "systemd-binfmt.service", "systemd-pstore.service"),
    *("console-getty.service", "systemd-logind.service", "modprobe@.service"),
    *("e2scrub_all.timer", "apt-daily.timer", "apt-daily-upgrade.timer", "fstrim.timer"),
    *("dpkg-db-backup.timer", "sys-kernel-debug.mount", "sys-kernel-tracing.mount"),
    *("sys-kernel-config.mount", "sys-fs-fuse-connections.mount", "dev-hugepages.mount"),
    *("dev-mqueue.mount", "proc-sys-fs-binfmt_misc.automount"),
)
_NSSWITCH = "".join(
    f"{name}: {sources}\n"
    for name, sources in {
        "passwd": "files systemd",
        "group": "files systemd",
        "shadow": "files systemd",
        "gshadow": "files systemd",
        "hosts": "files dns",
        "networks": "files",
        "protocols": "files",
        "services": "files",
    }.items()
)
_FILES = {
    "etc/nsswitch.conf": _NSSWITCH,
    "etc/hosts": "127.0.0.1 localhost machine\n::1 localhost\n",
    "etc/hostname": "machine\n",
    "etc/machine-id": "00000000000000000000000000000001\n",
    "etc/fstab": "",
    "etc/resolv.conf": "",
    "etc/locale.conf": "LANG=C.UTF-8\n",
    "etc/.updated": "",
    "var/.updated": "",
    "etc/ld.so.conf": "/usr/lib/x86_64-linux-gnu\n/lib/x86_64-linux-gnu\n",
}
_EMPTY = (
    *("var/lib/redis", "var/lib/prometheus", "etc/ld.so.conf.d"),
    *("etc/modules-load.d", "usr/lib/modules-load.d", "usr/share/doc", "usr/share/man"),
    *("usr/share/locale", "usr/share/info", "usr/share/i18n", "usr/lib/x86_64-linux-gnu/gconv"),
    *("etc/redis", "etc/prometheus", "etc/default", "etc/init.d"),
)
AGENT = Path(__file__).parent / "guest" / "agent.py"
AGENT_UNIT = Path(__file__).parent / "guest" / "aistack-test-agent.service"


def tree() -> Path:
    """The directory of the tree, made once per list of packages and text of this file."""
    inputs = (SUITE, BASE, PROGRAMS, Path(__file__).read_bytes(), AGENT.read_bytes())
    return cache.obtain("tree", cache.digest(*inputs, AGENT_UNIT.read_bytes()), _build)


def _build(directory: Path) -> None:
    source = prefix("tree", SUITE, [*BASE, *PROGRAMS]).root
    shutil.copytree(source, directory, symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(directory / "var/lib/nginx", ignore_errors=True)
    for name in _EMPTY:
        shutil.rmtree(directory / name, ignore_errors=True)
        (directory / name).mkdir(parents=True)
    for name in ("nix/store", "tmp", "var/tmp", "var/log/journal", "var/lib", "run"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    for name, text in _FILES.items():
        (directory / name).write_text(text, encoding="utf-8")
    for pattern in UNITS_REMOVED:
        for unit in (directory / "usr/lib/systemd/system").glob(pattern):
            unit.unlink()
    _accounts(directory)
    _links(directory)
    _agent(directory)
    run_in_tree(directory, "ldconfig", "-r", str(directory))
    sysusers(directory)


def _accounts(directory: Path) -> None:
    etc = directory / "etc"
    for name in ("passwd", "group"):
        shutil.copy(directory / f"usr/share/base-passwd/{name}.master", etc / name)
    for name, rest in (("passwd", ":*:20000:0:99999:7:::"), ("group", ":*::")):
        shadow = etc / {"passwd": "shadow", "group": "gshadow"}[name]
        names = [line.split(":")[0] for line in (etc / name).read_text().splitlines()]
        shadow.write_text("".join(f"{account}{rest}\n" for account in names), encoding="utf-8")
        shadow.chmod(0o640)


def _links(directory: Path) -> None:
    for name, target in (
        ("usr/bin/sh", "dash"),
        ("usr/bin/awk", "mawk"),
        ("var/run", "/run"),
        ("var/lock", "/run/lock"),
    ):
        link = directory / name
        if link.is_dir() and not link.is_symlink():
            link.rmdir()
        if not link.is_symlink():
            link.symlink_to(target)


def _agent(directory: Path) -> None:
    home = directory / "usr/lib/aistack-test"
    home.mkdir()
    shutil.copy(AGENT, home / "agent.py")
    units = directory / "usr/lib/systemd/system"
    shutil.copy(AGENT_UNIT, units / AGENT_UNIT.name)
    wants = units / "sysinit.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / AGENT_UNIT.name).symlink_to(f"../{AGENT_UNIT.name}")


def run_in_tree(directory: Path, program: str, *arguments: str) -> str:
    """Run a program of the tree on this machine; its output. Raises on a bad end."""
    command = [*as_root(), *Prefix(directory).command(program, *arguments)]
    environment = {**os.environ, "PYTHONHOME": str(directory / "usr")}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env=environment
    )
    if done.returncode != 0:
        raise RuntimeError(f"{program} {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def sysusers(directory: Path) -> None:
    """Create the accounts of the tree's sysusers.d."""
    run_in_tree(directory, "systemd-sysusers", f"--root={directory}")


def as_root() -> list[str]:
    """A user namespace in which an ordinary user is root, where one is needed."""
    return [] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--"]
