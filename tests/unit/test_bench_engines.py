"""What the default encoder must be worth depends on the CPU."""

from __future__ import annotations

import pytest

from bench.embeddings.engines import bar


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("avx2 avx512f avx512_vnni avx512_bf16", 2.0),
        ("avx2 avx512f amx_bf16", 2.0),
        ("avx2 avx512f avx512_vnni amx_int8", 1.15),
        ("unknown", 1.15),
    ],
)
def test_the_bar_is_by_what_the_cpu_computes(flags: str, expected: float) -> None:
    assert bar(flags) == expected
