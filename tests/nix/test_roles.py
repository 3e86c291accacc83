"""Services on several machines: real nginx with mutual TLS between them, and what is evaluated."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from aistack.stack import load_stack
from fix_front import Upstream, serving, unix
from fix_site import Site, free_ports, running
from nix.debian import Prefix
from nix.hosts import BASE
from nix.toolchain import Nix, NixError

NAME = "aistack.internal"
FILES = """machines = {
  authority = "/run/s/ca.pem"; certificate = "/run/s/m.pem"; certificateKey = "/run/s/m.key";
  listenAddresses = [ "127.0.0.1" ];"""


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority of the stack's own, as its owner makes one; see docs."""

    directory: Path

    @classmethod
    def make(cls, directory: Path) -> Authority:
        directory.mkdir()
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                "-days", "2", "-subj", "/CN=aistack machines", "-keyout", directory / "ca.key",
                "-out", directory / "ca.pem")  # fmt: skip
        return cls(directory)

    def certify(self, into: Path, name: str = NAME) -> None:
        """The three files of a machine, as nginx gets them: credentials of its unit."""
        into.mkdir(parents=True, exist_ok=True)
        key, request = into / "aistack-machine-key", into / "request"
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                "-subj", "/CN=machine", "-addext", f"subjectAltName=DNS:{name}",
                "-keyout", key, "-out", request)  # fmt: skip
        openssl("x509", "-req", "-in", request, "-CA", self.directory / "ca.pem",
                "-CAkey", self.directory / "ca.key", "-CAcreateserial", "-days", "2",
                "-copy_extensions", "copy",
                "-out", into / "aistack-machine-certificate")  # fmt: skip
        (into / "aistack-machine-authority").write_bytes((self.directory / "ca.pem").read_bytes())


@dataclass(frozen=True, slots=True)
class Machines:
    """`front` has the site and the coordinator; `far` and `spare` have aidb."""

    front: Site
    far: Site
    far_port: int
    spare_port: int
    authority: Authority

    @property
    def window(self) -> Path:
        """Where services of `front` find aidb."""
        return self.front.directory / "run-remote/aidb/aidb.sock"


@pytest.fixture(scope="module")
def ports() -> Iterator[list[int]]:
    with free_ports(3) as held:
        yield held


