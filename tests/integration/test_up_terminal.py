"""`aistack up` on a terminal: Ctrl-C goes to everything that the terminal has in front."""

from __future__ import annotations

import os
import pty
import subprocess
import threading
from pathlib import Path

import psutil

from fix_stack import (
    STOP_SECONDS,
    clean_environment,
    descendants,
    left_over,
    up_command,
    wait_until,
)


class Terminal:
    """`aistack up` as the foreground job of a terminal of its own."""

    def __init__(self, data_dir: Path) -> None:
        self._master, slave = pty.openpty()
        self._said = bytearray()
        # setsid -c makes the terminal the controlling one: ^C becomes a signal.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *up_command(data_dir)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=clean_environment(),
            start_new_session=True,
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def said(self) -> str:
        """Everything on the screen so far."""
        return self._said.decode(errors="replace")

    def interrupt(self) -> None:
        """Ctrl-C."""
        os.write(self._master, b"\x03")

    def wait(self) -> int:
        """The exit status, when the screen has been read to its end."""
        status = self.process.wait(STOP_SECONDS)
        self._reader.join(10)
        os.close(self._master)
        return status

    def runs(self, name: str) -> bool:
        """Whether a program of this name runs below."""
        for process in descendants(self.process.pid):
            try:
                if name in Path((process.cmdline() or [""])[0]).name:
                    return True
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return False

    def _read(self) -> None:
        try:
            while piece := os.read(self._master, 4096):
                self._said += piece
        except OSError:  # EIO: nobody has the other end any more
            return


def test_interrupt_while_the_database_is_made(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path / "data")
    wait_until(lambda: terminal.runs("initdb"), 60, terminal.said())
    processes = descendants(terminal.process.pid)
    terminal.interrupt()
    assert terminal.wait() == 0, terminal.said()
    for word in ("Traceback", "Error", "Loop", "Exception"):
        assert word not in terminal.said()
    assert "nothing is left running" in terminal.said()
    assert left_over(processes) == []
