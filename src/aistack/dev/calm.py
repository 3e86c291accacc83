"""Which lines of the programs' logs a person watching the screen needs; all are in the files.

What fails because something else is starting or stopping is no news: the supervisor says that. What
is said again and again is said once and counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from aistack.dev.logfile import Line

#: At most this many lines of one program in so many seconds, and none of one kind twice.
MOST_LINES = 5
SECONDS = 10.0

_WARNING, _ERROR = 30, 40
#: What differs between two lines that say the same: numbers and identifiers.
_VARIES = re.compile(r"\b(?=\w*\d)[\w.-]+")


@dataclass(slots=True)
class _Lately:
    """What one program has said on the screen."""

    shown: list[tuple[float, str]] = field(default_factory=list)
    hidden: int = 0


class Calm:
    """Decides line by line. `clock` is in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lately: dict[str, _Lately] = {}
        #: Programs that start, or wait to be started again.
        self.unready: set[str] = set()
        self.stopping = False

    def pass_on(self, line: Line) -> Iterator[str]:
        """The words to show for a line: none, the line, or before it how many like it were not."""
        if self.stopping or line.number < _WARNING or line.program in self.unready:
            return
        if self.unready and line.number < _ERROR:
            return  # it calls what is not there yet, or not there any more
        words = line.words.split("\n", 1)[0].rstrip()
        lately = self._lately.setdefault(line.program, _Lately())
        now, kind = self._clock(), _VARIES.sub("#", words)
        lately.shown = [(at, of) for at, of in lately.shown if now - at < SECONDS]
        if len(lately.shown) >= MOST_LINES or any(of == kind for _, of in lately.shown):
            lately.hidden += 1
            return
        yield from self.left_out(line.program)
        lately.shown.append((now, kind))
        yield words

    def left_out(self, program: str) -> Iterator[str]:
        """How many lines of a program were not shown since this was last said."""
        lately = self._lately.get(program)
        if lately is not None and lately.hidden:
            hidden, lately.hidden = lately.hidden, 0
            yield f"… {hidden} more like this, see logs/{program}.log"
