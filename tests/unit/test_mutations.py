"""The safeguards that `make mutations` removes are where it looks for them."""

from __future__ import annotations

import pytest

from mutations import MUTATIONS, ROOT, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: f"{one.safeguard}: {one.removed}")
def test_every_mutation_finds_its_place_and_its_test(mutation: Mutation) -> None:
    text = (ROOT / "src/aistack" / mutation.file).read_text(encoding="utf-8")
    assert mutation.old in text
    path, _, name = mutation.test.partition("::")
    function = name.partition("[")[0]
    assert f"def {function}(" in (ROOT / path).read_text(encoding="utf-8")
