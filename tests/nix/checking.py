"""Checks a rendered host with the programs that will read it: systemd, nginx, Prometheus.

The programs are Debian's, unpacked in the cache. Each check lays the host's files into a folder of
the test and changes only what that place needs; what is changed stands in the check.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nix.debian import Prefix, prefix

#: One call of a checker takes well under a second.
CHECK_SECONDS = 60


@cache
def systemd() -> Prefix:
    """systemd 257."""
    return prefix("systemd", "trixie", ["systemd"])


@cache
def nginx() -> Prefix:
    """nginx 1.26."""
    return prefix("nginx", "trixie", ["nginx"])


@cache
def prometheus() -> Prefix:
    """promtool, and Alertmanager's amtool."""
    return prefix("prometheus", "trixie", ["prometheus", "prometheus-alertmanager"])


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a checker said; it is content when it said nothing wrong."""

    status: int
    output: str


def run(command: list[str]) -> Verdict:
    """Run a checker."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=CHECK_SECONDS, check=False
    )
    return Verdict(done.returncode, done.stdout + done.stderr)


def lay(host: Path, root: Path) -> Path:
    """A tree for systemd: the host's units and store, systemd's own units, and empty programs.

    A program is laid where the manifest has a package for its path, so that a path which nothing
    provides is found missing.
    """
    system = root / "etc/systemd/system"
    system.mkdir(parents=True)
    shutil.copytree(host / "store", root / "nix/store", symlinks=True)
    shutil.copytree(
        systemd().root / "usr/lib/systemd/system", root / "usr/lib/systemd/system", symlinks=True
    )
    packages = set(re.findall(r'"(/nix/store/[^"]+)":', (host / "manifest.json").read_text()))
    # What every NixOS has at a fixed place.
    packages.add("/run/current-system/systemd")
    for unit in (host / "units").iterdir():
        shutil.copy(unit, system / unit.name, follow_symlinks=False)
        if unit.is_symlink():
            continue
        for program in re.findall(
            r'^Exec\w+=[-+!:@|]*"?(/[^\s"]+)', unit.read_text(), re.MULTILINE
        ):
            path = root / program.lstrip("/")
            if not path.exists() and any(program.startswith(f"{p}/") for p in packages):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("#!/bin/sh\n")
                path.chmod(0o755)
    return system


def verify(root: Path, units: list[str]) -> Verdict:
    """`systemd-analyze verify` of units in a laid tree."""
    return run(
        systemd().command(
            "systemd-analyze", "verify", "--man=no", "--recursive-errors=yes", f"--root={root}",
            *units,
        )
    )  # fmt: skip


def argument(unit: Path, pattern: str) -> str | None:
    """The first group of a pattern in a unit's ExecStart, or None."""
    match = re.search(r"^ExecStart=((?:.*\\\n)*.*)$", unit.read_text(), re.MULTILINE)
    found = re.search(pattern, match[1]) if match else None
    return shlex.split(found[1])[0] if found else None


def stored(host: Path, path: str) -> Path:
    """Where a rendered host has a `/nix/store` path."""
    return host / "store" / path.removeprefix("/nix/store/")


def nginx_test(host: Path, scratch: Path) -> Verdict:
    """`nginx -t` on the configuration of a host."""
    named = argument(host / "units/nginx.service", r"-c (\S+)")
    assert named, "nginx.service names no configuration"
    certificate = scratch / "certificate.pem"
    make_certificate(certificate)
    text = stored(host, named).read_text()
    count = 0

    def listen(match: re.Match[str]) -> str:
        nonlocal count
        count += 1
        return f"listen unix:{scratch}/{count}.sock{match[1]};"

    changes: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
        # The nginx package's and mailcap's files are Debian's; other files are the host's.
        (r"/nix/store/[^/;]+/(?:conf|etc/nginx)/", f"{nginx().root}/etc/nginx/"),
        (r"/nix/store/", f"{host}/store/"),
        # Ports would have to be free, and below 1024 need rights.
        (r"listen \S+?((?: [^;]*)?);", listen),
        # Certificates and keys come at run time.
        (r"(?m)^(\s*\w*ssl\w*certificate(?:_key)?) [^;]+;", rf"\1 {certificate};"),
        # Names of other machines are not resolved here.
        (r"(?m)^(\s*server) [A-Za-z][\w.-]*\.[\w.-]+:", r"\1 127.0.0.1:"),
        (r"/run/nginx/nginx\.pid", f"{scratch}/nginx.pid"),
        (r"/var/log/nginx/", f"{scratch}/"),
        (r"error_log stderr;", f"error_log {scratch}/error.log;"),
        # Debian's own folders, compiled in.
        (r"(?m)^http \{", "http {\n  access_log off;\n" + "".join(
            f"  {kind}_temp_path {scratch}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )),
    ]  # fmt: skip
    for pattern, replacement in changes:
        text = re.sub(pattern, replacement, text)
    configuration = scratch / "nginx.conf"
    configuration.write_text(text)
    return run(nginx().command("nginx", "-t", "-c", configuration, "-e", scratch / "error.log"))


def make_certificate(path: Path) -> None:
    """A self-signed certificate with its key, in one file."""
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-subj", "/CN=localhost", "-days", "2", "-keyout", path, "-out",
            path.with_suffix(".crt"),
        ],
        check=True, capture_output=True, timeout=CHECK_SECONDS,
    )  # fmt: skip
    path.write_bytes(path.read_bytes() + path.with_suffix(".crt").read_bytes())


def prometheus_check(host: Path, scratch: Path) -> list[Verdict]:
    """`promtool check` of a host's configuration and of each of its rule files."""
    named = argument(host / "units/prometheus.service", r"--config\.file=(\S+)")
    assert named, "prometheus.service names no configuration"
    text = stored(host, named).read_text()
    rules = sorted(set(re.findall(r'"(/nix/store/[^"]+)"', text)))
    assert rules, "no rules are loaded"
    configuration = scratch / "prometheus.yml"
    configuration.write_text(text.replace("/nix/store/", f"{host}/store/"))
    # Credentials come at run time: only the syntax of what names them can be checked.
    verdicts = [
        run(prometheus().command("promtool", "check", "config", "--syntax-only", configuration))
    ]
    verdicts += [
        run(prometheus().command("promtool", "check", "rules", stored(host, rule)))
        for rule in rules
        if stored(host, rule).stat().st_size
    ]
    return verdicts
