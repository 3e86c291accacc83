"""Real exporters, a real Prometheus and systemd's real proxy, as the module configures them."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar, cast

import grpc
import httpx
import psycopg
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import TracerProvider

from aistack.config import Tracing
from aistack.service import tracing
from fix_embeddings import ValkeyProcess
from fix_observability import OBSERVABILITY
from fix_postgres import PostgresServer
from fix_site import free_ports
from nix.debian import Prefix
from nix.hosts import BASE
from nix.required import unavailable
from nix.toolchain import Nix

T = TypeVar("T")
KNOWN = tomllib.loads((OBSERVABILITY / "metrics.toml").read_text())
STUB_STATUS = (
    "Active connections: 3 \nserver accepts handled requests\n 16 16 31 \n"
    "Reading: 0 Writing: 1 Waiting: 2 \n"
)


def until(look: Callable[[], T | None], process: subprocess.Popen[bytes] | None = None) -> T:
    """What `look` gives as soon as it gives something; fails after a while."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if process is not None:
            assert process.poll() is None, "it has ended"
        if (found := look()) is not None:
            return found
        time.sleep(0.05)
    raise AssertionError("waited for a minute")


def fetched(url: str) -> str | None:
    """The page, None while nobody answers or it still starts."""
    try:
        answer = httpx.get(url, timeout=10)
    except httpx.TransportError:
        return None
    return None if answer.status_code == 503 else answer.raise_for_status().text


@contextmanager
def program(
    monitoring: Prefix, name: str, *arguments: str, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        monitoring.command(name, *arguments),
        env=os.environ | variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        finally:
            process.kill()


@contextmanager
def exporter(monitoring: Prefix, name: str, *flags: str, **variables: str) -> Iterator[str]:
    """A running exporter; its address. The last flag names the listening flag."""
    flag = "-web.listen-address" if name == "redis" else "--web.listen-address"
    command = f"prometheus-{name}-exporter"
    with free_ports(1) as (port,):
        listen = f"{flag}=127.0.0.1:{port}"
        with program(monitoring, command, listen, *flags, **variables) as process:
            until(lambda: fetched(f"http://127.0.0.1:{port}/"), process)
            yield f"http://127.0.0.1:{port}"


@contextmanager
def pages(answer: Callable[[str], tuple[int, str]], tls: Path | None = None) -> Iterator[int]:
    """An HTTP server on loopback; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text = answer(self.path)
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def has_all(text: str | None, kind: str) -> None:
    """Every metric that we take from that exporter is on its page."""
    assert text is not None
    there = set(re.findall(r"^([a-zA-Z_:][\w:]*)", text, re.MULTILINE))
    assert set(KNOWN[kind]["names"]) - there == set()


def test_node_exporter_with_our_metric_files(monitoring: Prefix, tmp_path: Path) -> None:
    (tmp_path / "aistack_backup.prom").write_text("aistack_backup_last_run_success 1\n")
    flag = f"--collector.textfile.directory={tmp_path}"
    with exporter(monitoring, "node", flag) as address:
        page = fetched(f"{address}/metrics")
    has_all(page, "node")
    assert "\naistack_backup_last_run_success 1\n" in str(page)


def test_postgres_exporter_with_pg_monitor(
    monitoring: Prefix, postgres_server: PostgresServer, database: str
) -> None:
    """As the role that the module makes, which is no superuser."""
    with psycopg.connect(postgres_server.dsn(), autocommit=True) as connection:
        connection.execute('CREATE ROLE "postgres-exporter" LOGIN')
        try:
            connection.execute('GRANT pg_monitor TO "postgres-exporter"')
            name = re.sub(r"user=\S+", "user=postgres-exporter", database) + " sslmode=disable"
            with exporter(monitoring, "postgres", DATA_SOURCE_NAME=name) as address:
                page = str(fetched(f"{address}/metrics"))
        finally:
            connection.execute('DROP ROLE "postgres-exporter"')
    has_all(page, "postgres")
    assert "\npg_up 1\n" in page


def test_redis_exporter_over_the_socket(monitoring: Prefix, valkey: ValkeyProcess) -> None:
    with exporter(monitoring, "redis", f"-redis.addr=unix://{valkey.socket}") as address:
        page = str(fetched(f"{address}/metrics"))
    has_all(page, "redis")
    assert "\nredis_up 1\n" in page


def test_nginx_exporter(monitoring: Prefix) -> None:
    with (
        pages(lambda _: (200, STUB_STATUS)) as port,
        exporter(
            monitoring, "nginx", f"--nginx.scrape-uri=http://127.0.0.1:{port}/nginx_status"
        ) as address,
    ):
        has_all(fetched(f"{address}/metrics"), "nginx")


def test_llama_cpp(llama_address: str) -> None:
    transport = httpx.HTTPTransport(uds=llama_address.removeprefix("unix:"))
    with httpx.Client(transport=transport, base_url="http://llama") as client:
        has_all(client.get("/metrics").text, "llama")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate with its key."""
    file = tmp_path / "server.pem"
    try:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-days", "30", "-subj", "/CN=localhost",
             "-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")],
            check=True, capture_output=True,
        )  # fmt: skip
    except FileNotFoundError:
        unavailable("openssl is not here: no certificate to look at")
    file.write_text((tmp_path / "key.pem").read_text() + (tmp_path / "cert.pem").read_text())
    return file


