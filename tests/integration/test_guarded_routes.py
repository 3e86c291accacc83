"""Every route of every OpenAPI document: 401 without a key, 403 without the scope."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from aistack.service.key_setup import KeyPaths
from aistack.service.keys import KeyEditor, make_token, parse_token
from aistack.stack import load_stack
from fix_stack import RunningStack, wait_until

METHODS = ("get", "post", "put", "patch", "delete")


def routes(stack: RunningStack) -> Iterator[tuple[str, str, str, str]]:
    """(service, method, path, scope) of everything that is documented."""
    for entry in load_stack().services.values():
        answer = httpx.get(
            f"{stack.base_url}{entry.docs_path}/openapi.json",
            headers={"authorization": f"Bearer {stack.key}"},
        )
        assert answer.status_code == 200, answer.text
        for path, operations in answer.json()["paths"].items():
            for method in METHODS:
                if method in operations:
                    operation: dict[str, Any] = operations[method]
                    yield entry.name, method, path, operation["x-scope"]


def concrete(path: str) -> str:
    return re.sub(r"\{[^}]+\}", "x", path)


@pytest.fixture(scope="module")
def unprivileged(stack: RunningStack) -> Iterator[str]:
    """A good key without any scope."""
    paths = KeyPaths(stack.key_file.parent)
    editor = KeyEditor(paths.keys_file, paths.pepper_file)
    record, token = editor.create("nothing", frozenset())

    def known() -> bool:
        return all(
            httpx.get(
                f"{stack.base_url}{entry.docs_path}/openapi.json",
                headers={"authorization": f"Bearer {token}"},
            ).status_code
            == 403
            for entry in load_stack().services.values()
        )

    wait_until(known, 5, "a new key is not known within five seconds")
    yield token
    editor.revoke(record.id)


def test_there_are_routes_of_every_service(stack: RunningStack) -> None:
    assert {service for service, *_ in routes(stack)} == set(load_stack().services)


def test_without_a_key_every_route_is_401(stack: RunningStack) -> None:
    for headers in (
        {},
        {"authorization": "Bearer ais_x_y"},
        {"authorization": f"Basic {stack.key}"},
    ):
        for _, method, path, _ in routes(stack):
            answer = httpx.request(
                method, stack.base_url + concrete(path), headers=headers, content=b"{}"
            )
            assert answer.status_code == 401, (method, path, answer.text)
            assert "www-authenticate" in answer.headers


def test_forged_token_of_a_known_key_is_401(stack: RunningStack) -> None:
    """Well formed, a good checksum, the id of a key that exists: only the secret is wrong."""
    known = parse_token(stack.key)
    assert known is not None
    forged = make_token(known)
    for _, method, path, _ in routes(stack):
        answer = httpx.request(
            method,
            stack.base_url + concrete(path),
            headers={"authorization": f"Bearer {forged}"},
            content=b"{}",
        )
        assert answer.status_code == 401, (method, path, answer.text)


def test_without_a_key_every_route_is_401_on_its_own_socket(stack: RunningStack) -> None:
    """The front door is not what guards them."""
    for service, method, path, _ in routes(stack):
        transport = httpx.HTTPTransport(uds=str(stack.run_dir / f"{service}.sock"))
        with httpx.Client(transport=transport, base_url="http://localhost") as client:
            answer = client.request(method, concrete(path), content=b"{}")
            assert answer.status_code == 401, (service, method, path, answer.text)


def test_without_the_scope_every_route_is_403(stack: RunningStack, unprivileged: str) -> None:
    for _, method, path, scope in routes(stack):
        answer = httpx.request(
            method,
            stack.base_url + concrete(path),
            headers={"authorization": f"Bearer {unprivileged}"},
            content=b"{}",
        )
        assert answer.status_code == 403, (method, path, answer.text)
        assert scope in answer.text


def test_key_of_one_scope_opens_only_its_routes(stack: RunningStack) -> None:
    paths = KeyPaths(stack.key_file.parent)
    editor = KeyEditor(paths.keys_file, paths.pepper_file)
    record, token = editor.create("searcher", frozenset({"search"}))
    headers = {"authorization": f"Bearer {token}"}
    wait_until(
        lambda: httpx.get(stack.base_url + "/v1/documents", headers=headers).status_code == 403, 5
    )
    answer = httpx.post(
        stack.base_url + "/v1/search", headers=headers, json={"query": "x", "collection": "none"}
    )
    assert answer.status_code == 404
    editor.revoke(record.id)
    wait_until(
        lambda: httpx.post(stack.base_url + "/v1/search", headers=headers).status_code == 401,
        2,
        "a revoked key is still good after two seconds",
    )


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
def test_probes_are_not_behind_the_front_door(stack: RunningStack, path: str) -> None:
    answer = httpx.get(stack.base_url + path, headers={"authorization": f"Bearer {stack.key}"})
    assert answer.status_code == 404
