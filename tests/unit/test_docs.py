"""Documentation is tested: the reference is the code's, names exist, links lead somewhere."""

from __future__ import annotations

import re
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
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
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
