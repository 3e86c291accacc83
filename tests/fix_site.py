"""nginx, Debian's, on the configuration that the NixOS module gives, in a folder of the test."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from aistack.dev.front import FrontDoor
from aistack.dev.process import launch_command
from aistack.stack import load_stack
from fix_front import Upstream, serving, tcp, unix
from nix import checking
from nix.debian import Prefix
from nix.required import needed
from nix.toolchain import SYSTEM, Nix

START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Rendered:
    """What the module gives: the configuration's text, the index page, the certificate's script."""

    configuration: str
    index: str
    script: str


@dataclass(slots=True)
class Site:
    """A running nginx; `sockets` is where it looks for the services."""

    directory: Path
    sockets: Path
    https: int
    http: int
    metrics: int
    process: subprocess.Popen[bytes]

    @property
    def certificate(self) -> Path:
        return self.directory / "tls" / "certificate.pem"

    def context(self) -> ssl.SSLContext:
        """Trusts the self-signed certificate alone, and checks names."""
        return ssl.create_default_context(cafile=str(self.certificate))

    def client(self, **keywords: Any) -> httpx.Client:
        return httpx.Client(
            base_url=f"https://localhost:{self.https}",
            verify=self.context(),
            timeout=60,
            **keywords,
        )

    def log(self) -> str:
        """The access log; a line is written when its request is over."""
        return (self.directory / "log" / "aistack.log").read_text(encoding="utf-8")

    def errors(self) -> str:
        return (self.directory / "error.log").read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(START_SECONDS)
        finally:
            self.process.kill()


@pytest.fixture(scope="session")
def nginx_prefix() -> Prefix:
    """Debian's nginx; skips where its package cannot be had."""
    with needed():
        return checking.nginx()


@contextmanager
def free_ports(count: int) -> Iterator[list[int]]:
    """Ports of 127.0.0.1 that are nobody else's inside the block.

    The sockets that hold them do not listen, and let a server bind beside them if it sets
    SO_REUSEADDR too, as servers do. The kernel gives such a port to nobody who asks for any.
    """
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("127.0.0.1", 0))
        yield [one.getsockname()[1] for one in held]


def render(nix: Nix, *modules: str) -> Rendered:
    """Evaluate a host; `enableReload` puts the configuration's text into /etc, where we find it."""
    host = nix.host(
        "{ services.aistack.enable = true; services.nginx.enableReload = true;"
        ' system.stateVersion = "26.05"; }',
        *modules,
    )
    given = nix.eval_json(
        f"let c = {host}.config; pkgs = nixpkgs.legacyPackages.{SYSTEM};"
        ' index = c.services.nginx.virtualHosts.aistack.locations."= /".root;'
        ' script = c.systemd.services.aistack-tls.script or "";'
        ' in { configuration = c.environment.etc."nginx/nginx.conf".source.text;'
        ' inherit script; index = "${index}";'
        ' needed = (pkgs.writeText "needed" "${index} ${script}").drvPath; }'
    )
    # The files that the texts refer to.
    nix.build(f'{{ drvPath = "{given.pop("needed")}"; }}')
    return Rendered(**given)


