"""What `aistack up` shows: progress, what goes wrong, and how to begin."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from aistack.dev.calm import Calm
from aistack.dev.logfile import Line
from aistack.dev.unit import Event, State

_WARNING = 30


@dataclass(frozen=True, slots=True)
class Own:
    """How a command of ours is typed here: `program` in a shell, then what says which stack."""

    program: str = "aistack"
    options: str = ""

    def line(self, words: str) -> str:
        """`aistack search x --data-dir DIR`, as it can be pasted."""
        return " ".join(part for part in (self.program, words, self.options) if part)


class Screen:
    """Colours and a spinner on a terminal, plain lines everywhere else. Writes to stderr."""

    def __init__(self, console: Console | None = None, *, verbose: bool = False) -> None:
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._verbose = verbose
        self._born = time.monotonic()
        self._calm = Calm(time.monotonic)
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
            self._calm.unready.add(event.unit)
        else:
            self._calm.unready.discard(event.unit)
        if self._spinner is not None:
            self._spinner.update(f"starting {', '.join(sorted(self._calm.unready))}")
        if event.state is State.STARTING and not self._verbose:
            return
        words = f"{event.words}" if event.words else event.state.value
        style = "red" if event.bad else "green" if event.state is State.READY else "dim"
        for remark in self._calm.left_out(event.unit):
            self._line(event.unit, remark, "dim")
        self._line(event.unit, words, style)

    def output(self, line: Line) -> None:
        """A line that a program printed: with `verbose` each one, else what `Calm` lets pass."""
        style = "dim" if line.number < _WARNING else "yellow" if line.number == _WARNING else "red"
        for words in (line.words,) if self._verbose else self._calm.pass_on(line):
            self._line(line.program, words, style)

    def ready(
        self, base_url: str, key_file: Path, config_directory: Path, own: Own | None = None
    ) -> None:
        """The last screen: where it is, where the key is, three commands to try."""
        self.settle()
        own = own or Own()
        seconds = time.monotonic() - self._born
        self._console.print()
        self._console.print(f"[bold green]aistack is ready[/] after {seconds:.1f} s")
        rows = (
            ("address", base_url),
            ("key", _key(key_file)),
            ("API pages", f"{base_url}/"),
            ("logs", str(config_directory)),
        )
        for name, value in rows:
            self._console.print(f"  {name:<10} {escape(value)}")
        self._console.print("\nIn another terminal:")
        for command in (
            *(() if key_file.exists() else (_new_key(key_file, own),)),
            own.line("ingest docs/"),
            own.line('search "what happens when redis is down"'),
            own.line('ask "What is a collection epoch?"'),
        ):
            self._console.print(f"  [bold]{escape(command)}[/]")
        self._console.print("\nCtrl-C stops everything.")

    def stopping(self) -> None:
        """Ctrl-C was heard: from here on whatever the programs miss is gone on purpose."""
        self._calm.stopping = True
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


def _key(file: Path) -> str:
    """Where the first key is, or that it is lost: the store keeps only its hash."""
    return str(file) if file.exists() else f"{file} is missing; make another with the first command"


def _new_key(file: Path, own: Own) -> str:
    return own.line(f"keys create again --write {shlex.quote(str(file))}")