def test_probes_as_the_module_configures_them(
    monitoring: Prefix, nix_tool: Nix, certificate: Path
) -> None:
    config = nix_tool.build(
        f"{nix_tool.host(BASE)}.config.services.prometheus.exporters.blackbox.configFile"
    )
    status = {"/v1/search": 401, "/open": 200, "/dead": 503, "/readyz": 200}
    with (
        pages(lambda path: (status[path], ""), tls=certificate) as tls_port,
        pages(lambda path: (status[path], "")) as port,
        exporter(monitoring, "blackbox", f"--config.file={config}") as address,
    ):

        def probe(module: str, target: str) -> str:
            return str(fetched(f"{address}/probe?module={module}&target={target}"))

        guarded = probe("front", f"https://127.0.0.1:{tls_port}/v1/search")
        has_all(guarded, "blackbox")
        assert "\nprobe_success 1\n" in guarded
        found = re.search(r"^probe_ssl_earliest_cert_expiry (\S+)$", guarded, re.MULTILINE)
        assert found is not None
        assert 29 < (float(found[1]) - time.time()) / 86400 < 31
        for path in ("/open", "/dead"):
            assert "\nprobe_success 0\n" in probe("front", f"https://127.0.0.1:{tls_port}{path}")
        assert "\nprobe_success 1\n" in probe("ready", f"http://127.0.0.1:{port}/readyz")
        assert "\nprobe_success 0\n" in probe("ready", f"http://127.0.0.1:{port}/dead")