def rewritten(rendered: Rendered, into: Path, sockets: Path, debian: Prefix) -> str:
    """The configuration for a test's folders. This is the whole list of what is changed."""
    changes = [
        # Files of the nginx package and of mailcap.
        (r"/nix/store/[^ ;]*/(?:conf|etc/nginx)/", f"{debian.root}/etc/nginx/"),
        # Where services listen, and where nginx may write.
        (r"unix:/run/aistack/", f"unix:{sockets}/"),
        (r"unix:/run/aistack-", f"unix:{into}/run-"),
        (r"/run/nginx/", f"{into}/"),
        (r"/var/lib/aistack-tls/", f"{into}/tls/"),
        (r"/run/credentials/nginx\.service/", f"{into}/credentials/"),
        (r"/var/log/nginx/", f"{into}/log/"),
        (r"error_log stderr;", f"error_log {into}/error.log info;"),
        # The index page, which is in the test's store.
        (re.escape(rendered.index), f"{into}/index"),
        # Debian's own folders, compiled in.
        (r"(?m)^http \{", "http {\n  access_log off;\n" + "".join(
            f"  {kind}_temp_path {into}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )),
    ]  # fmt: skip
    text = rendered.configuration
    for pattern, replacement in changes:
        text = re.sub(pattern, replacement, text)
    # As root, workers would become nobody, who may not open the test's sockets.
    return ("user root root;\n" if os.getuid() == 0 else "") + text


def make_certificate(rendered: Rendered, nix: Nix, directory: Path) -> None:
    """Run the script of aistack-tls.service."""
    script = re.sub(
        r"/nix/store/[\w.-]+\.cnf", lambda m: str(nix.outside(m.group(0))), rendered.script
    )
    runtime = directory / "runtime"
    runtime.mkdir(exist_ok=True)
    state = directory / "tls"
    state.mkdir(exist_ok=True)
    subprocess.run(
        ["bash", "-e", "-c", "umask 0027\n" + script],
        check=True,
        capture_output=True,
        env={**os.environ, "STATE_DIRECTORY": str(state), "RUNTIME_DIRECTORY": str(runtime)},
    )


@contextmanager
def running(
    nix: Nix, debian: Prefix, directory: Path, sockets: Path, *modules: str
) -> Iterator[Site]:
    """nginx in front of the sockets in `sockets`; `modules` change the host."""
    with free_ports(3) as ports:
        yield from _running(nix, debian, directory, sockets, ports, *modules)


def _running(
    nix: Nix, debian: Prefix, directory: Path, sockets: Path, ports: list[int], *modules: str
) -> Iterator[Site]:
    https, http, metrics = ports
    rendered = render(
        nix,
        '{ services.aistack.nginx = { listenAddresses = [ "127.0.0.1" ]; accessLog = "file";'
        f" httpPort = {http}; httpsPort = {https}; metricsPort = {metrics}; }}; }}",
        *modules,
    )
    for name in ("log", "credentials"):
        (directory / name).mkdir(exist_ok=True)
    if not (directory / "index").exists():
        (directory / "index").mkdir()
        for link in nix.outside(rendered.index).iterdir():
            shutil.copy(nix.outside(os.readlink(link)), directory / "index" / link.name)
    if rendered.script:
        make_certificate(rendered, nix, directory)
    configuration = directory / "nginx.conf"
    configuration.write_text(rewritten(rendered, directory, sockets, debian), encoding="utf-8")
    command = debian.command("nginx", "-c", configuration, "-e", directory / "error.log")
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "[warn]" not in checked.stderr, checked.stderr
    site = Site(directory, sockets, https, http, metrics, subprocess.Popen(command))
    try:
        _wait(site)
        yield site
    finally:
        site.stop()


def _wait(site: Site) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and site.process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", site.https)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError(f"nginx does not listen:\n{site.errors()}")


@dataclass(slots=True)
class Activated:
    """A service whose listening socket outlives it, as with a systemd socket unit."""

    directory: Path
    code: str
    listening: socket.socket
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def listening_at(cls, path: Path, code: str) -> Iterator[Activated]:
        """A service that runs `code` when it is started; its socket listens now."""
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
            listening.listen(2048)
            try:
                yield cls(path.parent, code, listening)
            finally:
                path.unlink()

    def start(self) -> None:
        """Start a process that finds the socket as descriptor 3.

        It dies with the thread that calls this (PR_SET_PDEATHSIG): call it from the main one.
        """
        with (self.directory / "service.log").open("ab") as log:
            self.process = subprocess.Popen(
                launch_command([sys.executable, "-c", self.code], listen=self.listening.fileno()),
                pass_fds=[self.listening.fileno()],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def stop(self, seconds: float = 30) -> None:
        """SIGTERM and its end; asserts a clean one."""
        assert self.process is not None
        self.process.terminate()
        status = self.process.wait(seconds)
        assert status == 0, (self.directory / "service.log").read_text(encoding="utf-8")[-4000:]


@pytest.fixture(scope="module")
def site(
    nix_tool: Nix, nginx_prefix: Prefix, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    with running(nix_tool, nginx_prefix, directory, tmp_path_factory.mktemp("s")) as started:
        yield started


@dataclass
class Both:
    """The same upstreams behind nginx and behind the development front door."""

    site: Site
    nginx: httpx.AsyncClient
    front: httpx.AsyncClient
    upstreams: dict[str, Upstream]

    async def ask(self, method: str, path: str, **keywords: Any) -> tuple[Answer, Answer]:
        return (
            await self.one(self.nginx, method, path, **keywords),
            await self.one(self.front, method, path, **keywords),
        )

    async def one(self, client: httpx.AsyncClient, method: str, path: str, **given: Any) -> Answer:
        for upstream in self.upstreams.values():
            upstream.scopes.clear()
        # The path as it is: a client library would tidy it.
        response = await client.request(method, "/", extensions={"target": path.encode()}, **given)
        reached = [name for name, one in self.upstreams.items() if one.scopes]
        seen = [dict(one.scopes[-1]["headers"]) for one in self.upstreams.values() if one.scopes]
        raw = [one.scopes[-1]["raw_path"] for one in self.upstreams.values() if one.scopes]
        return Answer(response, reached, seen[0] if seen else {}, raw[0] if raw else b"")


@dataclass
class Answer:
    response: httpx.Response
    reached: list[str]
    told: dict[bytes, bytes]
    raw_path: bytes

    @property
    def routed(self) -> tuple[int, list[str], bytes]:
        return self.response.status_code, self.reached, self.raw_path


@pytest.fixture
async def both(site: Site) -> AsyncIterator[Both]:
    upstreams = {name: Upstream() for name in load_stack().services}
    front = FrontDoor(
        load_stack(), {name: site.sockets / f"{name}.sock" for name in load_stack().services}
    )
    listening = tcp()
    async with contextlib.AsyncExitStack() as stack:
        for name, upstream in upstreams.items():
            path = site.sockets / f"{name}.sock"
            path.unlink(missing_ok=True)
            await stack.enter_async_context(serving(upstream, unix(path)))
            stack.callback(path.unlink)
        stack.push_async_callback(front.aclose)
        await stack.enter_async_context(serving(front, listening))
        nginx = await stack.enter_async_context(
            httpx.AsyncClient(
                base_url=f"https://localhost:{site.https}", verify=site.context(), timeout=30
            )
        )
        port = listening.getsockname()[1]
        other = await stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30)
        )
        yield Both(site, nginx, other, upstreams)
