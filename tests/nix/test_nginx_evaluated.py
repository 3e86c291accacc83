"""What the site's options make of nginx's configuration, the unit and the firewall."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from aistack.service.errors import StackError
from fix_site import render
from nix.hosts import BASE
from nix.toolchain import ROOT, Nix, NixError


def config(nix: Nix, module: str, attribute: str) -> Any:
    return nix.eval_json(f"{nix.host(BASE, module)}.config.{attribute}")


def option(words: str) -> str:
    return f"{{ services.aistack.nginx = {{ {words} }}; }}"


ACME = 'hostName = "ai.example.org"; tls.mode = "acme";'
TERMS = '{ security.acme = { acceptTerms = true; defaults.email = "a@example.org"; }; }'


def test_acme_answers_the_challenge_on_port_80_and_redirects_the_rest(nix_tool: Nix) -> None:
    text = render(nix_tool, option(ACME), TERMS).configuration
    servers = re.findall(r"\n  server \{\n(.*?)\n  \}", text, re.S)
    plain = next(server for server in servers if "listen 0.0.0.0:80;" in server)
    assert "server_name ai.example.org" in plain
    assert "location ^~ /.well-known/acme-challenge/" in plain
    assert "return 308 https://$host$request_uri" in plain
    secure = next(server for server in servers if "listen 0.0.0.0:443 ssl" in server)
    assert "ssl_certificate /var/lib/acme/ai.example.org/fullchain.pem;" in secure
    assert 'Strict-Transport-Security "max-age=15552000"' in secure
    assert "server_name ai.example.org;" in secure  # no authority certifies localhost


def test_configuration_passes_the_check_of_a_build(nix_tool: Nix) -> None:
    """gixy reads the file in a build and refuses what it takes for a forged Host."""
    text = render(nix_tool, "{ services.aistack.grafana.enable = true; }").configuration
    assert "location ^~ /grafana/" in text
    assert not re.search(r"proxy_set_header Host \$(http_host|arg_)", text)


def test_plain_http_is_warned_of_unless_it_stays_on_the_machine(nix_tool: Nix) -> None:
    off = 'tls.mode = "off";'
    warnings = config(nix_tool, option(off), "warnings")
    assert any("in the clear" in warning for warning in warnings)
    here = option(off + 'listenAddresses = [ "127.0.0.1" ];')
    assert not any("in the clear" in warning for warning in config(nix_tool, here, "warnings"))
    text = render(nix_tool, here).configuration
    assert "ssl" not in re.sub(r"ssl_(protocols|ciphers) [^;]*;", "", text)
    assert "Strict-Transport-Security" not in text
    assert "listen 127.0.0.1:80 default_server;" in text


def test_firewall_opens_only_when_asked(nix_tool: Nix) -> None:
    ports = "networking.firewall.allowedTCPPorts"
    assert config(nix_tool, "{ }", ports) == []
    assert sorted(config(nix_tool, option("openFirewall = true;"), ports)) == [80, 443]
    plain = option('openFirewall = true; tls.mode = "off"; listenAddresses = [ "127.0.0.1" ];')
    assert config(nix_tool, plain, ports) == [80]


def test_nginx_may_open_the_sockets_and_waits_for_them(nix_tool: Nix) -> None:
    text = config(nix_tool, "{ }", 'systemd.units."nginx.service".text')
    for name in ("aidb", "coordinator", "embeddings", "llama"):
        assert f"\nSupplementaryGroups=aistack-{name}-clients\n" in text
    after = re.search(r"^After=(.*)$", text, re.M)
    assert after
    wanted = {f"aistack-{name}.socket" for name in ("aidb", "coordinator", "embeddings")}
    assert wanted | {"aistack-tls.service"} <= set(after[1].split())


def test_given_certificate_reaches_nginx_as_a_credential(nix_tool: Nix) -> None:
    files = 'tls = { mode = "files"; certificate = "/run/a.pem"; certificateKey = "/run/a.key"; };'
    unit = config(nix_tool, option(files), 'systemd.units."nginx.service".text')
    assert "LoadCredential=aistack-certificate-key:/run/a.key" in unit
    assert config(nix_tool, option(files), "services.aistack.secrets.watch.nginx") == [
        "/run/a.pem", "/run/a.key",
    ]  # fmt: skip
    text = render(nix_tool, option(files)).configuration
    assert "/run/credentials/nginx.service/aistack-certificate-key;" in text
    assert "/run/a.key" not in text


def test_a_sixth_service_is_one_entry_in_the_table(nix_tool: Nix) -> None:
    """Locations, upstream, limits and metrics follow from it."""
    entry = """{ summary = "A test"; module = "x"; routes = [ "/v1/sixth" ];
      openai_routes = [ "/v1/sixth/deep" ]; needs = { }; calls = [ ]; clients = [ "front" ];
      network = "none"; state = "none"; scopes = [ ]; limits = { body_bytes = 77;
      concurrency = 1; request_seconds = 5; drain_seconds = 1; start_seconds = 1;
      watchdog_seconds = 9; }; }"""
    host = f"""(nixpkgs.lib.nixosSystem {{ system = "x86_64-linux";
      specialArgs.aistackStack = let table = builtins.fromTOML (builtins.readFile
        {ROOT}/src/aistack/stack.toml); in table // {{ services = table.services //
        {{ sixth = {entry}; }}; }};
      modules = [ aistack.nixosModules.default {BASE}
        {{ services.nginx.enableReload = true; }} ]; }})"""
    text = nix_tool.eval_raw(f'{host}.config.environment.etc."nginx/nginx.conf".source.text')
    found = {
        match[1]: match[2]
        for match in re.finditer(r"location ((?:=|\^~) \S*sixth\S*) \{\n(.*?)\n    \}", text, re.S)
    }
    assert set(found) == {
        "= /v1/sixth", "^~ /v1/sixth/", "= /v1/sixth/deep", "^~ /v1/sixth/deep/",
        "= /docs/sixth", "^~ /docs/sixth/", "= /sixth/metrics", "= /sixth/readyz",
    }  # fmt: skip
    assert "client_max_body_size 77;" in found["= /v1/sixth"]
    assert "proxy_read_timeout 15s;" in found["= /v1/sixth"]
    assert "@aistack-problem-unavailable" in found["= /v1/sixth"]
    assert "@aistack-openai-unavailable" in found["^~ /v1/sixth/deep/"]
    assert "server unix:/run/aistack/sixth.sock" in text


def test_limits_follow_the_services_settings(nix_tool: Nix) -> None:
    module = """{ services.aistack.aidb.settings.limits = { body_bytes = 55; };
      services.aistack.settings.limits.request_seconds = 7; }"""
    text = render(nix_tool, module).configuration
    block = re.search(r"location = /v1/search \{(.*?)\n    \}", text, re.S)
    assert block
    assert "client_max_body_size 55;" in block[1]
    assert "proxy_read_timeout 17s;" in block[1]


def test_words_of_errors_are_the_services(nix_tool: Nix) -> None:
    """Status, title and OpenAI's type of each kind are those of `aistack.service.errors`."""
    kinds = nix_tool.eval_json(
        '(import (root + "/nix/modules/nginx-errors.nix") { inherit (nixpkgs) lib; }).kinds'
    )
    kinds_of: list[type[StackError]] = [StackError, *StackError.__subclasses__()]
    ours = {error.slug: error for error in kinds_of}
    both = set(kinds) & set(ours)
    assert {"unavailable", "too-large", "overloaded", "not-found", "internal"} <= both
    for slug in both:
        kind, error = kinds[slug], ours[slug]
        assert (kind["status"], kind["title"]) == (error.status, error.title)
        assert kind["openai"] == error.openai_type
        assert kind.get("retryAfter") == error.default_retry_after
    # What nginx alone answers: HTTP's own words, before a service is asked.
    assert set(kinds) - both == {"uri-too-long", "headers-too-large"}


