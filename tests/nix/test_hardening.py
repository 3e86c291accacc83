"""The confinement of every unit, as systemd judges it, and the table in the documentation."""

from __future__ import annotations

import re

import pytest

from aistack.stack import load_stack
from nix.hardening import (
    BUDGETS,
    EVERYTHING,
    FURTHER,
    FURTHER_KINDS,
    GPU,
    GPU_KINDS,
    KINDS,
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
from nix.required import needed
from nix.toolchain import ROOT, Nix, NixError

SERVICES = load_stack().services
#: Between these lines docs/hardening.md has the table.
BEGIN, END = "<!-- table -->", "<!-- end of table -->"


@pytest.fixture(scope="module", autouse=True)
def _both_versions() -> None:
    for version in VERSIONS:
        with needed():
            analyzer(version)


#: Hosts, and what their units are beside `KINDS`.
HOSTS: dict[str, tuple[str, dict[str, str]]] = {
    "all": (EVERYTHING, {}),
    "further": (FURTHER, FURTHER_KINDS),
    "gpu": (GPU, GPU_KINDS),
}


@pytest.fixture(scope="module", params=HOSTS)
def host(request: pytest.FixtureRequest, nix_tool: Nix) -> tuple[dict[str, str], dict[str, str]]:
    """The text of each unit of a host, and what each is."""
    module, kinds = HOSTS[request.param]
    return ours(units(nix_tool, module)), KINDS | kinds


@pytest.fixture(scope="module")
def texts(host: tuple[dict[str, str], dict[str, str]]) -> dict[str, str]:
    return host[0]


def test_every_unit_is_of_its_kind_and_keeps_within_its_budget(
    host: tuple[dict[str, str], dict[str, str]],
) -> None:
    texts, kinds = host
    found = [row(name, text) for name, text in texts.items()]
    assert {one.unit: one.kind for one in found} == {name: kinds[name] for name in texts}
    over = [
        f"{one.unit} ({one.kind}): {one.scores[252]} on systemd 252"
        for one in found
        if one.scores[252] > BUDGETS[kinds[one.unit]]
    ]
    assert over == []


@pytest.mark.parametrize(
    ("unit", "lost", "becomes"),
    [
        ("aistack-llama-chat.service", "PrivateNetwork=true", "loopback"),
        ("aistack-aidb.service", "DynamicUser=true", "root"),
        ("redis-aistack.service", "PrivateNetwork=true", "loopback"),
    ],
)
def test_a_unit_that_lost_confinement_is_of_another_kind(
    nix_tool: Nix, unit: str, lost: str, becomes: str
) -> None:
    text = units(nix_tool, EVERYTHING)[unit]
    assert f"\n{lost}\n" in text
    gone = rf"^({lost}|User=.*)$" if becomes == "root" else rf"^{lost}$"
    weaker = re.sub(gone, "", text, flags=re.MULTILINE)
    assert kind(text) == KINDS[unit]
    assert kind(weaker) == becomes != KINDS[unit]


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


def test_kinds_cover_every_unit_of_the_hosts(nix_tool: Nix) -> None:
    """And no more: what is gone is taken out. Services are what `stack.toml` says they need."""
    everything = {name for module, _ in HOSTS.values() for name in ours(units(nix_tool, module))}
    assert everything == set(KINDS)
    for name, entry in SERVICES.items():
        expected = "sockets of others" if entry.needs else "no network"
        assert KINDS[f"aistack-{name}.service"] == expected


def test_a_gpu_brings_no_network(nix_tool: Nix) -> None:
    gpu = units(nix_tool, GPU)
    for name in GPU_KINDS:
        assert setting(gpu[name], "PrivateNetwork") == ["true"]


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
