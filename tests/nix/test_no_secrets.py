"""Nothing secret reaches the store: secrets are paths of files outside, and what a configuration
could slip a password into refuses it.

The hosts below set every option that names a secret, to a file that really is there and whose
content is planted. Evaluation may read files here, so a module that did would be found out.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nix.closure import texts
from nix.hosts import BASE
from nix.options_reference import Reference, read
from nix.toolchain import Nix, NixError

LIBS = ["nix_tool", "real_lib_nix"]

#: What every planted file holds, with its name after it.
MARK = "PLANTED"
OUTSIDE = "absolute path not in the Nix store"

#: Each `@option@` becomes the path of a planted file. Two hosts, because a part is either here or
#: elsewhere.
EVERYTHING_ELSEWHERE = """{
  services.aistack = {
    postgresql = {
      createLocally = false;
      host = "db.example.org";
      passwordFile = "@postgresql.passwordFile@";
    };
    redis = {
      createLocally = false;
      url = "rediss://cache.example.org:6380/0";
      passwordFile = "@redis.passwordFile@";
    };
    secrets = {
      pepperFile = "@secrets.pepperFile@";
      keysFile = "@secrets.keysFile@";
      internalKeyFiles = {
        aidb = "@secrets.internalKeyFiles@";
        coordinator = "@secrets.internalKeyFiles@";
        embeddings = "@secrets.internalKeyFiles@";
      };
    };
    nginx = {
      hostName = "ai.example.org";
      tls = {
        mode = "files";
        certificate = "@nginx.tls.certificate@";
        certificateKey = "@nginx.tls.certificateKey@";
      };
    };
    replicas.embeddings = [ "10.0.0.2:9443" ];
    machines = {
      authority = "@machines.authority@";
      certificate = "@machines.certificate@";
      certificateKey = "@machines.certificateKey@";
    };
    backup.enable = true;
  };
}"""

EVERYTHING_HERE = """{
  nixpkgs.config.allowUnfree = true;
  services.aistack = {
    nginx.hostName = "ai.example.org";
    qdrant = {
      enable = true;
      apiKeyFile = "@qdrant.apiKeyFile@";
    };
    vectors.engine = "qdrant";
    openWebui = {
      enable = true;
      hostName = "chat.example.org";
      apiKeyFile = "@openWebui.apiKeyFile@";
      secretKeyFile = "@openWebui.secretKeyFile@";
    };
    mindsdb = {
      enable = true;
      image = "mindsdb@sha256:0000000000000000000000000000000000000000000000000000000000000000";
      passwordFile = "@mindsdb.passwordFile@";
      postgresPasswordFile = "@mindsdb.postgresPasswordFile@";
    };
    grafana = {
      adminPasswordFile = "@grafana.adminPasswordFile@";
      secretKeyFile = "@grafana.secretKeyFile@";
    };
    alertmanager.receivers = {
      email = [
        {
          to = "me@example.org";
          from = "aistack@example.org";
          smarthost = "mail.example.org:587";
          username = "aistack";
          passwordFile = "@alertmanager.receivers.email.*.passwordFile@";
        }
      ];
      webhook = [
        {
          urlFile = "@alertmanager.receivers.webhook.*.urlFile@";
          tokenFile = "@alertmanager.receivers.webhook.*.tokenFile@";
        }
      ];
      ntfy = [
        {
          url = "https://ntfy.example.org/aistack";
          tokenFile = "@alertmanager.receivers.ntfy.*.tokenFile@";
        }
      ];
    };
    settings.log.level = "debug";
    embeddings.settings.embeddings.threads = 2;
  };
}"""
HOSTS = {"elsewhere": EVERYTHING_ELSEWHERE, "here": EVERYTHING_HERE}

#: A password where somebody may think that it belongs. None of these may be accepted.
SLIPPED = {
    "redis.url": 'redis = { createLocally = false; url = "rediss://:@@h.example.org:6380/0"; };',
    "redis.url with a user": (
        'redis = { createLocally = false; url = "rediss://me:@@h.example.org:6380/0"; };'
    ),
    "settings.redis.url": 'settings.redis.url = "redis://:@@127.0.0.1:6379/0";',
    "embeddings.settings.redis.url": (
        'embeddings.settings.redis.url = "redis://:@@127.0.0.1:6379/0";'
    ),
    "settings.llama.address": (
        'llama.enable = false; settings.llama.address = "https://me:@@h.example.org";'
    ),
    "settings.peers.embeddings": 'settings.peers.embeddings = "http://me:@@h.example.org:80";',
    "settings.tracing.endpoint": 'settings.tracing.endpoint = "http://me:@@h.example.org:4317";',
    "tracing.endpoint": 'tracing.endpoint = "http://me:@@h.example.org:4317";',
    "postgresql.host": (
        'postgresql = { createLocally = false; host = "postgresql://me:@@h.example.org/db";'
        ' passwordFile = "/run/secrets/pg"; };'
    ),
    "llama.instances.<name>.url": (
        'llama.instances.chat = { url = "https://me:@@h.example.org/m.gguf";'
        ' hash = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="; };'
    ),
    "llama.instances.<name>.extraArgs": 'llama.instances.chat.extraArgs = [ "--api-key" "@" ];',
    "alertmanager.receivers.webhook.*.url": (
        'alertmanager.receivers.webhook = [ { url = "https://me:@@h.example.org/hook"; } ];'
    ),
    "alertmanager.receivers.ntfy.*.url": (
        'alertmanager.receivers.ntfy = [ { url = "https://me:@@h.example.org/topic"; } ];'
    ),
    "qdrant.settings": 'qdrant = { enable = true; settings.service.api_key = "@"; };',
    "qdrant.url": (
        'qdrant = { url = "https://me:@@h.example.org"; apiKeyFile = "/run/secrets/q"; };'
    ),
    "settings with an API key": 'settings.coordinator.collection = "ais_0123abcd_@";',
}
#: Options that hold an address of something, and no password can be part of it.
WITHOUT_CREDENTIALS = {
    "alertmanager.receivers.email.*.smarthost",
    "machines.listenAddresses",
    "nginx.hostName",
    "nginx.limits.exemptAddresses",
    "nginx.listenAddresses",
    "openWebui.hostName",
    "prometheus.runbookUrl",
    "qdrant.cluster.uri",
}


@pytest.fixture(scope="module", params=LIBS)
def tool(request: pytest.FixtureRequest) -> Nix:
    """Each `lib` in turn."""
    chosen: Nix = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture(scope="module")
def reference(nix_tool: Nix) -> Reference:
    """The options as the reference has them."""
    return read(nix_tool)


def planted(template: str, folder: Path) -> str:
    """The module with planted files."""

    def plant(match: re.Match[str]) -> str:
        path = folder / f"{match[1].replace('*', 'each')}.secret"
        path.write_text(f"{MARK}-{path.name}\n", encoding="utf-8")
        return str(path)

    return re.sub(r"@([\w.*]+)@", plant, template)


def test_every_option_of_a_secret_is_tried(reference: Reference) -> None:
    secret = {".".join(o.path) for o in reference.options if OUTSIDE in o.type}
    tried = {name for text in HOSTS.values() for name in re.findall(r"@([\w.*]+)@", text)}
    assert tried == secret
    assert len(secret) > 15


def test_what_is_called_like_a_secret_takes_no_value(reference: Reference) -> None:
    """Its type is a path outside the store, for every option with such a name."""
    called = re.compile(r"(File|Files|Key|Password|Secret|Token)$|^(key|password|secret|token)$")
    wrong = {
        o.name
        for o in reference.options
        if called.search(o.path[-1]) and OUTSIDE not in o.type and o.type != "boolean"
    }
    assert wrong == set()


@pytest.mark.parametrize("name", HOSTS)
def test_no_content_of_a_secret_reaches_the_store(tool: Nix, name: str, tmp_path: Path) -> None:
    host = tool.host(BASE, planted(HOSTS[name], tmp_path))
    written = texts(tool, host)
    assert len(written) > 50
    assert [path for path, text in written.items() if MARK in text] == []
    # The files were known to the evaluation: it names them.
    assert any(str(tmp_path) in text for text in written.values())


@pytest.mark.parametrize("name", HOSTS)
def test_units_get_secrets_as_credentials_only(tool: Nix, name: str, tmp_path: Path) -> None:
    """Not as an argument, not in the environment."""
    host = tool.host(BASE, planted(HOSTS[name], tmp_path))
    units: dict[str, str] = tool.eval_json(f"{host}.config.system.build.units")
    lines = [
        (unit, line.partition("=")[0])
        for unit, text in units.items()
        for line in text.splitlines()
        if str(tmp_path) in line
    ]
    assert len(lines) > 5
    assert {key for _, key in lines} <= {"LoadCredential", "PathChanged"}, lines


def test_a_planted_secret_would_be_found(nix_tool: Nix, tmp_path: Path) -> None:
    """The scan sees what a careless module would do."""
    secret = tmp_path / "careless.secret"
    secret.write_text(f"{MARK}-careless", encoding="utf-8")
    for careless in (
        f"systemd.services.nginx.environment.TOKEN = builtins.readFile {secret};",
        f'systemd.services.nginx.serviceConfig.ExecStartPre = [ "/bin/sh ${{{secret}}}" ];',
    ):
        written = texts(nix_tool, nix_tool.host(BASE, f"{{ {careless} }}"))
        assert [path for path, text in written.items() if MARK in text]


def test_types_of_secrets_refuse_what_would_be_copied(tool: Nix) -> None:
    """A path literal, a path in the store, and a relative one, for the type of each option."""
    found = tool.eval_json(
        f"let host = {tool.host(BASE)}; inherit (nixpkgs) lib;"
        """
        option = value: lib.isAttrs value && value._type or null == "option";
        leaf = type: if type.nestedTypes ? elemType then leaf type.nestedTypes.elemType else type;
        walk = tree: lib.concatLists (lib.mapAttrsToList (_: node:
          if !option node then lib.optionals (lib.isAttrs node) (walk node)
          else [ node ] ++ walk (removeAttrs (node.type.getSubOptions node.loc) [ "_module" ])
        ) tree);
        files = lib.filter (o: lib.hasInfix "not in the Nix store" (leaf o.type).description)
          (walk host.options.services.aistack);
        in map (o: {
          name = lib.concatStringsSep "." o.loc;
          literal = (leaf o.type).check """ + f"{Path(__file__)};"
        """
          store = (leaf o.type).check "/nix/store/00000000000000000000000000000000-secret";
          relative = (leaf o.type).check "secret.txt";
          outside = (leaf o.type).check "/run/secrets/x";
        }) files"""
    )
    assert len(found) > 15
    for option in found:
        answers = [option[k] for k in ("literal", "store", "relative", "outside")]
        assert answers == [False, False, False, True], option["name"]


def test_a_password_in_an_address_is_refused(tool: Nix) -> None:
    """Each alone; what is accepted would be in the store."""
    password = "Hunter2Planted"

    def outcome(settings: str) -> str:
        # One sign stands for the password, so that the table is read easily.
        module = re.sub(r"@(?=@|\"|\s)", password, settings)
        assert password in module, settings
        host = tool.host(BASE, f"{{ services.aistack = {{ {module} }}; }}")
        try:
            written = texts(tool, host)
        except NixError as refused:
            said = re.sub(r"\s+", " ", str(refused))
            if "Failed assertions:" in said or "is not of type" in said:
                return "refused"
            return f"another error: {said[-300:]}"
        kept = [path.split("-", 1)[1] for path, text in written.items() if password in text]
        return f"accepted, and in the store: {json.dumps(kept)}"

    with ThreadPoolExecutor(max_workers=2) as pool:
        outcomes = dict(zip(SLIPPED, pool.map(outcome, SLIPPED.values()), strict=True))
    assert {name: said for name, said in outcomes.items() if said != "refused"} == {}


def test_every_option_with_an_address_is_tried(reference: Reference) -> None:
    """A new one is either in the table of slipped passwords or said to hold none."""
    called = re.compile(r"(url|uri|address|addresses|endpoint|host|hostname)$", re.IGNORECASE)
    addresses = {
        ".".join(o.path)
        for o in reference.options
        if called.search(o.path[-1]) and "string" in o.type
    }
    assert addresses - set(SLIPPED) - WITHOUT_CREDENTIALS == set()
