"""What a part found, and whether it is over its bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One number. With `at_least` or `at_most` it is a bar, else it is only reported."""

    name: str
    value: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def good(self) -> bool:
        """Not under its bar; a number that could not be taken is."""
        if self.at_least is not None:
            return self.value >= self.at_least
        if self.at_most is not None:
            return self.value <= self.at_most
        return True

    def line(self) -> str:
        """For people."""
        bar = ""
        if self.at_least is not None:
            bar = f"bar >= {self.at_least:g}"
        elif self.at_most is not None:
            bar = f"bar <= {self.at_most:g}"
        if bar:
            bar += "" if self.good else "  MISSED"
        shown = f"{self.value:,.3f}" if abs(self.value) < 10 else f"{self.value:,.1f}"
        return f"  {self.name:52}{shown:>10} {self.unit:10}{bar:22}{self.note}".rstrip()


def show(title: str, figures: Sequence[Figure]) -> None:
    """A part's figures, one a line."""
    print(title)
    for figure in figures:
        print(figure.line())
    print(flush=True)
