"""The confinement of every unit, as systemd judges it, and the table in the documentation."""

from __future__ import annotations

import re

import pytest

from aistack.stack import load_stack
from nix.debian import UnavailableError
from nix.hardening import (
    BUDGETS,
    EVERYTHING,
    FURTHER,
    GPU,
    VERSIONS,
    analyzer,
    kind,
    ours,
    row,
    setting,
    table,
    units,
)
from nix.hosts import ask
from nix.toolchain import ROOT, Nix, NixError

SERVICES = load_stack().services
#: Between these lines docs/hardening.md has the table.
BEGIN, END = "<!-- table -->", "<!-- end of table -->"


@pytest.fixture(scope="module", autouse=True)
def _both_versions() -> None:
    for version in VERSIONS:
        try:
            analyzer(version)
        except UnavailableError as error:
            pytest.skip(str(error))


@pytest.fixture(scope="module", params=[EVERYTHING, FURTHER, GPU], ids=["all", "further", "gpu"])
def texts(request: pytest.FixtureRequest, nix_tool: Nix) -> dict[str, str]:
    return ours(units(nix_tool, request.param))


def test_every_unit_keeps_within_its_budget(texts: dict[str, str]) -> None:
    over = [
        f"{found.unit} ({found.kind}): {found.scores[252]} on systemd 252"
        for name, text in texts.items()
        if (found := row(name, text)).scores[252] > BUDGETS[found.kind]
    ]
    assert over == []


def test_every_unit_has_what_no_exception_takes_away(texts: dict[str, str]) -> None:
    always = {
        "PrivateMounts": ["true"],
        "NoNewPrivileges": ["true"],
        "ProtectSystem": ["strict"],
        "RestrictNamespaces": ["true"],
        "LockPersonality": ["true"],
        "SystemCallArchitectures": ["native"],
        "SystemCallErrorNumber": ["EPERM"],
        "RemoveIPC": ["true"],
        "ProtectProc": ["invisible"],
    }
    for name, text in texts.items():
        for key, values in always.items():
            assert setting(text, key) == values, (name, key)


def test_kinds_are_what_the_hosts_are_for(nix_tool: Nix) -> None:
    """Else a budget would be kept by not being asked."""
    plain = units(nix_tool, EVERYTHING)
    for name, entry in SERVICES.items():
        found = kind(plain[f"aistack-{name}.service"])
        assert found == ("sockets of others" if entry.needs else "no network")
    further = units(nix_tool, FURTHER)
    assert kind(further["aistack-coordinator.service"]) == "egress"
    assert kind(further["aistack-aidb.service"]) == "loopback"
    gpu = units(nix_tool, GPU)
    assert kind(gpu["aistack-embeddings.service"]) == "a GPU"
    assert kind(gpu["aistack-llama-chat.service"]) == "a GPU"
    assert setting(gpu["aistack-embeddings.service"], "PrivateNetwork") == ["true"]


def test_an_unknown_exception_is_an_error(nix_tool: Nix) -> None:
    with pytest.raises(NixError, match="no-such-exception"):
        nix_tool.eval_json(
            f"({nix_tool.host('{ services.aistack.enable = true; }')}).config.services.aistack"
            '.lib.hardening { exceptions = [ "no-such-exception" ]; }'
        )


def test_each_exception_says_why() -> None:
    text = (ROOT / "nix" / "modules" / "hardening.nix").read_text()
    lines = text[text.index("  named = {") : text.index("  gpuDevices = {")].splitlines()
    entries = [
        index for index, line in enumerate(lines) if re.match(r"    [a-z]+(\.\w+)? = ", line)
    ]
    assert len(entries) >= 4
    for index in entries:
        assert lines[index - 1].strip().startswith("#"), lines[index]


def test_the_services_groups_are_the_only_way_to_their_sockets(nix_tool: Nix) -> None:
    groups = ask(nix_tool, "users.groups")
    for name in SERVICES:
        assert groups[f"aistack-{name}-clients"]["members"] == []


def test_the_table_in_the_documentation_is_what_systemd_says(nix_tool: Nix) -> None:
    page = (ROOT / "docs" / "hardening.md").read_text(encoding="utf-8")
    written = page.split(BEGIN)[1].split(END)[0].strip()
    assert written == table(nix_tool).strip(), "run `python -m nix.hardening` and put it there"
