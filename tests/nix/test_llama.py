"""What the module makes of the options of llama.cpp, and what it refuses."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from nix.debian import Prefix
from nix.exec_line import arguments, parsed_by_systemd
from nix.hosts import BASE, ask, failures
from nix.required import needed
from nix.toolchain import Nix

OUTSIDE = 'model = "/var/lib/models/m.gguf";'
DIGEST = "sha256-" + "A" * 43 + "="
UNFREE = "nixpkgs.config.allowUnfree = true;"
CHAT = "aistack-llama-chat"


def chat(options: str) -> str:
    return f"services.aistack.llama.instances.chat = {{ {options} }};"


START = chat('fetch = "start";')


def host(nix_tool: Nix, text: str, attribute: str) -> Any:
    """An attribute of a host's configuration."""
    return ask(nix_tool, attribute, f"{{ {text} }}")


def unit(nix_tool: Nix, text: str, name: str = CHAT) -> str:
    found = host(nix_tool, text, f'system.build.units."{name}.service"')
    assert isinstance(found, str)
    return found


def words(nix_tool: Nix, text: str, name: str = CHAT) -> list[str]:
    """The command line of a unit."""
    return arguments(host(nix_tool, text, f"systemd.services.{name}.serviceConfig.ExecStart"))


def after(line: list[str], flag: str) -> str:
    return line[line.index(flag) + 1]


def refused(nix_tool: Nix, text: str) -> list[str]:
    """Messages of the assertions that fail."""
    return failures(nix_tool, f"{{ {text} }}")


def test_enabled_alone_it_serves_an_attested_model_from_the_store(nix_tool: Nix) -> None:
    assert refused(nix_tool, "") == []
    server = words(nix_tool, "")
    assert after(server, "--").endswith("/bin/llama-server")
    file = after(server, "--model")
    assert file.startswith("/nix/store/")
    assert file.endswith("-Qwen3-4B-Instruct-2507-Q4_K_M.gguf")
    assert server.count(file) == 2  # the guard looks at what the server opens
    assert "aistack-model-chat.service" not in host(nix_tool, "", "system.build.units")
    assert "ConditionPathExists" not in unit(nix_tool, "")


def test_a_download_at_the_start_goes_to_where_the_server_looks(nix_tool: Nix) -> None:
    file = "/var/lib/aistack-models/chat/Qwen3-4B-Instruct-2507-Q4_K_M.gguf"
    assert words(nix_tool, START).count(file) == 2
    download = words(nix_tool, START, "aistack-model-chat")
    assert after(download, "--to") == file
    assert after(download, "--hash") == "sha256-NgWAO5gstkrq1E9sGyrjbjrNtB2ORsipTGUzvExn5Zc="


def test_the_download_starts_the_server_and_nobody_waits_for_it(nix_tool: Nix) -> None:
    download = unit(nix_tool, START, "aistack-model-chat")
    assert "OnSuccess=aistack-llama-chat.service\n" in download
    assert "Type=exec\n" in download
    assert "network-online" not in download
    assert "RestartPreventExitStatus=78\n" in download
    server = unit(nix_tool, START)
    assert "ConditionPathExists=/var/lib/aistack-models/chat/" in server
    assert "aistack-model" not in server.replace("/var/lib/aistack-models", "")


def test_only_the_download_has_network(nix_tool: Nix) -> None:
    server = unit(nix_tool, "")
    assert "PrivateNetwork=true\n" in server
    assert "RestrictAddressFamilies=AF_UNIX\n" in server
    assert "AF_INET" not in server
    assert "AF_INET\n" in unit(nix_tool, START, "aistack-model-chat")


def test_a_file_that_is_there_is_not_downloaded(nix_tool: Nix) -> None:
    text = chat(OUTSIDE)
    assert "aistack-model-chat.service" not in host(nix_tool, text, "system.build.units")
    # Missing, it is an error with a line of its own.
    assert "ConditionPathExists" not in unit(nix_tool, text)
    assert after(words(nix_tool, text), "--alias") == "m"


def test_a_model_in_the_store_is_what_the_unit_depends_on(nix_tool: Nix) -> None:
    model = chat('model = pkgs.writeText "m.gguf" "GGUF";')
    module = f"{{ pkgs, ... }}: {{ {model} }}"
    line = f"{nix_tool.host(BASE, module)}.config.systemd.services.{CHAT}.serviceConfig.ExecStart"
    derivations = nix_tool.eval_json(f"builtins.attrNames (builtins.getContext {line})")
    assert any(name.endswith("m.gguf.drv") for name in derivations)


