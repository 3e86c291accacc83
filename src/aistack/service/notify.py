"""systemd's notification and socket protocols; sd_notify(3), sd_listen_fds(3).

Thirty lines of our own: the kept package for it has had no release since 2017 and knows no
abstract sockets.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from aistack.service.errors import StartError

#: The first descriptor that is handed over.
LISTEN_FDS_START = 3
#: How long a notice may wait for a supervisor whose queue is full; seconds.
SEND_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Notifier:
    """Speaks to whoever supervises this process; silent where nobody does."""

    address: str | None
    watchdog_seconds: float | None

    @classmethod
    def from_environment(cls) -> Notifier:
        """Takes the variables out of the environment, so that no child inherits them."""
        address = os.environ.pop("NOTIFY_SOCKET", None)
        micro = os.environ.pop("WATCHDOG_USEC", None)
        pid = os.environ.pop("WATCHDOG_PID", None)
        mine = pid is None or pid == str(os.getpid())
        seconds = int(micro) / 1e6 if micro and micro.isdigit() and mine else None
        return cls(address, seconds)

    def send(self, *lines: str) -> None:
        """Sends `KEY=value` lines; a supervisor that is gone is not our fault."""
        if self.address is None:
            return
        address = self.address
        if address.startswith("@"):
            address = "\0" + address[1:]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as client:
            # A supervisor that does not read must not hang the event loop.
            client.settimeout(SEND_SECONDS)
            try:
                client.connect(address)
                client.sendall("\n".join(lines).encode())
            except (ConnectionError, FileNotFoundError, TimeoutError):
                return


def inherited_socket() -> socket.socket | None:
    """The listening socket that the supervisor opened, or None. Raises StartError on two."""
    pid = os.environ.pop("LISTEN_PID", None)
    count = os.environ.pop("LISTEN_FDS", None)
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or count is None:
        return None
    if count != "1":
        raise StartError(f"LISTEN_FDS={count}: exactly one socket is served")
    os.set_inheritable(LISTEN_FDS_START, False)
    return socket.socket(fileno=LISTEN_FDS_START)
