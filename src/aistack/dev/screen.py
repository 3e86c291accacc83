"""What `aistack up` shows: progress, what goes wrong, and how to begin."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from aistack.dev.logfile import Line
from aistack.dev.unit import Event, State

_WARNING = 30


class Screen:
    """Colours and a spinner on a terminal, plain lines everywhere else. Writes to stderr."""

    def __init__(self, console: Console | None = None, *, verbose: bool = False) -> None:
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._least = 0 if verbose else _WARNING
        self._verbose = verbose
        self._born = time.monotonic()
        self._open: set[str] = set()
        self._spinner: Status | None = None

    def begin(self, data: Path) -> None:
        """The first line."""
        self._line("aistack", f"data in {data}")
        if self._console.is_terminal:
            self._spinner = self._console.status("starting")
            self._spinner.start()

    def event(self, event: Event) -> None:
        """Something happened to a program."""
        if event.state in (State.STARTING, State.PAUSING):
            self._open.add(event.unit)
        else:
            self._open.discard(event.unit)
        if self._spinner is not None:
            self._spinner.update(f"starting {', '.join(sorted(self._open))}")
        if event.state is State.STARTING and not self._verbose:
            return
        words = f"{event.words}" if event.words else event.state.value
        style = "red" if event.bad else "green" if event.state is State.READY else "dim"
        self._line(event.unit, words, style)

    def output(self, line: Line) -> None:
        """A line that a program printed."""
        if line.number >= self._least:
            style = {True: "red", False: "yellow"}[line.number > _WARNING]
            self._line(line.program, line.words, style if line.number >= _WARNING else "dim")

    def ready(self, base_url: str, key_file: Path, config_directory: Path) -> None:
        """The last screen: where it is, where the key is, three commands to try."""
        self.settle()
        seconds = time.monotonic() - self._born
        self._console.print()
        self._console.print(f"[bold green]aistack is ready[/] after {seconds:.1f} s")
        rows = (
            ("address", base_url),
            ("key", str(key_file)),
            ("API pages", f"{base_url}/"),
            ("logs", str(config_directory)),
        )
        for name, value in rows:
            self._console.print(f"  {name:<10} {escape(value)}")
        self._console.print("\nIn another terminal:")
        for command in (
            "aistack ingest docs/",
            'aistack search "how are passages cited"',
            'aistack ask "what does this project do?"',
        ):
            self._console.print(f"  [bold]{escape(command)}[/]")
        self._console.print("\nCtrl-C stops everything.")

    def stopping(self) -> None:
        """Ctrl-C was heard."""
        self.settle()
        self._line("aistack", "stopping; Ctrl-C again kills at once", "dim")

    def stopped(self) -> None:
        """Nothing runs any more."""
        self.settle()
        self._line("aistack", "stopped, nothing is left running", "dim")

    def failed(self, words: str) -> None:
        """The one line of a start that failed."""
        self.settle()
        self._console.print(f"[red]aistack up:[/] {escape(words)}")

    def settle(self) -> None:
        """End the spinner."""
        if self._spinner is not None:
            self._spinner.stop()
            self._spinner = None

    def _line(self, program: str, words: str, style: str = "") -> None:
        seconds = time.monotonic() - self._born
        text = f"{seconds:7.1f} s  {program:<12} "
        self._console.print(
            escape(text) + (f"[{style}]{escape(words)}[/]" if style else escape(words))
        )