def test_options_become_flags(nix_tool: Nix) -> None:
    options = (
        'contextSize = 1000; parallel = 3; cacheTypeK = "q8_0"; cacheTypeV = "q4_0"; threads = 5;'
        ' flashAttention = "on"; batchSize = 64; microBatchSize = 32; alias = "mine";'
        ' gpuLayers = 7; extraArgs = [ "--seed" "1" ];'
    )
    text = chat(OUTSIDE + options) + 'services.aistack.llama.acceleration = "vulkan";'
    line = words(nix_tool, text)
    for flag, value in {
        "--ctx-size": "3000", "--parallel": "3", "--cache-type-k": "q8_0", "--threads": "5",
        "--cache-type-v": "q4_0", "--flash-attn": "on", "--batch-size": "64", "--alias": "mine",
        "--ubatch-size": "32", "--n-gpu-layers": "7",
        "--host": "/run/aistack-llama-chat/llama.sock",
    }.items():  # fmt: skip
        assert after(line, flag) == value
    assert line[-2:] == ["--seed", "1"]
    assert {"--metrics", "--no-slots", "--no-webui", "--offline"} <= set(line)


@pytest.mark.parametrize(
    ("name", "flag"), [("embedding", "--embedding"), ("reranking", "--reranking")]
)
def test_the_name_of_an_instance_says_what_it_does(nix_tool: Nix, name: str, flag: str) -> None:
    text = f"services.aistack.llama.instances.{name} = {{ }};"
    line = words(nix_tool, text, f"aistack-llama-{name}")
    assert flag in line
    assert flag not in words(nix_tool, text)


def test_memory_is_locked_by_variables_that_every_version_takes(nix_tool: Nix) -> None:
    text = unit(nix_tool, chat(OUTSIDE + "mlock = true;"))
    assert "LimitMEMLOCK=infinity\n" in text
    assert "LLAMA_ARG_MLOCK=1" in text
    assert "LLAMA_ARG_LOAD_MODE=mmap+mlock" in text
    assert "--mlock" not in text


def test_a_preset_has_a_memory_limit_that_holds_its_cache(nix_tool: Nix) -> None:
    def limit(options: str) -> int:
        found = host(nix_tool, chat(options), f"systemd.services.{CHAT}.serviceConfig.MemoryMax")
        return int(found.removesuffix("M"))

    small, large = limit("contextSize = 1024; parallel = 1;"), limit("contextSize = 65536;")
    assert small > 2_497_281_120 / 2**20
    assert large - small >= (2 * 65536 - 1024) * 147456 // 2**20
    assert "MemoryMax" not in unit(nix_tool, chat(OUTSIDE))


def test_the_coordinator_finds_the_server_and_may_connect(nix_tool: Nix) -> None:
    groups = host(
        nix_tool, "", "systemd.services.aistack-coordinator.serviceConfig.SupplementaryGroups"
    )
    assert "aistack-llama-clients" in groups
    found = nix_tool.eval_json(
        f'({nix_tool.host(BASE)}.config.services.aistack.parts.llama.settings "x")'
    )
    assert found == {"llama": {"address": "unix:/run/aistack-llama-chat/llama.sock"}}


def test_without_language_models_there_is_no_trace_of_them(nix_tool: Nix) -> None:
    text = (
        "services.aistack.llama.enable = false;"
        ' services.aistack.settings.llama.address = "https://llama.example.org";'
    )
    units = host(nix_tool, text, "system.build.units")
    assert not [name for name in units if "llama" in name or "aistack-model" in name]
    assert refused(nix_tool, text) == []


GPU = [
    "char-drm rw", "char-nvidiactl rw", "char-nvidia-caps rw", "char-nvidia-frontend rw",
    "char-nvidia-uvm rw",
]  # fmt: skip


@pytest.mark.parametrize("acceleration", ["cuda", "vulkan"])
def test_a_gpu_unit_sees_gpus_alone_and_has_no_network(nix_tool: Nix, acceleration: str) -> None:
    text = unit(nix_tool, UNFREE + f'services.aistack.llama.acceleration = "{acceleration}";')
    assert "DevicePolicy=closed\n" in text
    assert "PrivateDevices=false\n" in text
    for device in GPU:
        assert f"DeviceAllow={device}\n" in text
    assert "DeviceAllow=/dev/dxg" in text
    assert "PrivateNetwork=true\n" in text
    assert "ProcSubset=all\n" in text
    assert "SupplementaryGroups=render\n" in text
    assert ("CUDA_CACHE_PATH=/var/cache/aistack-llama-chat/cuda" in text) == (
        acceleration == "cuda"
    )


def test_a_processor_unit_sees_no_device(nix_tool: Nix) -> None:
    text = unit(nix_tool, "")
    assert "PrivateDevices=true\n" in text
    assert "DeviceAllow" not in text