@pytest.fixture(scope="module")
def machines(
    nix_tool: Nix, nginx_prefix: Prefix, ports: list[int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machines]:
    far_port, front_port, spare_port = ports
    base = tmp_path_factory.mktemp("m")
    authority = Authority.make(base / "ca")
    for name in ("far", "front"):
        authority.certify(base / name / "credentials")
        (base / name / "s").mkdir()
    (base / "front/run-remote/aidb").mkdir(parents=True)
    far_module = (
        f'{{ services.aistack = {{ roles = [ "aidb" "data" ]; {FILES}'
        f" enable = true; port = {far_port}; }};"
        ' replicas.embeddings = [ "127.0.0.1:1" ]; nginx.enable = true; }; }'
    )
    front_module = (
        '{ services.aistack = { roles = [ "front" "coordinator" ];'
        f" {FILES} port = {front_port}; }};"
        f' replicas = {{ aidb = [ "127.0.0.1:{spare_port}" "127.0.0.1:{far_port}" ];'
        ' embeddings = [ "127.0.0.1:1" ]; llama = [ "127.0.0.1:1" ]; }; }; }'
    )
    for name in ("embeddings", "llama"):
        (base / f"front/run-remote/{name}").mkdir()
        (base / f"far/run-remote/{name}").mkdir(parents=True)
    with (
        running(nix_tool, nginx_prefix, base / "far", base / "far/s", far_module) as far,
        running(nix_tool, nginx_prefix, base / "front", base / "front/s", front_module) as front,
    ):
        yield Machines(front, far, far_port, spare_port, authority)


@pytest.fixture
async def aidb(machines: Machines) -> AsyncIterator[Upstream]:
    upstream = Upstream()
    path = machines.far.sockets / "aidb.sock"
    async with serving(upstream, unix(path)):
        yield upstream
    path.unlink()


async def test_site_asks_the_machine_that_is_up(machines: Machines, aidb: Upstream) -> None:
    """The first replica is away: nothing was sent to it, so even a POST goes to the next."""
    async with httpx.AsyncClient(
        base_url=f"https://localhost:{machines.front.https}", verify=machines.front.context()
    ) as client:
        for _ in range(4):
            answer = await client.post(
                "/v1/search?q=%2Fx", content=b"body", headers={"x-request-id": "across"}
            )
            assert answer.status_code == 200, answer.text
    assert aidb.bodies == [b"body"] * 4
    assert aidb.header(b"x-request-id") == [b"across"]
    assert aidb.header(b"x-forwarded-for") == [b"127.0.0.1"]
    assert aidb.header(b"x-forwarded-proto") == [b"https"]
    assert aidb.scopes[-1]["raw_path"] == b"/v1/search"


async def test_service_finds_another_machines_at_a_socket(
    machines: Machines, aidb: Upstream
) -> None:
    """What it says to it, its internal key and the caller's id, arrives as it was said."""
    transport = httpx.AsyncHTTPTransport(uds=str(machines.window))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        headers = {"authorization": "Bearer internal", "x-aistack-key-id": "caller"}
        answer = await client.post("/v1/search", json={}, headers=headers)
        assert answer.status_code == 200, answer.text
        assert (await client.get("/readyz")).status_code == 200
    assert aidb.scopes[0]["path"] == "/v1/search"
    told = dict(aidb.scopes[0]["headers"])
    assert told[b"authorization"] == b"Bearer internal"
    assert told[b"x-aistack-key-id"] == b"caller"


def test_all_replicas_away_is_503_for_site_and_services(machines: Machines) -> None:
    with machines.front.client() as client:
        answer = client.post("/v1/search", json={})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert answer.headers["content-type"] == "application/problem+json"
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(machines.window))) as client:
        answer = client.post("http://localhost/v1/search", json={})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert answer.json()["error_id"] == answer.headers["x-error-id"]


def _client(machines: Machines, credentials: Path | None) -> httpx.Client:
    context = ssl.create_default_context(cafile=str(machines.authority.directory / "ca.pem"))
    context.check_hostname = False
    if credentials is not None:
        context.load_cert_chain(
            credentials / "aistack-machine-certificate", credentials / "aistack-machine-key"
        )
    return httpx.Client(base_url=f"https://127.0.0.1:{machines.far_port}", verify=context)


async def test_door_opens_to_the_stacks_certificates_alone(
    machines: Machines, aidb: Upstream, tmp_path: Path
) -> None:
    named = {"host": f"aidb.{NAME}"}
    stranger = Authority.make(tmp_path / "other")
    stranger.certify(tmp_path / "stranger")
    for credentials in (None, tmp_path / "stranger"):
        with _client(machines, credentials) as client:
            assert client.get("/v1/search", headers=named).status_code == 400
    assert aidb.scopes == []
    ours = machines.front.directory / "credentials"
    with _client(machines, ours) as client:
        answer = await asyncio.to_thread(client.get, "/v1/search", headers=named)
        assert answer.status_code == 200
        assert client.get("/v1/search").status_code == 421
        assert client.get("/v1/search", headers={"host": f"coordinator.{NAME}"}).status_code == 421


async def test_machine_with_another_name_is_not_asked(
    machines: Machines, nix_tool: Nix, nginx_prefix: Prefix,
    tmp_path_factory: pytest.TempPathFactory, aidb: Upstream,
) -> None:  # fmt: skip
    """The far end is verified too: a certificate for something else is no machine's."""
    folder = tmp_path_factory.mktemp("i")  # short, because paths of sockets are
    machines.authority.certify(folder / "credentials", name="elsewhere.example")
    (folder / "s").mkdir()
    module = (
        f'{{ services.aistack = {{ roles = [ "aidb" "data" ]; {FILES} enable = true;'
        f' port = {machines.spare_port}; }}; replicas.embeddings = [ "127.0.0.1:1" ];'
        " nginx.enable = true; }; }"
    )
    (folder / "run-remote/embeddings").mkdir(parents=True)
    with running(nix_tool, nginx_prefix, folder, folder / "s", module) as impostor:
        async with contextlib.AsyncExitStack() as stack:
            seen = Upstream()
            await stack.enter_async_context(serving(seen, unix(impostor.sockets / "aidb.sock")))
            client = await stack.enter_async_context(
                httpx.AsyncClient(
                    base_url=f"https://localhost:{machines.front.https}",
                    verify=machines.front.context(),
                )
            )
            statuses = set()
            end = time.monotonic() + 60
            # Earlier tests found that address away, so it is left alone for fail_timeout.
            while "does not match" not in machines.front.errors() and time.monotonic() < end:
                statuses.add((await client.get("/v1/search")).status_code)
                await asyncio.sleep(0.1)
        assert statuses == {200}  # by the true machine
        assert seen.scopes == []
    assert "upstream SSL certificate does not match" in machines.front.errors()


