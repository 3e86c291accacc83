"""The presets of language models: pinned, attested, and what each profile needs."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest

from nix.hosts import ask, failures
from nix.toolchain import Nix

FILE = Path(__file__).resolve().parents[2] / "nix" / "models.nix"
PROFILES = ("laptop", "gpu", "h100")
FIELDS = {
    *("role", "url", "hash", "size", "kvBytes", "contextSize", "parallel", "args", "license"),
}


@pytest.fixture(scope="module")
def models(nix_tool: Nix) -> dict[str, Any]:
    """The table."""
    found = nix_tool.eval_json(f"import {FILE}")
    assert isinstance(found, dict)
    return found


def paragraphs() -> dict[str, str]:
    """The text of each preset, comment included."""
    text = FILE.read_text().partition("  presets = {")[2]
    found = {}
    for paragraph in text.split("\n\n"):
        name = re.search(r'^    "([^"]+)" = \{$', paragraph, re.M)
        if name:
            found[name[1]] = paragraph
    return found


def test_each_preset_says_all_that_is_needed(models: dict[str, Any]) -> None:
    for name, preset in models["presets"].items():
        assert set(preset) == FIELDS, name
        assert preset["role"] in {"chat", "embedding", "reranking"}
        assert preset["license"] == "Apache-2.0"
        assert preset["url"].endswith(".gguf")


def test_a_hash_stands_beside_two_sources_and_its_hexadecimal_form(models: dict[str, Any]) -> None:
    texts = paragraphs()
    assert set(texts) == set(models["presets"])
    attested = {n: p for n, p in models["presets"].items() if p["hash"] is not None}
    assert len(attested) == 5
    for name, preset in attested.items():
        digest = base64.b64decode(preset["hash"].removeprefix("sha256-"))
        assert len(digest) == 32
        assert f"# hex {digest.hex()}\n" in texts[name]
        sources = set(re.findall(r"\b[\w.-]+/[\w.-]+(?=[:\s(])", texts[name]))
        assert len({source.split("/")[0] for source in sources}) >= 2, name


def test_an_attested_file_cannot_change_behind_its_address(models: dict[str, Any]) -> None:
    for name, preset in models["presets"].items():
        if preset["hash"] is not None:
            assert re.search(r"/resolve/[0-9a-f]{40}/", preset["url"]), name


def test_every_profile_has_an_attested_model_for_every_role(models: dict[str, Any]) -> None:
    assert set(models["profiles"]) == set(PROFILES)
    for profile in models["profiles"].values():
        assert set(profile) == {"chat", "embedding", "reranking"}
        for role, name in profile.items():
            assert models["presets"][name]["role"] == role
            assert models["presets"][name]["hash"] is not None


def test_the_chat_model_of_the_laptop_leaves_room_for_the_rest(models: dict[str, Any]) -> None:
    preset = models["presets"][models["profiles"]["laptop"]["chat"]]
    cache = preset["kvBytes"] * preset["contextSize"] * preset["parallel"]
    assert preset["size"] + cache < 8e9


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_evaluates_with_all_its_models(nix_tool: Nix, profile: str) -> None:
    module = (
        "{ nixpkgs.config.allowUnfree = true; services.aistack.llama.instances.embedding = { };"
        " services.aistack.llama.instances.reranking = { };"
        f' services.aistack.models.profile = "{profile}"; }}'
    )
    units = ask(nix_tool, "system.build.units", module)
    for role in ("chat", "embedding", "reranking"):
        assert f"aistack-llama-{role}.service" in units
    assert failures(nix_tool, module) == []


def test_every_preset_evaluates_or_says_what_to_set(nix_tool: Nix, models: dict[str, Any]) -> None:
    for name, preset in models["presets"].items():
        messages = failures(
            nix_tool,
            f'{{ services.aistack.llama.instances.chat = {{ preset = "{name}";'
            f' mode = "{preset["role"]}"; }}; }}',
        )
        if preset["hash"] is not None:
            assert messages == []
        else:
            assert len(messages) == 1
            assert f"nix store prefetch-file {preset['url']}" in messages[0]
            assert "services.aistack.llama.instances.chat.model" in messages[0]
