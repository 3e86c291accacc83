"""Real material for tests, which lies beside the checkout and not in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

#: Says where the material is when it does not lie at `../shared/data`.
VARIABLE = "AISTACK_TEST_DATA"


def find_shared_data() -> Path | None:
    """The directory with `cranfield/`, `nix-dev/` and so on, or None."""
    named = os.environ.get(VARIABLE)
    path = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    return path if path.is_dir() else None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The directory of the material; skips where there is none."""
    found = find_shared_data()
    if found is None:
        pytest.skip(f"no test data: put it at ../shared/data, or name its directory in {VARIABLE}")
    return found


def make_pdf(pages: list[str]) -> bytes:
    """A PDF of one line of text per page, written by hand."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    objects.append(f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>")
    objects.append("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    for number, text in enumerate(pages):
        words = text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
        stream = f"BT /F1 12 Tf 72 720 Td ({words}) Tj ET" if text else ""
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792]"
            f" /Resources << /Font << /F1 3 0 R >> >> /Contents {5 + 2 * number} 0 R >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    out = b"%PDF-1.4\n"
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1")
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    end = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    end += f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF\n"
    return out + end.encode()