def _config(nix: Nix, module: str, attribute: str) -> object:
    host = nix.host(BASE, module)
    return nix.eval_json(f"{host}.config.{attribute}")


FRONT = f"""{{ services.aistack = {{ roles = [ "front" "coordinator" ]; {FILES} }};
  replicas = {{ aidb = [ "10.0.0.2:9443" ]; embeddings = [ "10.0.0.2:9443" "10.0.0.3:9443" ];
  llama = [ "10.0.0.4:9443" ]; }}; }}; }}"""


def test_roles_decide_what_runs(nix_tool: Nix) -> None:
    units = _config(nix_tool, FRONT, "systemd.units")
    assert isinstance(units, dict)
    assert "aistack-coordinator.service" in units
    assert "nginx.service" in units
    for absent in ("aistack-aidb.service", "aistack-embeddings.service", "postgresql.service",
                   "aistack-llama-chat.service", "prometheus.service"):  # fmt: skip
        assert absent not in units


def test_service_with_a_far_peer_keeps_no_network(nix_tool: Nix) -> None:
    units = _config(nix_tool, FRONT, "systemd.units")
    assert isinstance(units, dict)
    text = units["aistack-coordinator.service"]["text"]
    assert "PrivateNetwork=true" in text
    for peer in ("aidb", "embeddings", "llama"):
        assert f"SupplementaryGroups=aistack-{peer}-clients" in text
    rules = _config(nix_tool, FRONT, "systemd.tmpfiles.rules")
    assert isinstance(rules, list)
    assert "d /run/aistack-remote/aidb 0750 nginx aistack-aidb-clients -" in rules
    nginx = units["nginx.service"]["text"]
    assert "ReadWritePaths=/run/aistack-remote" in nginx
    assert "LoadCredential=aistack-machine-key:/run/s/m.key" in nginx


def test_every_replica_is_scraped_through_this_machine(nix_tool: Nix) -> None:
    scraped = _config(nix_tool, FRONT, "services.aistack.nginx.scrape")
    assert isinstance(scraped, list)
    assert {(one["service"], one["instance"]) for one in scraped} == {
        ("coordinator", "localhost"), ("aidb", "10.0.0.2:9443"),
        ("embeddings", "10.0.0.2:9443"), ("embeddings", "10.0.0.3:9443"),
    }  # fmt: skip
    assert {one["address"] for one in scraped} == {"127.0.0.1:9180"}


@pytest.mark.parametrize(
    ("module", "fix"),
    [
        (FRONT.replace('authority = "/run/s/ca.pem";', ""), "machines.authority"),
        (FRONT.replace("aidb =", "aidbb ="), "there is no such service"),
        ('{ services.aistack.roles = [ "front" ]; }', "services.aistack.replicas.coordinator ="),
        (FRONT.replace("machines = {", "machines = { port = 443;"), "choose another"),
        ('{ services.aistack.roles = [ "frontt" ]; }', "frontt"),
    ],
)
def test_wrong_configuration_says_what_to_write(nix_tool: Nix, module: str, fix: str) -> None:
    with pytest.raises(NixError, match=fix):
        _config(nix_tool, module, "system.build.toplevel.drvPath")


def test_the_table_has_the_services_that_roles_name(nix_tool: Nix) -> None:
    roles = _config(nix_tool, "{ }", "services.aistack.roles")
    assert set(load_stack().services) < set(roles)  # type: ignore[call-overload]
