"""Secrets: made once where not given, delivered as credentials, and nowhere else."""

from __future__ import annotations

import grp
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from aistack.service.key_setup import KeyPaths
from aistack.service.keys import KeyStore
from aistack.stack import load_stack
from nix.hosts import BASE, ask, failures
from nix.required import needed
from nix.toolchain import Nix, NixError
from nix.user_systemd import manager

SERVICES = load_stack().services
GIVEN = (
    "{ services.aistack.secrets = {"
    ' pepperFile = "/run/secrets/pepper"; internalKeyFiles.aidb = "/run/secrets/aidb.key"; }; }'
)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_gets_its_own_secrets_and_no_other(nix_tool: Nix, name: str) -> None:
    unit = f'systemd.services."aistack-{name}".serviceConfig.LoadCredential'
    assert set(ask(nix_tool, unit)) == {
        "pepper:/var/lib/aistack/keys/pepper",
        f"internal-key:/var/lib/aistack/keys/internal/{name}.key",
    }
    given = set(ask(nix_tool, unit, GIVEN))
    assert "pepper:/run/secrets/pepper" in given
    assert ("internal-key:/run/secrets/aidb.key" in given) is (name == "aidb")


@pytest.mark.parametrize("value", ["./secret", '"secret"', '"${pkgs.hello}/secret"'])
def test_a_secret_cannot_be_a_file_that_the_store_would_hold(nix_tool: Nix, value: str) -> None:
    module = f"({{ pkgs, ... }}: {{ services.aistack.secrets.pepperFile = {value}; }})"
    with pytest.raises(NixError):
        ask(nix_tool, "services.aistack.secrets.pepperFile", module)


def test_a_change_of_a_given_secret_restarts_who_reads_it(nix_tool: Nix) -> None:
    host = nix_tool.host(BASE, GIVEN)
    paths = nix_tool.eval_json(
        f"builtins.mapAttrs (n: p: p.pathConfig.PathChanged) ({host}).config.systemd.paths"
    )
    assert paths["aistack-aidb-watch"] == ["/run/secrets/pepper", "/run/secrets/aidb.key"]
    assert paths["aistack-embeddings-watch"] == ["/run/secrets/pepper"]
    assert set(paths["aistack-secrets-watch"]) == set(paths["aistack-aidb-watch"])
    script = ask(nix_tool, 'systemd.services."aistack-aidb-watch".script', GIVEN)
    assert "/bin/systemctl try-restart aistack-aidb.service\n" in script
    assert not [name for name in ask(nix_tool, "systemd.paths") if name.startswith("aistack-")]


def test_the_same_content_written_anew_restarts_nothing(nix_tool: Nix, tmp_path: Path) -> None:
    """As sops-nix and agenix do at every rebuild: another folder behind the same link."""
    generations, link = tmp_path / "generations", tmp_path / "run"
    given, calls = link / "aidb key", tmp_path / "calls"
    module = f'{{ services.aistack.secrets.internalKeyFiles.aidb = "{given}"; }}'
    calls.touch()
    recorder = tmp_path / "systemctl"
    recorder.write_text(f'#!/bin/sh\necho "$@" >>{calls}\n')
    recorder.chmod(0o755)
    script = re.sub(
        r"/nix/store/\S+/bin/systemctl",
        str(recorder),
        ask(nix_tool, 'systemd.services."aistack-aidb-watch".script', module),
    )
    secrets = Secrets(nix_tool, tmp_path / "aistack", module)

    def generation(number: int, content: bytes | None) -> None:
        folder = generations / str(number)
        folder.mkdir(parents=True)
        if content is not None:
            (folder / "aidb key").write_bytes(content)
        link.unlink(missing_ok=True)
        link.symlink_to(folder)

    def changed() -> int:
        done = secrets.shell(script)
        assert done.returncode == 0, done.stderr
        return len(calls.read_text().splitlines())

    generation(1, None)
    secrets.run()  # as at boot; the key is not there yet
    assert changed() == 0
    key = Secrets(nix_tool, tmp_path / "other")
    assert key.run().returncode == 0
    token = key.files()["keys/internal/aidb.key"][1]
    generation(2, token)
    assert secrets.run().returncode == 0  # does not forget what the service was started with
    assert changed() == 1
    generation(3, token)
    assert changed() == 1
    generation(4, token + b"\n")
    assert changed() == 2
    assert calls.read_text().splitlines() == ["try-restart aistack-aidb.service"] * 2
    for unit in ("aistack-aidb-watch", "aistack-secrets"):
        config = ask(nix_tool, f'systemd.services."{unit}".serviceConfig', module)
        assert (config["RuntimeDirectory"], config["RuntimeDirectoryMode"]) == (
            "aistack-secrets",
            "0700",
        )
        assert config["RuntimeDirectoryPreserve"] is True
        # Reads what is another user's, in a home too.
        assert config["CapabilityBoundingSet"] == "CAP_DAC_READ_SEARCH"


