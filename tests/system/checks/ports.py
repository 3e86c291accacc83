"""What listens where, from /proc of the machine itself: nothing but nginx beyond loopback.

Also the sockets' modes: no service of ours listens on TCP, and no socket is open to everybody.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from .client import CheckError, parser, run

#: The state of a socket that takes connections; of UDP, of one that is bound and not connected.
_STATES = {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}


def listeners(text: str, state: str) -> Iterator[tuple[bool, int, int]]:
    """Of a file of /proc/net: whether on loopback, port, inode."""
    for line in text.splitlines()[1:]:
        fields = line.split()
        address, port = fields[1].split(":")
        if fields[3] == state:
            yield _loopback(address), int(port, 16), int(fields[9])


def _loopback(address: str) -> bool:
    if len(address) == 8:
        return address.endswith("7F")
    mapped = address.startswith("0000000000000000FFFF0000") and address.endswith("7F")
    return mapped or address == "00000000000000000000000001000000"


def owner(inode: int) -> str:
    """The program that holds the socket."""
    wanted = f"socket:[{inode}]"
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            for descriptor in (process / "fd").iterdir():
                if os.readlink(descriptor) == wanted:
                    return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:  # it ended meanwhile
            continue
    return "unknown"


def check() -> str:
    """TCP, then the unix sockets."""
    options = parser(__doc__)
    options.add_argument("--public", type=int, nargs="*", default=[80, 443])
    asked = options.parse_args()
    public = set()
    for name, state in _STATES.items():
        file = Path("/proc/net") / name
        for inside, port, inode in listeners(file.read_text() if file.exists() else "", state):
            who = owner(inode)
            if re.search(r"\baistack\b.*\bserve\b|llama-server", who):
                raise CheckError(f"a service listens on {name} port {port}: {who}")
            if not inside:
                if name.startswith("udp") or port not in asked.public:
                    raise CheckError(f"{name} port {port} is open beyond loopback: {who}")
                public.add(port)
    if missing := set(asked.public) - public:
        raise CheckError(f"nothing listens on {sorted(missing)}")
    sockets = sorted(Path("/run/aistack").glob("*.sock"))
    for path in sockets:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o007:
            raise CheckError(f"{path} is open to everybody: {mode:o}")
    if not sockets:
        raise CheckError("no sockets in /run/aistack")
    return f"ports: {sorted(public)} beyond loopback, {len(sockets)} sockets"


if __name__ == "__main__":
    run(check)
