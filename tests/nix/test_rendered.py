"""The committed hosts are what the modules give, and the programs that read them accept them."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from nix import checking
from nix.debian import cache_folder
from nix.rendering import GUEST, REFRESH, RENDERED, STORE_PATH, Tree, hosts, render
from nix.required import needed
from nix.toolchain import ROOT, Nix

HOSTS = sorted(folder.name for folder in RENDERED.iterdir() if folder.is_dir())


@pytest.fixture(scope="module")
def tools() -> None:
    """The checkers; skips where Debian's packages cannot be had."""
    with needed():
        checking.systemd()
        checking.nginx()
        checking.prometheus()


def difference(old: Tree, new: Tree) -> str:
    """A unified diff of two rendered hosts."""
    lines: list[str] = []
    for name in sorted(old.files.keys() | new.files.keys()):
        before, after = old.files.get(name), new.files.get(name)
        if before == after:
            continue
        old_lines, new_lines = (
            [] if file is None else (file.link or file.text.decode(errors="replace")).splitlines()
            for file in (before, after)
        )
        lines += difflib.unified_diff(
            old_lines, new_lines, f"committed/{name}", f"given/{name}", lineterm=""
        )
        if before and after and before.executable != after.executable:
            lines.append(f"{name}: executable was {before.executable}, is {after.executable}")
    return "\n".join(lines)


def test_every_host_is_rendered(nix_tool: Nix) -> None:
    assert list(hosts(nix_tool)) == [GUEST, *(name for name in HOSTS if name != GUEST)]


@pytest.mark.parametrize("name", HOSTS)
def test_committed_files_are_what_the_modules_give(nix_tool: Nix, name: str) -> None:
    given = render(nix_tool, name, hosts(nix_tool)[name])
    committed = Tree.read(RENDERED / name)
    # Not by an assertion on the trees, which would print them whole.
    if committed != given:
        pytest.fail(
            f"{difference(committed, given)}\n\nIf this is what you want: {REFRESH}", pytrace=False
        )


@pytest.mark.parametrize("name", HOSTS)
def test_nothing_of_this_machine_is_in_a_host(name: str) -> None:
    for path in (RENDERED / name).rglob("*"):
        if path.is_file() and not path.is_symlink():
            text = path.read_text(errors="replace")
            assert str(ROOT) not in text, path
            assert str(cache_folder()) not in text, path


def test_the_guest_has_every_file_that_it_refers_to() -> None:
    """The system test lays these files and nothing else, so nothing may be missing."""
    host = RENDERED / GUEST
    manifest = json.loads((host / "manifest.json").read_text())
    missing = {
        path
        for file in Tree.read(host).files.values()
        for path in STORE_PATH.findall(file.link or file.text.decode(errors="replace"))
        if path not in manifest["packages"] and not checking.stored(host, path).exists()
    }
    assert missing == set()


@pytest.mark.parametrize("name", HOSTS)
def test_systemd_accepts_every_unit(tools: None, tmp_path: Path, name: str) -> None:
    system = checking.lay(RENDERED / name, tmp_path / "root")
    # A template is verified as one of its instances.
    units = [
        unit.name.replace("@.", "@x.") for unit in sorted(system.iterdir()) if not unit.is_symlink()
    ]
    verdict = checking.verify(tmp_path / "root", units)
    assert verdict.output == ""
    assert verdict.status == 0


def planted(change: Callable[[str], str], tmp_path: Path) -> checking.Verdict:
    """systemd's verdict on the guest's nginx.service with a mistake in it."""
    system = checking.lay(RENDERED / GUEST, tmp_path / "root")
    unit = system / "nginx.service"
    before = unit.read_text()
    unit.write_text(change(before))
    assert unit.read_text() != before
    return checking.verify(tmp_path / "root", ["nginx.service"])


@pytest.mark.parametrize(
    ("pattern", "replacement", "message"),
    [
        ("PrivateTmp=", "PrivateTmpp=", "Unknown key"),
        ("ProtectSystem=strict", "ProtectSystem=strictt", "Failed to parse ProtectSystem"),
        ("/bin/nginx -c", "/bin/enginx/none -c", "is not executable"),
        ("ExecStart=/nix/store/", "ExecStart=/nix/store/no", "is not executable"),
    ],
)
def test_a_mistake_in_a_unit_is_found(
    tools: None, tmp_path: Path, pattern: str, replacement: str, message: str
) -> None:
    if message == "is not executable":
        system = checking.lay(RENDERED / GUEST, tmp_path / "root")
        unit = system / "nginx.service"
        unit.write_text(unit.read_text().replace(pattern, replacement))
        verdict = checking.verify(tmp_path / "root", ["nginx.service"])
    else:
        verdict = planted(lambda text: text.replace(pattern, replacement), tmp_path)
    assert verdict.status != 0
    assert message in verdict.output


WITH_NGINX = [name for name in HOSTS if (RENDERED / name / "units/nginx.service").exists()]
WITH_PROMETHEUS = [
    name for name in HOSTS if (RENDERED / name / "units/prometheus.service").exists()
]


@pytest.mark.parametrize("name", WITH_NGINX)
def test_nginx_accepts_its_configuration(tools: None, tmp_path: Path, name: str) -> None:
    verdict = checking.nginx_test(RENDERED / name, tmp_path)
    assert verdict.status == 0, verdict.output
    assert "[warn]" not in verdict.output, verdict.output
    assert "test is successful" in verdict.output


@pytest.mark.parametrize("name", WITH_PROMETHEUS)
def test_prometheus_accepts_its_configuration(tools: None, tmp_path: Path, name: str) -> None:
    verdicts = checking.prometheus_check(RENDERED / name, tmp_path)
    assert [verdict for verdict in verdicts if verdict.status != 0] == []
    assert any(re.search(r"SUCCESS: [1-9]\d* rules found", v.output) for v in verdicts)


def test_some_host_has_nginx_and_prometheus() -> None:
    assert GUEST in WITH_NGINX
    assert GUEST in WITH_PROMETHEUS
