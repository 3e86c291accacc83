"""What can go wrong in the command, and the exit code it ends with.

    CliError 1                  the work failed
    ├── Usage 2                 the command line makes no sense
    ├── Unreachable 3           no stack answers
    ├── Refused 4               401 or 403: no key, a bad key, a key without the scope
    ├── Failed 1                the stack answered with another error
    └── Misconfigured 78        a file of the installation is wrong (sysexits.h EX_CONFIG)

Each carries one line that says what happened and one that says what to do.
"""

from __future__ import annotations

from typing import ClassVar

OK = 0
INTERRUPTED = 130


class CliError(Exception):
    """Ends the command with `exit_code`; `str(error)` is for people."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, fix: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}: {self.fix}" if self.fix else self.message


class Usage(CliError):
    """Wrong arguments."""

    exit_code = 2


class Unreachable(CliError):
    """Nothing answers at the address of the stack."""

    exit_code = 3


class Refused(CliError):
    """The stack does not accept the key for this."""

    exit_code = 4


class Failed(CliError):
    """An answer of the stack that is an error; `status` is its HTTP status."""

    def __init__(self, message: str, *, status: int, fix: str | None = None) -> None:
        super().__init__(message, fix=fix)
        self.status = status


class Misconfigured(CliError):
    """A configuration or key file that cannot be used."""

    exit_code = 78
