"""Every curl command of the API pages, run as it stands against the real stack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from aistack.service.keys import KeyEditor
from aistack.stack import load_stack
from fix_stack import RunningStack, clean_environment

SERVICES = sorted(load_stack().services)


def openapi(stack: RunningStack, service: str, key: str | None) -> httpx.Response:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return httpx.get(f"{stack.base_url}/docs/{service}/openapi.json", headers=headers)


@pytest.fixture(scope="module")
def filled(stack: RunningStack) -> RunningStack:
    """The stack with one document that is ready, as the examples that show one need."""
    command = [sys.executable, "-m", "aistack", "ingest", "LICENSE", "--include", "LICENSE"]
    done = subprocess.run(
        [*command, "--data-dir", str(stack.data_dir)],
        cwd=Path(__file__).parents[2],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return stack


@pytest.mark.parametrize("service", SERVICES)
def test_every_example_works_as_it_is_pasted(filled: RunningStack, service: str) -> None:
    answer = openapi(filled, service, filled.key)
    assert answer.status_code == 200
    ran = 0
    for path, methods in answer.json()["paths"].items():
        for method, operation in methods.items():
            for sample in operation["x-codeSamples"]:
                run(filled, f"{method.upper()} {path}", sample["source"], operation)
                ran += 1
    assert ran


def run(stack: RunningStack, name: str, source: str, operation: dict[str, Any]) -> None:
    """`source` in a shell whose curl fails on an error status."""
    strict = 'curl() { command curl -sS --fail-with-body "$@"; }\n'
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", strict + source],
        env={
            "PATH": os.environ["PATH"],
            "AISTACK_URL": stack.base_url,
            "AISTACK_API_KEY": stack.key,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if name.startswith("POST /v1/vectors/"):
        # The engine of this stack is pgvector, as it is by default.
        assert json.loads(done.stdout)["status"] == 409, f"{name}: {done.stdout} {done.stderr}"
        return
    assert done.returncode == 0, f"{name}: {done.stdout} {done.stderr}"
    if "204" not in operation["responses"]:
        json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize("service", SERVICES)
def test_the_document_needs_a_key_with_the_scope(stack: RunningStack, service: str) -> None:
    assert openapi(stack, service, None).status_code == 401
    keys = stack.data_dir / "keys"
    record, token = KeyEditor(keys / "keys.json", keys / "pepper").create(
        "without", frozenset({"embed"})
    )
    try:
        status = openapi(stack, service, token).status_code
        while status == 401:  # known within a quarter of a second
            status = openapi(stack, service, token).status_code
        assert status == 403
    finally:
        KeyEditor(keys / "keys.json", keys / "pepper").revoke(record.id)


@pytest.mark.parametrize("service", SERVICES)
def test_the_page_is_reached_through_the_front_door(stack: RunningStack, service: str) -> None:
    page = httpx.get(f"{stack.base_url}/docs/{service}")
    assert page.status_code == 200
    assert "content-security-policy" in page.headers
    script = httpx.get(f"{stack.base_url}/docs/{service}/assets/swagger-ui-bundle.js")
    assert script.status_code == 200
    assert len(script.content) > 1_000_000
    for outside in ("/docs/../keys.json", f"/docs/{service}/assets/..%2f..%2fapp.py"):
        assert httpx.get(stack.base_url + outside).status_code in {401, 404}
