"""The checks know every service of stack.toml, and their pure parts."""

from __future__ import annotations

import pytest

from system.checks import auth, down, metrics, ports
from system.stack import services


def test_the_checks_cover_every_service_and_every_route() -> None:
    table = services()
    assert set(metrics.SERVICES) == set(table)
    assert set(down.ROUTES) == set(table)
    guarded = {path: openai for _method, path, _body, openai in auth.GUARDED}
    for entry in table.values():
        for prefix in entry["routes"]:
            inside = [path for path in guarded if f"{path}/".startswith(f"{prefix}/")]
            assert inside, f"{prefix} is not tried without a key"
            for path in inside:
                assert guarded[path] == (prefix in entry["openai_routes"]), path


def test_a_forged_key_differs_in_its_secret_alone() -> None:
    key = "ais_abc_" + "0" * 38
    forged = auth.forged(key)
    assert len(forged) == len(key)
    assert forged != key
    assert forged[-6:] == key[-6:]


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("0100007F:1F90", True),
        ("00000000:1F90", False),
        ("0A00000A:1F90", False),
        ("00000000000000000000000001000000:1F90", True),
        ("00000000000000000000000000000000:1F90", False),
        ("0000000000000000FFFF00000100007F:1F90", True),
    ],
)
def test_listeners_are_told_apart(address: str, inside: bool) -> None:
    text = f"header\n 0: {address} 00000000:0000 0A 0:0 00:0 0 0 0 77 1\n"
    assert list(ports.listeners(text, "0A")) == [(inside, 8080, 77)]
    assert list(ports.listeners(text.replace(" 0A ", " 01 "), "0A")) == []