def test_a_swapped_link_is_seen_by_a_real_systemd(nix_tool: Nix, tmp_path: Path) -> None:
    """A file that is written is seen at once; behind a swapped link the timer sees it."""
    generations, link, seen = tmp_path / "secrets.d", tmp_path / "secrets", tmp_path / "seen"
    generations.mkdir()

    def generation(content: str) -> None:
        made = generations / content
        made.mkdir()
        (made / "pepper").write_text(f"{content}\n")
        fresh = tmp_path / "fresh"
        fresh.symlink_to(made)
        fresh.rename(link)

    generation("one")
    module = f'{{ services.aistack.secrets.pepperFile = "{link}/pepper"; }}'
    path, timer = (
        ask(nix_tool, f'system.build.units."aistack-aidb-watch.{kind}"', module)
        for kind in ("path", "timer")
    )
    assert f"PathChanged={link}/pepper\n" in path
    assert "OnUnitInactiveSec=60\n" in timer
    units = {
        "aistack-aidb-watch.path": path,
        "aistack-aidb-watch.service": (
            f"[Service]\nType=oneshot\nExecStart=/bin/sh -c 'cat {link}/pepper >>{seen}'\n"
        ),
    }
    folder = Path(tempfile.mkdtemp(prefix="asd-"))  # sockets: pytest's own are too deep
    try:
        with needed(), manager(folder, units, "aistack-aidb-watch.path") as running:
            state = ("aistack-aidb-watch.path", "SubState")
            running.until(lambda: running.show(*state) == "waiting")
            (link / "pepper").write_text("written\n")
            running.until(lambda: seen.exists() and "written" in seen.read_text())
        shutil.rmtree(folder)
        folder.mkdir()
        units["aistack-aidb-watch.timer"] = timer.replace("Sec=60", "Sec=1").replace("=10", "=1ms")
        with needed(), manager(folder, units, "aistack-aidb-watch.timer") as running:
            for content in ("two", "three"):
                generation(content)
                running.until(lambda content=content: content in seen.read_text())  # type: ignore[misc]
    finally:
        shutil.rmtree(folder)


class Secrets:
    """The script of aistack-secrets.service, run here on a folder as this user and group."""

    def __init__(self, tool: Nix, folder: Path, *modules: str) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.runtime = folder.with_name(f"{folder.name}-runtime")
        self.runtime.mkdir(exist_ok=True)
        script = ask(tool, "systemd.services.aistack-secrets.script", *modules)
        exe = re.search(r"(/nix/store/\S+/bin/aistack) keys init", script)
        assert exe is not None
        table = re.search(r"--stack (\S+)", script)
        assert table is not None
        stack = folder.parent / "stack.json"
        stack.write_text(
            json.dumps(ask(tool, "services.aistack.stack", *modules)), encoding="utf-8"
        )
        mine = grp.getgrgid(os.getgid()).gr_name
        self.script = (
            script.replace(exe[1], f"{Path(sys.executable).with_name('aistack')}")
            .replace(table[1], str(stack))
            .replace("--group aistack", f"--group {mine}")
            .replace("/var/lib/aistack", str(folder))
        )

    def run(self) -> subprocess.CompletedProcess[str]:
        return self.shell(self.script)

    def shell(self, script: str) -> subprocess.CompletedProcess[str]:
        """A unit's script, in the environment of these."""
        return subprocess.run(
            ["/bin/bash", "-e", "-c", script],
            capture_output=True,
            text=True,
            env={
                "PATH": os.environ["PATH"],
                "AISTACK_DATA_DIR": str(self.folder),
                "RUNTIME_DIRECTORY": str(self.runtime),
            },
            check=False,
        )

    def files(self) -> dict[str, tuple[int, bytes]]:
        """Mode and content of each file."""
        return {
            str(path.relative_to(self.folder)): (
                stat.S_IMODE(path.stat().st_mode),
                path.read_bytes(),
            )
            for path in self.folder.rglob("*")
            if path.is_file() and path.suffix != ".lock"
        }


EXTRA = (
    '{ services.aistack.secrets = { generate = [ "one-secret" "two-secret" ];'
    ' apiKeys.reader = [ "chat" "models.read" ]; }; }'
)


