"""Becomes another program; run by path with `python -I -S`, so it imports nothing of aistack.

    python -I -S _exec.py PARENT_PID DEATH_SIGNAL LISTEN_FD|- COMMAND ARGUMENT...

Three things can only be done between fork and exec: asking the kernel to signal us when the
supervisor dies (so that nothing survives its kill -9), putting the listening socket at file
descriptor 3 where sd_listen_fds(3) looks, and writing our own process id into LISTEN_PID.
`preexec_fn` would do them in a copy of a process with threads, which is not safe.
"""

from __future__ import annotations

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1
_LISTEN_FDS_START = 3


def _main(arguments: list[str]) -> None:
    parent, death_signal, listen, *command = arguments
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != int(parent):  # it died before we asked
        sys.exit("the supervisor is gone")
    environment = dict(os.environ)
    if listen != "-":
        descriptor = int(listen)
        if descriptor != _LISTEN_FDS_START:
            os.dup2(descriptor, _LISTEN_FDS_START, inheritable=True)
            os.close(descriptor)
        environment["LISTEN_FDS"] = "1"
        environment["LISTEN_PID"] = str(os.getpid())
    try:
        os.execvpe(command[0], command, environment)
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    _main(sys.argv[1:])
