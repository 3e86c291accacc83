"""Where a command writes: results on stdout, messages on stderr, JSON when asked for.

Text from documents and models is cleaned of control characters, so that nothing ingested can
drive the terminal. rich is imported when it is first needed: it costs a tenth of the start.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

# C0 and C1 controls but newline and tab; bidirectional overrides, which reorder what is read.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

#: Wide enough that nothing wraps where no terminal is.
_PIPE_WIDTH = 10_000


def clean(text: str) -> str:
    """`text` without characters that a terminal would obey."""
    return _CONTROL.sub("", text)


class Output:
    """The two streams of one command."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    @cached_property
    def console(self) -> Console:
        """stdout: colours only on a terminal and without NO_COLOR."""
        return _console(stderr=False)

    @cached_property
    def messages(self) -> Console:
        """stderr, for progress and remarks."""
        return _console(stderr=True)

    def document(self, value: Any) -> None:
        """One JSON document on stdout."""
        sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")
        sys.stdout.flush()

    def line(self, value: Mapping[str, Any]) -> None:
        """One line of a stream of JSON objects on stdout."""
        sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def text(self, text: str) -> None:
        """A line of plain text on stdout."""
        sys.stdout.write(text + "\n")

    def stream(self, piece: str) -> None:
        """A piece of text on stdout at once, as it arrives."""
        sys.stdout.write(clean(piece))
        sys.stdout.flush()

    def show(self, renderable: RenderableType) -> None:
        """Something of rich's on stdout; never wrapped where no terminal is."""
        self.console.print(renderable, soft_wrap=not self.console.is_terminal, highlight=False)

    def indented(self, text: Text, *, by: int) -> None:
        """A paragraph on stdout, `by` columns in; one line where no terminal is."""
        from rich.padding import Padding
        from rich.text import Text

        if self.console.is_terminal:
            self.console.print(Padding(text, (0, 0, 0, by)))
        else:
            self.show(Text(" " * by).append_text(text))

    def note(self, message: str) -> None:
        """A remark on stderr; it never mixes with the result."""
        sys.stderr.write(clean(message) + "\n")
        sys.stderr.flush()

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
        """Aligned columns on stdout; the last one takes what room is left."""
        from rich.table import Table
        from rich.text import Text

        # Two spaces between columns and no lines: the same text reads well and cuts well.
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for name in columns:
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*(Text(clean(c)) if isinstance(c, str) else c for c in row))
        if self.console.is_terminal:
            self.console.print(table)
            return
        with self.console.capture() as capture:
            self.console.print(table)
        sys.stdout.write("".join(line.rstrip() + "\n" for line in capture.get().splitlines()))


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(
            stderr=stderr,
            highlight=False,
            markup=False,
            emoji=False,
            width=_PIPE_WIDTH,
            no_color=True,
            color_system=None,
        )
    return console


def amount(count: int, one: str, many: str | None = None) -> str:
    """`1 document`, `2 documents`."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def size(count: int) -> str:
    """Bytes for people: `512 B`, `1.5 KiB`, `10.0 MiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
