"""`aistack ingest` and `aistack documents retry` against a real stack, through its front door."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from fix_stack import RunningStack, clean_environment


def aistack(stack: RunningStack, *words: str, code: int = 0) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "aistack", *words, "--json"],
        env={**clean_environment(), "AISTACK_DATA_DIR": str(stack.data_dir)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout)


def test_a_second_run_sends_nothing_and_a_third_what_has_changed(
    stack: RunningStack, tmp_path: Path
) -> None:
    root = tmp_path / "resumed \u00e9&=#"
    (root / "deep").mkdir(parents=True)
    for number in range(60):
        (root / "deep" / f"{number}.md").write_text(f"# Number {number}\n\nWords of {number}.")
    (root / "page.html").write_text("<script>no text</script>")
    words = ("ingest", str(root), "-c", "resumed", "--metadata", "year=2026", "--metadata", "x=1.5")
    first = aistack(stack, *words, code=1)
    assert first["summary"] | {"skipped": 0} == {
        "ready": 60, "unchanged": 0, "pending": 0, "failed": 1, "skipped": 0, "replaced": 0,
        "sent": 61,
    }  # fmt: skip
    (root / "page.html").write_text("<p>Now there is some.</p>")
    (root / "deep" / "7.md").write_text("# Seven\n\nOther words.")
    second = aistack(stack, *words)
    assert second["summary"]["sent"] == 2
    assert (second["summary"]["unchanged"], second["summary"]["ready"]) == (59, 2)
    third = aistack(stack, *words)
    assert (third["summary"]["unchanged"], third["summary"]["sent"]) == (61, 0)


def test_what_failed_is_tried_again_by_name_or_all_of_it(
    stack: RunningStack, tmp_path: Path
) -> None:
    (tmp_path / "empty.html").write_text("<script>no text</script>")
    ended = aistack(stack, "ingest", str(tmp_path), "-c", "failing", code=1)
    (document,) = ended["documents"]
    assert aistack(stack, "documents", "retry", document["document_id"]) == {"retried": 1}
    aistack(stack, "ingest", str(tmp_path), "-c", "failing", code=1)
    again = aistack(stack, "documents", "retry", "--failed", "-c", "failing")
    assert again == {"retried": 1}
