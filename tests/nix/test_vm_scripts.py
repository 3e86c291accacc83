"""The scripts of the NixOS VM tests: evaluated, type-checked and linted, but not run here.

Running them takes nixpkgs and KVM. What NixOS' own test driver checks before it starts a machine
(mypy, pyflakes) is checked here, and that each shell command parses and each check script exists.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nix.toolchain import ROOT, SYSTEM, Nix

DATA = Path(__file__).parent / "data"
CHECKS = ROOT / "tests" / "system"
#: Methods of a machine whose arguments are shell commands.
SHELL = {"succeed", "fail", "execute", "wait_until_succeeds", "wait_until_fails"}
#: What stands in a command for a value that only a run gives: no shell syntax in it.
VALUE = "1"
TESTS = {
    "stack",
    "auth",
    "resilience",
    "upgrade",
    "tls-acme",
    "backup-restore",
    "three-machines",
    "qdrant",
}


@pytest.fixture(scope="session")
def tests(nix_tool: Nix) -> dict[str, dict[str, object]]:
    """Script and node names of each VM test, by its name."""
    found: dict[str, dict[str, object]] = nix_tool.eval_json(
        f"""
        let
          checks = aistack.checks.{SYSTEM};
          names = builtins.filter (name: builtins.substring 0 3 name == "vm-")
            (builtins.attrNames checks);
        in
        builtins.listToAttrs (map (name: {{
          name = builtins.substring 3 (-1) name;
          value = {{
            inherit (checks.${{name}}) testScript;
            nodes = builtins.attrNames checks.${{name}}.nodes;
          }};
        }}) names)
        """
    )
    return found


@pytest.fixture(scope="session")
def scripts(tests: dict[str, dict[str, object]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with each script as a module that says where its names come from."""
    folder = tmp_path_factory.mktemp("scripts")
    for name, test in tests.items():
        nodes = test["nodes"]
        assert isinstance(nodes, list)
        text = "from driver import Machine, join_all, start_all, subtest\n"
        # A single machine is also `machine`; the driver turns other characters into underscores.
        names = {re.sub(r"\W", "_", node) for node in nodes}
        text += "".join(f"{node}: Machine\n" for node in sorted(names))
        file = folder / f"vm_{name.replace('-', '_')}.py"
        file.write_text(f"{text}# script\n{test['testScript']}")
    return folder


def typed(folder: Path) -> subprocess.CompletedProcess[str]:
    """What mypy says of the scripts in a folder."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--config-file="),
            # Each script stands alone, and NixOS' driver may see its names as not defined yet.
            *("--python-version=3.13", "--implicit-reexport"),
            *map(str, sorted(folder.glob("*.py"))),
        ],
        capture_output=True,
        text=True,
        env={"MYPYPATH": str(DATA), "PATH": "/usr/bin:/bin"},
        check=False,
    )


def linted(folder: Path) -> subprocess.CompletedProcess[str]:
    """What pyflakes' rules, in ruff, say of the scripts in a folder."""
    # A machine is a name that the driver puts in, as it does for pyflakes.
    machines = set[str]()
    for file in folder.glob("*.py"):
        machines.update(re.findall(r"^(\w+): Machine$", file.read_text(), re.MULTILINE))
    return subprocess.run(
        [
            *(sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select=F,B"),
            *("--ignore=F401", "--config", f"builtins={json.dumps(sorted(machines))}"),
            *("--output-format=concise", str(folder)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )


def test_each_wanted_test_is_a_check(tests: dict[str, dict[str, object]]) -> None:
    assert set(tests) == TESTS


def test_scripts_are_typed(scripts: Path) -> None:
    done = typed(scripts)
    assert done.returncode == 0, done.stdout


def test_scripts_pass_pyflakes(scripts: Path) -> None:
    done = linted(scripts)
    assert done.returncode == 0, done.stdout


def test_a_misspelt_method_and_an_unknown_machine_are_found(scripts: Path, tmp_path: Path) -> None:
    good = (scripts / "vm_stack.py").read_text()
    (tmp_path / "vm_bad.py").write_text(good + "\nmachine.suceed('true')\nother.succeed('true')\n")
    said = typed(tmp_path).stdout
    assert '"Machine" has no attribute "suceed"' in said
    assert 'Name "other" is not defined' in said
    assert "F821" in linted(tmp_path).stdout


def commands(script: str) -> Iterator[str]:
    """Every shell command of a script, with a plain word where a run would put a value."""
    for node in ast.walk(ast.parse(script)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in SHELL
        ):
            for argument in node.args:
                yield literal(argument)


def literal(node: ast.expr) -> str:
    """The text of a string expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(literal(part) for part in node.values)
    return VALUE


def test_every_shell_command_parses(tests: dict[str, dict[str, object]]) -> None:
    seen = 0
    for name, test in tests.items():
        for command in commands(str(test["testScript"])):
            done = subprocess.run(
                ["bash", "-n", "-c", command], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{name}: {command}: {done.stderr}"
            seen += 1
    assert seen > 50


def test_every_check_that_is_called_exists_and_takes_its_options(
    tests: dict[str, dict[str, object]],
) -> None:
    called: dict[str, set[str]] = {}
    for test in tests.values():
        for command in commands(str(test["testScript"])):
            for call in re.findall(r"aistack-check\)? ([^|;&\n]+)", command):
                check, *words = shlex.split(call)
                options = {word for word in words if word.startswith("--")}
                called.setdefault(check, set()).update(options)
    assert {"ready", "story", "auth", "load", "down", "store", "recall"} <= set(called)
    for check, options in called.items():
        usage = subprocess.run(
            [sys.executable, "-m", f"checks.{check}", "--help"],
            cwd=CHECKS,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        known = set(re.findall(r"--[a-z-]+", usage))
        assert options | {"--base-url", "--key-file", "--ca"} <= known, check


def test_the_command_on_the_machines_runs_a_check(nix_tool: Nix) -> None:
    machine = f"aistack.checks.{SYSTEM}.vm-stack.nodes.machine"
    command = nix_tool.eval_json(
        "(builtins.head (builtins.filter"
        f' (package: package.name == "aistack-check") {machine}.environment.systemPackages)).text'
    )
    match = re.search(r"PYTHONPATH=(\S+)", command)
    assert match is not None
    # The checks as the machine has them: out of the store, without the repository around them.
    here = command.replace(match[1], str(nix_tool.outside(match[1])))
    done = subprocess.run(
        ["bash", "-c", here, "aistack-check", "load", "--help"],
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--until" in done.stdout
    assert "--base-url https://aistack.test --key-file /var/lib/aistack" in command


def test_no_script_waits_a_fixed_time(tests: dict[str, dict[str, object]]) -> None:
    for name, test in tests.items():
        for command in commands(str(test["testScript"])):
            # A pause inside a loop that ends with what it waits for is none.
            assert not re.search(r"\bsleep\b", command) or "until" in command, name
        assert "time.sleep" not in str(test["testScript"]), name
