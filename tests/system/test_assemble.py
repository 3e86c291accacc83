"""How the guest is laid, and that the list of differences cannot weaken anything."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from system import assemble, cache, closure
from system.differences import KEYS, Differences
from system.manifest import Account, Manifest

#: What systemd.exec(5), systemd.resource-control(5) and systemd.kill(5) have to confine a unit.
CONFINING = (
    *("User", "Group", "DynamicUser", "SupplementaryGroups", "UMask", "KeyringMode", "RemoveIPC"),
    *("NoNewPrivileges", "CapabilityBoundingSet", "AmbientCapabilities", "SecureBits"),
    *("MemoryDenyWriteExecute", "LockPersonality", "ProcSubset", "MountAPIVFS", "BindPaths"),
    *("BindReadOnlyPaths", "RootDirectory", "TemporaryFileSystem", "NoExecPaths", "ExecPaths"),
    *("ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "IPAddressAllow", "IPAddressDeny"),
    *("DeviceAllow", "DevicePolicy", "SocketBindAllow", "SocketBindDeny", "LoadCredential"),
    *("MemoryMax", "MemoryHigh", "TasksMax", "CPUWeight", "OOMPolicy", "Slice", "Delegate"),
    *("WatchdogSec", "Restart", "RestartSec", "NotifyAccess", "StandardInput", "SocketMode"),
)
PREFIXES = ("Protect", "Private", "Restrict", "SystemCall", "Limit", "AppArmor", "SELinux", "Smack")


def test_no_hardening_key_can_stand_in_the_differences() -> None:
    for key in KEYS:
        assert key not in CONFINING
        assert not key.startswith(PREFIXES), key


@pytest.mark.parametrize("key", ["ProtectSystem", "MemoryMax", "DynamicUser", "ExecStart"])
def test_a_difference_with_another_key_is_refused(key: str) -> None:
    entry = {"unit": "a.service", "key": key, "value": "x", "reason": "it would be easier"}
    with pytest.raises(ValueError, match=f"may not set {key}"):
        Differences.of({"set": [entry]})


def test_a_difference_wants_a_reason_and_a_known_kind() -> None:
    with pytest.raises(ValueError, match="no reason"):
        Differences.of({"without": [{"unit": "a.service", "reason": "because"}]})
    with pytest.raises(ValueError, match="no such kind"):
        Differences.of({"replace": []})


@pytest.mark.parametrize(
    "path", ["/etc/systemd/system/a.service", "/nix/store/x", "/var/lib/../../etc/passwd"]
)
def test_a_file_cannot_stand_over_what_was_rendered(path: str) -> None:
    entry = {"path": path, "from": "/usr/bin/true", "reason": "it would be easier"}
    with pytest.raises(ValueError, match="below /var/lib"):
        Differences.of({"file": [entry]})


@pytest.mark.parametrize("value", ["+/bin/sh", "!/bin/sh", "-/bin/sh"])
def test_a_command_cannot_take_a_privilege(value: str) -> None:
    entry = {"unit": "a.service", "key": "ExecStartPost", "value": value, "reason": "one two 3"}
    with pytest.raises(ValueError, match="privilege"):
        Differences.of({"set": [entry]})


def test_a_value_cannot_smuggle_another_line() -> None:
    entry = {"unit": "a.service", "key": "Type", "value": "exec\nUser=root", "reason": "one two 3"}
    with pytest.raises(ValueError, match="one line"):
        Differences.of({"set": [entry]})


def test_the_committed_list_is_accepted_and_names_rendered_units() -> None:
    differences = Differences.read()
    assert differences.settings
    if not assemble.RENDERED.exists():
        pytest.skip("nix/tests/rendered/guest is not there")
    names = {path.name for path in (assemble.RENDERED / "units").iterdir()}
    assert {one.unit for one in differences.settings} <= names
    assert {one.unit for one in differences.without} <= names


def test_every_rendered_package_has_a_stand_in() -> None:
    if not assemble.RENDERED.exists():
        pytest.skip("nix/tests/rendered/guest is not there")
    manifest = Manifest.read(assemble.RENDERED / "manifest.json")
    assert set(manifest.packages.values()) <= set(assemble.table())


def test_the_manifest_is_read_and_unknown_keys_are_refused() -> None:
    manifest = Manifest.of(
        {
            "users": {"redis": {"uid": 7, "group": "redis", "extraGroups": ["web"]}},
            "groups": {"redis": {"gid": None, "members": ["nginx"]}},
            "sysctl": {"vm.overcommit_memory": True},
        }
    )
    assert manifest.users["redis"] == Account(7, "redis", "/var/empty", ("web",))
    assert manifest.sysctl == {"vm.overcommit_memory": "1"}
    assert manifest.sysusers().splitlines() == [
        "g redis -",
        'u redis 7:redis "" /var/empty /usr/sbin/nologin',
        "m redis web",
        "m nginx redis",
    ]
    with pytest.raises(ValueError, match="timers"):
        Manifest.of({"timers": []})


def test_units_are_laid_byte_for_byte_with_links_and_drop_ins(tmp_path: Path) -> None:
    rendered, root = tmp_path / "units", tmp_path / "root"
    rendered.mkdir()
    text = "[Service]\nExecStart=/x  \n\n"
    for name in ("a.service", "b.service"):
        (rendered / name).write_text(text)
    manifest = Manifest(wants=[("multi-user.target", "a.service"), ("a.target", "b.service")])
    differences = Differences.of(
        {
            "set": [
                {"unit": "a.service", "key": "Type", "value": "exec", "reason": "no READY there"},
                {
                    "unit": "a.service",
                    "key": "ExecStartPost",
                    "value": "/p",
                    "reason": "as above so",
                },
            ],
            "without": [{"unit": "b.service", "reason": "needs real hardware"}],
        }
    )
    assemble.units(root, rendered, manifest, differences)
    where = root / "etc/systemd/system"
    assert (where / "a.service").read_text() == text
    assert not (where / "b.service").exists()
    assert not (where / "a.target.wants").exists()
    assert (where / "multi-user.target.wants/a.service").readlink() == Path("../a.service")
    assert (where / "a.service.d" / assemble.DROP_IN).read_text().splitlines() == [
        *("[Service]", "# no READY there", "Type=exec"),
        *("[Service]", "# as above so", "ExecStartPost=/p"),
    ]


def test_a_difference_of_a_unit_that_is_not_rendered_is_refused(tmp_path: Path) -> None:
    (tmp_path / "units").mkdir()
    for differences in (
        {"set": [{"unit": "x.service", "key": "Type", "value": "v", "reason": "one two three"}]},
        {"without": [{"unit": "x.service", "reason": "one two three"}]},
    ):
        with pytest.raises(ValueError, match="not rendered"):
            assemble.units(
                tmp_path / "root", tmp_path / "units", Manifest(), Differences.of(differences)
            )


def test_packages_become_what_the_table_says_and_nothing_else(tmp_path: Path) -> None:
    for name in ("usr/bin/cat", "usr/sbin/nginx", "opt/model/config"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    table = {
        "coreutils": {"programs": ["cat"]},
        "nginx": {"programs": {"nginx": "/usr/sbin/nginx"}},
        "model": {"files": {"m": "/opt/model"}},
    }
    packages = {f"/nix/store/0-{name}": name for name in table}
    assemble.stand_ins(tmp_path, packages, table)
    store = tmp_path / "nix/store"
    assert (store / "0-coreutils/bin/cat").readlink() == Path("/usr/bin/cat")
    assert (store / "0-nginx/bin/nginx").readlink() == Path("/usr/sbin/nginx")
    assert (store / "0-model/m").readlink() == Path("/opt/model")
    with pytest.raises(ValueError, match="redis"):
        assemble.stand_ins(tmp_path, {"/nix/store/0-redis": "redis"}, table)
    (tmp_path / "usr/bin/cat").unlink()
    with pytest.raises(ValueError, match="the guest has no /usr/bin/cat"):
        assemble.stand_ins(tmp_path, packages, table)


def test_what_is_laid_over_a_shared_file_leaves_the_tree_alone(tmp_path: Path) -> None:
    tree, root = tmp_path / "tree", tmp_path / "root"
    (tree / "etc").mkdir(parents=True)
    (root / "etc").mkdir(parents=True)
    (tree / "etc/hosts").write_text("the tree's")
    (root / "etc/hosts").hardlink_to(tree / "etc/hosts")
    assemble.place(root, "/etc/hosts", b"the guest's", 0o640)
    assert (tree / "etc/hosts").read_text() == "the tree's"
    assert (root / "etc/hosts").read_text() == "the guest's"
    assert stat.S_IMODE((root / "etc/hosts").stat().st_mode) == 0o640


def test_the_closure_is_what_the_project_declares() -> None:
    pyproject = (
        '[project]\ndependencies = ["a>=1"]\n[project.optional-dependencies]\n'
        'onnx = ["b"]\nopenvino = ["e"]\ndev = ["c==2"]\ntest = ["d"]\n'
    )
    assert closure.requirements(pyproject) == ["a>=1", "b", "e", "c==2"]


def test_the_cache_builds_once_whole_and_keeps_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AISTACK_TEST_CACHE", str(tmp_path))
    built: list[Path] = []

    def build(directory: Path) -> None:
        built.append(directory)
        (directory / "file").write_text("whole")
        (directory / "locked").mkdir(mode=0o500)

    first = cache.obtain("kind", "one", build)
    assert cache.obtain("kind", "one", build) == first
    assert len(built) == 1

    def broken(directory: Path) -> None:
        (directory / "half").touch()
        raise RuntimeError("no network")

    with pytest.raises(RuntimeError):
        cache.obtain("kind", "two", broken)
    assert sorted(path.name for path in cache.root().iterdir() if path.is_dir()) == ["kind-one"]
    for key in ("two", "three", "four"):
        cache.obtain("kind", key, build)
    assert len([path for path in cache.root().iterdir() if path.is_dir()]) == 4
    for path in cache.root().iterdir():
        os.utime(path, (0, 0))
    cache.obtain("kind", "four", build)
    kept = sorted(path.name for path in cache.root().iterdir() if path.is_dir())
    assert len(kept) == cache.KEPT
    assert "kind-four" in kept


def test_directories_of_processes_that_ended_are_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AISTACK_TEST_CACHE", str(tmp_path))
    dead = cache.root() / "machine-99999999-00000000.run"
    dead.mkdir()
    ours = cache.scratch("machine")
    other = cache.scratch("machine")
    assert not dead.exists()
    assert ours.exists()
    assert other != ours


def test_a_digest_tells_apart_what_differs_only_in_its_borders() -> None:
    assert cache.digest("ab", "c") != cache.digest("a", "bc")
    assert cache.digest({"a": 1, "b": 2}) == cache.digest(json.loads('{"b": 2, "a": 1}'))