def test_the_package_is_built_for_what_computes(nix_tool: Nix) -> None:
    programs = {
        kind: after(
            words(nix_tool, UNFREE + f'services.aistack.llama.acceleration = "{kind}";'), "--"
        )
        for kind in ("cpu", "cuda", "vulkan")
    }
    assert len(set(programs.values())) == 3
    assert all(program.endswith("/bin/llama-server") for program in programs.values())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (chat("preset = null;"), 'instances.chat.model = "/path/to/model.gguf"'),
        (chat(OUTSIDE + 'url = "https://x.org/m.gguf";'), "`model` and `url` are both set"),
        (chat('url = "https://x.org/m.gguf";'), "nix store prefetch-file https://x.org/m.gguf"),
        (
            chat('preset = "qwen3-next-80b-a3b-instruct-q4_k_m";'),
            'services.aistack.llama.instances.chat.hash = "sha256-…"',
        ),
        (chat(f'url = "file:///m.gguf"; hash = "{DIGEST}";'), "must begin with https://"),
        (chat('preset = "bge-reranker-v2-m3-q8_0";'), "is for reranking"),
        (chat('model = "/home/me/m.gguf";'), "Put the file under /var/lib or into the store"),
        (chat('model = "/tmp/m.gguf";'), "PrivateTmp"),
        (
            chat(f'url = "https://me:pw@x.org/m.gguf"; hash = "{DIGEST}";'),
            "everybody can read the store",
        ),
        (chat('cacheTypeV = "q8_0"; flashAttention = "off";'), 'flashAttention = "on"'),
        (chat('extraArgs = [ "--api-key" "x" ];'), "list of processes"),
        (chat('extraArgs = [ "--port=8080" ];'), "the server listens on its socket"),
        (chat("gpuLayers = 9;"), "needs a GPU"),
        ('services.aistack.llama.acceleration = "cuda";', "nixpkgs.config.allowUnfree = true"),
        ('services.aistack.models.profile = "h100";', "nixpkgs.config.allowUnfree = true"),
        (
            "services.aistack.llama.instances.a-name-that-is-too-long = { };",
            "at most 17 small letters",
        ),
        ("services.aistack.llama.instances.Chat2 = { };", "beginning with a letter"),
    ],
)
def test_a_wrong_configuration_is_told_what_to_write(nix_tool: Nix, text: str, says: str) -> None:
    messages = refused(nix_tool, text)
    assert len(messages) == 1
    assert says in " ".join(messages[0].split())


def test_a_hash_of_ones_own_makes_an_unattested_preset_work(nix_tool: Nix) -> None:
    own = f'preset = "qwen3-next-80b-a3b-instruct-q4_k_m"; hash = "{DIGEST}";'
    assert refused(nix_tool, chat(own)) == []
    text = chat(own + 'fetch = "start";')
    assert refused(nix_tool, text) == []
    assert after(words(nix_tool, text, "aistack-model-chat"), "--hash") == DIGEST


def test_a_gpu_without_drivers_is_warned_of(nix_tool: Nix) -> None:
    text = 'services.aistack.llama.acceleration = "vulkan";'
    assert any("hardware.graphics.enable" in line for line in host(nix_tool, text, "warnings"))
    text += "hardware.graphics.enable = true;"
    assert not any("hardware.graphics" in line for line in host(nix_tool, text, "warnings"))


NASTY = [
    "a b", "%h", "%%n", "$HOME", "${HOME}", "$$", 'say "hi"', "it's", "back\\slash", "end\\",
    "new\nline", "tab\there", "", ";", "#no comment", "-@!+:x", "ünï–cödé 🦙",
    '{"a": [1, "%d"]}',
    "\\x41\\n", "`id`", "*", "a=b", "\x1b[0m",
]  # fmt: skip


def test_arguments_reach_the_program_as_they_are(nix_tool: Nix, tmp_path: Path) -> None:
    def quoted(word: str) -> str:
        return '"' + word.replace("\\", "\\\\").replace('"', '\\"').replace("${", "\\${") + '"'

    text = chat(OUTSIDE + f"extraArgs = [ {' '.join(map(quoted, NASTY))} ];")
    line = host(nix_tool, text, f"systemd.services.{CHAT}.serviceConfig.ExecStart")
    assert arguments(line)[-len(NASTY) :] == NASTY
    with needed():
        parsed = parsed_by_systemd(line, tmp_path)
    assert parsed[-len(NASTY) :] == NASTY
    assert parsed == arguments(line)[1:]


@pytest.mark.parametrize(
    ("text", "name", "most"),
    [
        ("", CHAT, 0.6),
        (UNFREE + 'services.aistack.llama.acceleration = "cuda";', CHAT, 1.3),
        (START, "aistack-model-chat", 2.0),
    ],
)
def test_exposure_as_systemd_rates_it(
    nix_tool: Nix, systemd_tools: Prefix, tmp_path: Path, text: str, name: str, most: float
) -> None:
    file = tmp_path / f"{name}.service"
    file.write_text(unit(nix_tool, text, name))
    done = subprocess.run(
        systemd_tools.command("systemd-analyze", "security", "--offline=true", "--no-pager", file),
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    rated = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert rated is not None, done.stdout[-300:]
    assert float(rated[1]) <= most
