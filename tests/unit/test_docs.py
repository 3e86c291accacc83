"""Documentation is tested: the reference is the code's, names exist, links lead somewhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from aistack.cli.reference import markdown
from aistack.stack import load_stack

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_configuration_reference_is_what_the_code_says() -> None:
    written = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert written.strip() == markdown().strip(), "run: aistack config reference"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_scope_and_every_service_is_documented() -> None:
    operations = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    architecture = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    for scope in load_stack().scopes():
        assert f"`{scope}`" in operations
    for name in load_stack().services:
        assert name in architecture


def test_every_metric_is_documented() -> None:
    operations = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    names = {
        name
        for path in (ROOT / "src/aistack").rglob("*.py")
        for name in re.findall(
            r'(?:Counter|Gauge|Histogram|Info)\(\s*"(aistack_[a-z_]+)"',
            path.read_text(encoding="utf-8"),
        )
    }
    assert len(names) > 30
    for name in sorted(names):
        assert re.search(rf"`{name}[`{{]", operations), name


def test_every_make_target_of_the_documents_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+(?: [a-z-]+)*):", makefile, re.MULTILINE))
    known = {word for line in targets for word in line.split()}
    benches = re.search(r"^BENCHES := (.+)$", makefile, re.MULTILINE)
    assert benches is not None
    known |= {f"bench-{name}" for name in benches[1].split()}
    for page in PAGES:
        for named in re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8")):
            assert named in known, f"{page.name}: make {named}"


def printed() -> Iterator[str]:
    """Every string of the package, an ellipsis where a value goes in."""
    for path in (ROOT / "src/aistack").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "…"
                    for part in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_every_line_of_the_troubleshooting_table_is_one_that_is_printed() -> None:
    operations = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    table = operations.split("## Troubleshooting\n", 1)[1]
    quoted = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert len(quoted) > 8
    lines = list(printed())
    for quote in quoted:
        pattern = ".*".join(re.escape(part) for part in quote.split("…"))
        assert any(re.search(pattern, line) for line in lines), quote


def test_the_size_of_an_installation_is_said_once() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    sizes = re.findall(r"(\d+) MB", readme)
    assert len(sizes) == 2
    assert re.findall(r"(\d+) MB", makefile) == sizes