def test_prometheus_scrapes_what_the_module_says(
    monitoring: Prefix, nix_tool: Nix, tmp_path: Path
) -> None:
    """The rendered jobs and rules, in a real Prometheus whose targets are one stand-in."""
    host = nix_tool.host(BASE)
    jobs = nix_tool.eval_json(f"{host}.config.services.prometheus.scrapeConfigs")
    rules = nix_tool.build(f"builtins.head {host}.config.services.prometheus.ruleFiles")
    asked: set[str] = set()

    def answer(path: str) -> tuple[int, str]:
        asked.add(path)
        return 200, "probe_success 1\n" if path.startswith("/probe") else "aistack_ready 1\n"

    with pages(answer) as port:
        for job in jobs:
            job["scrape_interval"] = "1s"
            probed = job["metrics_path"] == "/probe" if job.get("metrics_path") else False
            for group in job["static_configs"]:
                if not probed:
                    group["targets"] = [f"127.0.0.1:{port}" for _ in group["targets"]]
            for rule in job.get("relabel_configs") or []:
                if rule["target_label"] == "__address__":
                    rule["replacement"] = f"127.0.0.1:{port}"
        config = tmp_path / "prometheus.json"
        config.write_text(json.dumps({"scrape_configs": strip(jobs), "rule_files": [str(rules)]}))
        with free_ports(1) as (own,), program(
            monitoring, "prometheus", f"--config.file={config}",
            f"--storage.tsdb.path={tmp_path}/tsdb", f"--web.listen-address=127.0.0.1:{own}",
        ) as process:  # fmt: skip
            expected = {
                ("aistack", "aidb"), ("aistack", "coordinator"), ("aistack", "embeddings"),
                ("aistack-ready", "aidb"), ("aistack-front", "embeddings"),
                ("aistack-llama", ""), ("aistack-node", ""), ("aistack-postgres", ""),
            }  # fmt: skip

            def seen() -> list[dict[str, str]] | None:
                text = fetched(f"http://127.0.0.1:{own}/api/v1/query?query=up==1")
                series = json.loads(text)["data"]["result"] if text else []
                labels = [cast(dict[str, str], entry["metric"]) for entry in series]
                have = {(entry["job"], entry.get("service", "")) for entry in labels}
                return labels if have >= expected else None

            found = until(seen, process)
            groups = json.loads(str(fetched(f"http://127.0.0.1:{own}/api/v1/rules")))
    llama = next(entry for entry in found if entry["job"] == "aistack-llama")
    assert llama["llama"] == "chat"
    front = {e["instance"] for e in found if e["job"] == "aistack-front"}
    assert "https://127.0.0.1:443/v1/embeddings" in front
    assert {"/aidb/metrics", "/coordinator/metrics", "/llama-chat/metrics"} <= asked
    assert len(groups["data"]["groups"]) >= 6


def strip(value: Any) -> Any:
    """Without what is null: an option that nobody set."""
    if isinstance(value, dict):
        return {key: strip(entry) for key, entry in value.items() if entry is not None}
    return [strip(entry) for entry in value] if isinstance(value, list) else value


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Stands where Tempo would: OTLP over gRPC on loopback."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.names += [span.name for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


def test_traces_go_through_systemds_proxy(
    nix_tool: Nix, systemd_tools: Prefix, tmp_path: Path
) -> None:
    """The rendered ExecStart, with the socket handed over as systemd does it."""
    rendered = nix_tool.eval_raw(
        f"{nix_tool.host(BASE)}.config.systemd.services.aistack-otlp.serviceConfig.ExecStart"
    ).split()
    assert rendered[0].endswith("/lib/systemd/systemd-socket-proxyd")
    collector = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    register: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    register(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    assert rendered[-1] == "127.0.0.1:4317"
    path = tmp_path / "otlp.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        proxy = systemd_tools.root / "usr/lib/systemd/systemd-socket-proxyd"
        command = [
            str(systemd_tools.loader), "--library-path", systemd_tools.library_path(), str(proxy),
            *rendered[1:-1], f"127.0.0.1:{port}",
        ]  # fmt: skip
        # LISTEN_PID must be the process's own number, which only it knows.
        hand_over = (
            "import os, sys; fd = int(sys.argv[1]); os.dup2(fd, 3);"
            " os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1');"
            " os.execv(sys.argv[2], sys.argv[2:])"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", hand_over, str(listener.fileno()), *command],
            pass_fds=[listener.fileno()],
        )
        try:
            provider = tracing.configure("probe", Tracing(endpoint=f"unix://{path}"))
            assert isinstance(provider, TracerProvider)
            with provider.get_tracer("test").start_as_current_span("through the proxy"):
                pass
            assert provider.force_flush(20_000)
            provider.shutdown()
        finally:
            process.terminate()
            process.wait(timeout=30)
            server.stop(None).wait()
    assert collector.names == ["through the proxy"]