@pytest.mark.parametrize(
    ("module", "fix"),
    [
        (option('tls.mode = "acme";'), 'services.aistack.nginx.hostName ='),
        (option('hostName = "box"; tls.mode = "acme";'), "full domain name"),
        (option(ACME), "security.acme.acceptTerms = true"),
        (option(ACME), "security.acme.defaults.email ="),
        (option('tls.mode = "files";'), "tls.certificate and"),
        (option('tls.certificate = "/run/a.pem";'), 'tls.mode = "files"'),
        (option('tls = { mode = "files"; certificate = ./a.pem; certificateKey = "/k"; };'),
         "tls.certificate"),
        (option('tls = { mode = "off"; hstsSeconds = 5; };'), "hstsSeconds = 0"),
        (option("httpPort = 443;"), "choose two ports"),
        (option("metricsPort = 80;"), "metricsPort"),
        (option("listenAddresses = [ ];"), "listenAddresses is empty"),
        (option("hostNam = null;"), "hostNam"),
        (option('tls.mode = "letsencrypt";'), "tls.mode"),
    ],
)  # fmt: skip
def test_wrong_configuration_says_what_to_write(nix_tool: Nix, module: str, fix: str) -> None:
    with pytest.raises(NixError, match=re.escape(fix)):
        config(nix_tool, module, "system.build.toplevel.drvPath")


@pytest.mark.parametrize(
    ("other", "refused"),
    [
        ("default = true;", True),
        ('default = true; listen = [ { addr = "0.0.0.0"; port = 80; } ];', True),
        ('default = true; listen = [ { addr = "0.0.0.0"; port = 8081; } ];', False),
        ("", False),
    ],
)
def test_a_default_site_of_the_host_is_seen(nix_tool: Nix, other: str, refused: bool) -> None:
    """Two on one address: nginx would not start, and take every site of the machine with it."""
    host = f'{{ services.nginx.virtualHosts."example.org" = {{ {other} }}; }}'
    named = '{ services.aistack.nginx.hostName = "ai.example.org"; }'
    for module, wrong in ((host, refused), (f"{{ imports = [ {host} {named} ]; }}", False)):
        text = render(nix_tool, module).configuration
        places = re.findall(r"listen (\S+) (?:ssl )?default_server", text)
        assert (len(places) != len(set(places))) is wrong, places
        failed = config(nix_tool, module, "assertions")
        assert any(
            "is the default site" in entry["message"] for entry in failed if not entry["assertion"]
        ) is wrong  # fmt: skip


def test_real_lib_gives_the_same_configuration(nix_tool: Nix, real_lib_nix: Nix) -> None:
    # Store paths differ by the fake packages' hashes alone.
    ours, theirs = (
        re.sub(r"/nix/store/\w{32}-", "/nix/store/", render(nix).configuration)
        for nix in (nix_tool, real_lib_nix)
    )
    assert ours == theirs
    assert json.loads(json.dumps(ours))
