"""The API pages of every service, through the whole kit; nothing has to be started for them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest

from aistack.config import Config
from aistack.service import app as kit
from aistack.service import docs
from aistack.service.key_setup import init_store
from aistack.service.lifecycle import Runtime
from aistack.service.notify import Notifier
from aistack.service.run import create
from aistack.stack import load_stack

SERVICES = sorted(load_stack().services)


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def client(service: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The application of a service, not started."""
    paths = init_store(tmp_path, load_stack())
    config = Config.model_validate(
        {
            "auth": {
                "keys_file": str(paths.keys_file),
                "pepper_file": str(paths.pepper_file),
                "internal_key_file": str(paths.internal_key_file(service)),
            }
        }
    )
    made = create(load_stack().services[service].module, config)
    app = kit.build(made, config, Runtime(Notifier(None, None), start_seconds=5))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://front.test") as http:
        yield http
    await made.stop()


def document(client: httpx.AsyncClient) -> Any:
    """The OpenAPI document as the service makes it, past the gate that waits for the start."""
    transport = client._transport
    assert isinstance(transport, httpx.ASGITransport)
    app: Any = transport.app
    while not hasattr(app, "routes"):
        app = app.app
    return docs.document(app)


async def test_the_page_is_open_and_strict(client: httpx.AsyncClient, service: str) -> None:
    for path in (f"/docs/{service}", f"/docs/{service}/"):
        answer = await client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "{{" not in answer.text
        assert not re.search(r"""(src|href)=["'](https?:)?//""", answer.text)
        assert "<script>" not in answer.text


async def test_what_the_page_loads_is_there_and_typed(
    client: httpx.AsyncClient, service: str
) -> None:
    page = (await client.get(f"/docs/{service}")).text
    named = re.findall(r'(?:src|href)="(/docs/[^"]+/assets/[^"]+)"', page)
    assert len(named) == 5
    types = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    for path in named:
        answer = await client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(types[path.rpartition(".")[2]])
        again = await client.get(path, headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        other = await client.get(path, headers={"if-none-match": '"other"'})
        assert other.status_code == 200


@pytest.mark.parametrize(
    "name",
    [
        "../docs.py",
        "..%2fdocs.py",
        "%2e%2e/docs.py",
        "swagger-ui/LICENSE",
        "/etc/passwd",
        "..\\docs.py",
        "api.html",
        "",
        "api.js%00",
    ],
)
async def test_nothing_but_the_named_assets_can_be_had(
    client: httpx.AsyncClient, service: str, name: str
) -> None:
    answer = await client.get(f"/docs/{service}/assets/{name}")
    # httpx folds plain dots as a browser does; what is then outside asks for a key.
    assert answer.status_code in {401, 404}


async def test_the_document_is_behind_a_key(client: httpx.AsyncClient, service: str) -> None:
    for path in (f"/docs/{service}/openapi.json", f"/docs/{service}/assetsx", "/docs"):
        assert (await client.get(path)).status_code == 401


async def test_every_operation_says_its_scope_and_has_an_example(
    client: httpx.AsyncClient, service: str
) -> None:
    found = document(client)
    operations = [
        (f"{method.upper()} {path}", operation)
        for path, methods in found["paths"].items()
        for method, operation in methods.items()
    ]
    assert operations
    scopes = load_stack().services[service].scopes
    for name, operation in operations:
        assert operation["x-scope"] in scopes, name
        assert operation["security"] == [{"key": []}], name
        samples = operation.get("x-codeSamples")
        assert samples, f"{name} has no example: see aistack.service.docs.example"
        assert samples[0]["source"].count("$AISTACK_URL") >= 1, name
        assert samples[0]["source"] in operation["description"], name
    assert found["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert "HTTPValidationError" not in str(found)


def test_the_vendored_viewer_is_whole_and_pinned() -> None:
    vendored = files("aistack.service").joinpath("static/swagger-ui")
    names = {item.name for item in vendored.iterdir()}
    assert {"LICENSE", "NOTICE", "swagger-ui-bundle.js.LICENSE.txt", "README.md"} <= names
    bundle = vendored.joinpath("swagger-ui-bundle.js").read_text(encoding="utf-8")
    pinned = re.search(r"swagger-ui-dist (\S+)", vendored.joinpath("README.md").read_text())
    assert pinned is not None
    assert pinned[1] in bundle
    for name in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert "sourceMappingURL" not in vendored.joinpath(name).read_text(encoding="utf-8")
