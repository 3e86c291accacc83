"""nginx as the module sets it up, on a real nginx: it does what the development front door does."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl

import httpx
import pytest

from aistack.dev.front import Receive, Send
from aistack.dev.headers import Scope
from aistack.service.keys import make_token
from aistack.stack import load_stack
from fix_front import piece, start
from fix_site import Both, Site

STACK = load_stack()


ROUTES = [route for entry in STACK.services.values() for route in (*entry.routes, entry.docs_path)]
PATHS = [
    *(f"{route}{rest}" for route in ROUTES for rest in ("", "/", "/x/y?q=%2F", "x", "/%20%41")),
    *("/livez", "/readyz", "/metrics", "/v1", "/v1/", "/docs", "/docs/", "/nope", "//metrics"),
    *("//v1/search", "/v1//search", "/V1/search", "/.aistack/bad-request", "/docs/embeddings/../x"),
]


async def test_every_path_goes_where_the_development_front_door_sends_it(both: Both) -> None:
    different = []
    for path in PATHS:
        for method in ("GET", "POST"):
            nginx, front = await both.ask(method, path)
            if path == "/docs/embeddings/../x":
                # The one difference: nginx resolves dots first, the front door takes them as names.
                assert nginx.routed == (404, [], b"")
            elif nginx.routed != front.routed:
                different.append((method, path, nginx.routed, front.routed))
    assert different == []


async def test_health_pages_have_no_way_through(both: Both) -> None:
    """However the path is written: nginx and the services take it for the same."""
    ways = ["", "/", "/v1/embeddings/..", "/docs/aidb/%2e%2e/..", "/embed/..%2f", "/x/../", "/."]
    for way in ways:
        for page in ("/metrics", "/readyz", "/livez", "/metrics/", "/%6detrics"):
            answer = await both.one(both.nginx, "GET", way + page)
            assert (answer.response.status_code, answer.reached) == (404, []), way + page


async def test_unknown_path_is_a_problem_with_the_front_doors_words(both: Both) -> None:
    nginx, front = await both.ask("GET", "/nope?secret=1")
    assert nginx.response.headers["content-type"] == "application/problem+json"
    said, expected = nginx.response.json(), front.response.json()
    assert said.pop("error_id") == nginx.response.headers["x-error-id"]
    expected.pop("error_id")
    assert said == expected


async def test_index_is_the_same(both: Both) -> None:
    nginx, front = await both.ask("GET", "/")
    assert nginx.response.json() == front.response.json()
    nginx, front = await both.ask("GET", "/", headers={"accept": "text/html,*/*"})
    assert nginx.response.headers["content-type"] == front.response.headers["content-type"]
    links = re.findall(r'href="[^"]+"', front.response.text)
    assert sorted(re.findall(r'href="[^"]+"', nginx.response.text)) == sorted(links) != []


SHOWN = ("x-request-id", "x-forwarded-for", "x-forwarded-host", "x-aistack-key-id", "forwarded",
         "traceparent", "tracestate", "authorization", "connection", "te", "upgrade",
         "x-real-ip")  # fmt: skip


async def test_headers_cross_as_through_the_front_door(both: Both) -> None:
    given = {
        "x-request-id": "abc-1.2_3",
        "traceparent": "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01",
        "tracestate": "a=b",
        "authorization": "Bearer x",
        "x-forwarded-for": "6.6.6.6",
        "x-forwarded-host": "evil.example",
        "x-aistack-key-id": "someone",
        "x-real-ip": "6.6.6.6",
        "forwarded": "for=6.6.6.6",
        "host": "localhost",
    }
    nginx, front = await both.ask("GET", "/v1/search", headers=given)
    told = [{k: a.told.get(k.encode()) for k in SHOWN} for a in (nginx, front)]
    assert told[0].pop("connection") == b"close"  # one request a connection
    told[1].pop("connection")
    assert told[1].pop("x-real-ip") == b"6.6.6.6"  # the front door knows no such header
    assert told[0].pop("x-real-ip") is None
    assert told[0] == told[1]
    assert nginx.told[b"x-forwarded-proto"] == b"https"
    assert nginx.response.headers["x-request-id"] == "abc-1.2_3"


async def test_request_id_that_is_not_decent_is_replaced(both: Both) -> None:
    for given in ("a b", "x" * 129, "a:b", '"', "é"):
        answer = await both.one(
            both.nginx, "GET", "/embed", headers={"x-request-id": given.encode()}
        )
        made = answer.response.headers.get_list("x-request-id")
        assert len(made) == 1
        assert re.fullmatch(r"[0-9a-f]{32}", made[0]), given
        assert answer.told[b"x-request-id"].decode() == made[0]


async def test_stream_arrives_piece_by_piece(both: Both) -> None:
    gate = asyncio.Event()

    async def stream(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send(start(200, (b"content-type", b"text/event-stream")))
        for number in range(5):
            await send(piece(b"data: %d\n\n" % number))
            await gate.wait()
            gate.clear()
        await send(piece(b"", more=False))

    both.upstreams["coordinator"].behave = stream
    got = []
    async with both.nginx.stream("POST", "/v1/chat/completions", json={}) as response:
        async for chunk in response.aiter_bytes():
            # The next piece is made only when this one has come: nothing in between may wait.
            got.append(chunk)
            gate.set()
    assert got == [b"data: %d\n\n" % number for number in range(5)]


async def test_answer_that_breaks_off_is_not_given_an_end(both: Both) -> None:
    async def breaks(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send(start(200, (b"content-length", b"100")))
        await send(piece(b"half"))
        raise RuntimeError("dies")

    both.upstreams["aidb"].behave = breaks
    with pytest.raises(httpx.RemoteProtocolError):
        await both.nginx.get("/v1/search")


async def test_errors_of_a_service_pass_unchanged(both: Both) -> None:
    async def refuses(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send(
            start(503, (b"retry-after", b"7"), (b"x-error-id", b"err_1"), (b"x-request-id", b"z"))
        )
        await send(piece(b"its own words", more=False))

    both.upstreams["aidb"].behave = refuses
    response = await both.nginx.post("/v1/search")
    assert (response.status_code, response.content) == (503, b"its own words")
    assert response.headers.get_list("retry-after") == ["7"]
    assert response.headers.get_list("x-error-id") == ["err_1"]
    assert len(response.headers.get_list("x-request-id")) == 1
    assert response.headers["x-request-id"] != "z"


async def test_a_service_cannot_make_nginx_serve_its_own_files(both: Both) -> None:
    async def leads(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send(start(200, (b"x-accel-redirect", b"/")))
        await send(piece(b"mine", more=False))

    both.upstreams["aidb"].behave = leads
    assert (await both.nginx.get("/v1/search")).content == b"mine"


async def test_security_headers_are_there_once(both: Both) -> None:
    async def page(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send(start(200, (b"content-security-policy", b"default-src 'self'"),
                         (b"referrer-policy", b"same-origin")))  # fmt: skip
        await send(piece(b"page", more=False))

    plain = (await both.nginx.get("/v1/search")).headers
    assert plain["content-security-policy"].startswith("default-src 'none'")
    assert plain["x-content-type-options"] == "nosniff"
    assert plain["referrer-policy"] == "no-referrer"
    assert plain["server"] == "nginx"
    assert "strict-transport-security" not in plain  # a self-signed certificate
    both.upstreams["aidb"].behave = page
    docs = (await both.nginx.get("/docs/aidb")).headers
    assert docs.get_list("content-security-policy") == ["default-src 'self'"]
    assert docs.get_list("referrer-policy") == ["same-origin"]


def test_plain_http_leads_to_https_and_keeps_method_host_and_port(site: Site) -> None:
    with httpx.Client() as client:
        for port in (site.http, site.https):
            answer = client.post(f"http://localhost:{port}/v1/search?q=%20a")
            assert answer.status_code == 308
            assert answer.headers["location"] == f"https://localhost:{site.https}/v1/search?q=%20a"
        named = client.get(f"http://127.0.0.1:{site.http}/", headers={"host": "ai.example.org"})
        assert named.headers["location"] == f"https://ai.example.org:{site.https}/"


def test_certificate_is_elliptic_and_names_this_machine(site: Site) -> None:
    der = ssl.PEM_cert_to_DER_cert(site.certificate.read_text())
    known = ssl.create_default_context(cafile=str(site.certificate))
    known.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    with httpx.Client(verify=known) as client:
        assert client.get(f"https://localhost:{site.https}/").status_code == 200
        assert client.get(f"https://127.0.0.1:{site.https}/").status_code == 200
    assert b"\x2a\x86\x48\xce\x3d\x03\x01\x07" in der  # prime256v1 (RFC 5480)
    assert (site.directory / "tls/server.pem").stat().st_mode & 0o777 == 0o640


def test_http2_is_spoken(site: Site) -> None:
    context = site.context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", site.https)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        assert secure.selected_alpn_protocol() == "h2"


async def test_log_line_has_no_secret(both: Both) -> None:
    token = make_token("abcdefghij")
    await both.nginx.post(
        "/v1/search?q=confidential", json={"query": "private words"},
        headers={"authorization": f"Bearer {token}", "x-request-id": "the-line"},
    )  # fmt: skip
    line = next(line for line in both.site.log().splitlines() if "the-line" in line)
    said = json.loads(line)
    assert said["path"] == "/v1/search"
    assert (said["status"], said["service"], said["key_id"]) == (200, "aidb", "abcdefghij")
    assert token not in both.site.log() + both.site.errors()
    assert token[-20:] not in line
    assert "confidential" not in line
    assert "private" not in line


def test_metrics_are_on_loopback_under_the_services_name(site: Site) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{site.metrics}") as client:
        assert "Active connections" in client.get("/nginx_status").text
        assert client.get("/metrics").status_code == 404
        assert client.get("/nginx_status", headers={"host": "evil.example"}).status_code == 421
        # Nothing listens there in this test: nginx tried.
        assert client.get("/aidb/metrics").status_code == 502
    listening = re.findall(r"listen ([^;]*);", (site.directory / "nginx.conf").read_text())
    assert all(word.startswith("127.0.0.1:") for word in listening)
