"""schemathesis over every service: no 5xx, no undocumented status, bad bodies refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from aistack.stack import load_stack
from fix_stack import RunningStack

CHECKS = ",".join(
    (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
        "unsupported_method",
        "ignored_auth",
    )
)
#: (service, mode, phases, examples of one operation). A good chat costs seconds of a language
#: model, so the coordinator gets many bad ones and few good ones.
RUNS = [
    *(
        (name, "all", "examples,coverage,fuzzing", 40)
        for name in load_stack().services
        if name != "coordinator"
    ),
    ("coordinator", "negative", "coverage,fuzzing", 40),
    ("coordinator", "positive", "examples,fuzzing", 4),
]


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("service", "mode", "phases", "examples"), RUNS)
def test_nothing_undocumented_and_no_server_error(
    stack: RunningStack, service: str, mode: str, phases: str, examples: int, tmp_path: Path
) -> None:
    schema = httpx.get(
        f"{stack.base_url}/docs/{service}/openapi.json",
        headers={"authorization": f"Bearer {stack.key}"},
    )
    assert schema.status_code == 200
    document = tmp_path / "openapi.json"
    whole = schema.json()
    # Behind the front door some paths of a service are another's: /v1/models is the coordinator's.
    whole["paths"] = {
        path: operations
        for path, operations in whole["paths"].items()
        if (entry := load_stack().route(path)) is not None and entry.name == service
    }
    document.write_text(json.dumps(whole))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", str(document)),
            *("--url", stack.base_url),
            *("--header", f"Authorization: Bearer {stack.key}"),
            *("--checks", CHECKS),
            *("--mode", mode),
            *("--phases", phases),
            *("--max-examples", str(examples)),
            *("--seed", "20261122"),
            *("--request-timeout", "60"),
            *("--warnings", "off"),
            *("--suppress-health-check", "all"),
            "--continue-on-failure",
            "--generation-deterministic",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