def test_secrets_are_made_once_and_shown_to_nobody(nix_tool: Nix, tmp_path: Path) -> None:
    secrets = Secrets(nix_tool, tmp_path / "aistack", EXTRA)
    done = secrets.run()
    assert done.returncode == 0, done.stderr
    made = secrets.files()
    for name in ("one-secret", "two-secret"):
        mode, content = made[f"secrets/{name}"]
        assert mode == 0o400
        assert re.fullmatch(rb"[0-9a-f]{64}", content)
    assert made["secrets/one-secret"] != made["secrets/two-secret"]
    keys = KeyPaths(secrets.folder / "keys")
    store = KeyStore(keys.keys_file, keys.pepper_file)
    mode, token = made["secrets/reader-api-key"]
    assert mode == 0o400
    assert store.verify(token.decode().strip()).scopes == {"chat", "models.read"}
    assert made["keys/keys.json"][0] == 0o640
    assert stat.S_IMODE((secrets.folder / "secrets").stat().st_mode) == 0o700
    for name in SERVICES:
        mode, token = made[f"keys/internal/{name}.key"]
        assert mode == 0o600
        assert store.verify(token.decode()).scopes == load_stack().internal_scopes(name)
    for _, content in made.values():
        assert content.decode().strip() not in done.stdout + done.stderr

    again = secrets.run()
    assert again.returncode == 0, again.stderr
    assert secrets.files() == made


def test_a_missing_given_key_is_named_and_stops_only_its_service(
    nix_tool: Nix, tmp_path: Path
) -> None:
    missing = tmp_path / "aidb.key"
    module = f'{{ services.aistack.secrets.internalKeyFiles.aidb = "{missing}"; }}'
    secrets = Secrets(nix_tool, tmp_path / "aistack", module)
    done = secrets.run()
    assert done.returncode != 0
    [line] = [line for line in done.stderr.splitlines() if "is missing" in line]
    assert str(missing) in line
    assert "put the secret there" in line
    made = secrets.files()
    assert {"keys/keys.json", "keys/internal/embeddings.key"} <= set(made)

    other = Secrets(nix_tool, tmp_path / "other")
    assert other.run().returncode == 0
    missing.write_bytes(other.files()["keys/internal/aidb.key"][1])
    assert secrets.run().returncode == 0
    keys = KeyPaths(secrets.folder / "keys")
    found = KeyStore(keys.keys_file, keys.pepper_file).verify(missing.read_text())
    assert (found.name, found.internal) == ("aidb", True)


def test_the_key_of_a_sixth_service_follows_from_its_entry(nix_tool: Nix, tmp_path: Path) -> None:
    """The table that units come from is the one that keys come from."""
    secrets = Secrets(nix_tool, tmp_path / "aistack")
    stack = tmp_path / "stack.json"
    table = json.loads(stack.read_text())
    table["services"]["sixth"] = {
        **table["services"]["coordinator"],
        "needs": {"aidb": "required"},
        "calls": ["search"],
        "routes": ["/v1/sixth"],
    }
    table["services"]["aidb"]["clients"].append("sixth")
    stack.write_text(json.dumps(table))
    assert secrets.run().returncode == 0
    keys = KeyPaths(secrets.folder / "keys")
    token = keys.internal_key_file("sixth").read_text()
    assert KeyStore(keys.keys_file, keys.pepper_file).verify(token).scopes == {"search"}


def test_the_unit_that_makes_secrets_is_one_of_root_without_network(nix_tool: Nix) -> None:
    unit = ask(nix_tool, "systemd.services.aistack-secrets.serviceConfig")
    assert "User" not in unit
    assert unit["PrivateNetwork"] is True
    assert unit["CapabilityBoundingSet"] == "CAP_DAC_READ_SEARCH"
    assert unit["Type"] == "oneshot"
    assert unit["StateDirectory"] == "aistack"


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ('keysFile = "/run/secrets/keys.json";', "secrets.pepperFile too"),
        (
            'keysFile = "/run/secrets/keys.json"; pepperFile = "/run/secrets/p";',
            "secrets.internalKeyFiles.<service> for each of",
        ),
        ('internalKeyFiles.adib = "/run/secrets/x";', "there is no such service"),
    ],
)
def test_a_wrong_configuration_is_told_what_to_write(nix_tool: Nix, module: str, said: str) -> None:
    failed = failures(nix_tool, f"{{ services.aistack.secrets = {{ {module} }}; }}")
    assert any(said in message for message in failed), failed
