"""What can go wrong in the command, and the exit code it ends with.

    CliError 1                  the work failed
    ├── Usage 2                 the command line makes no sense
    ├── Unreachable 3           no stack answers
    ├── Refused 4               401 or 403: no key, a bad key, a key without the scope
    ├── Failed 1                the stack answered with another error
    └── Misconfigured 78        a file of the installation is wrong (sysexits.h EX_CONFIG)

Each carries one line that says what happened and one that says what to do. With `--json` it is on
stdout as well: {"error": {"message": str, "fix": str|null, "status": int|null (HTTP),
"error_id": str|null (of the server's log)}}.
"""

from __future__ import annotations

from typing import Any, ClassVar

OK = 0
INTERRUPTED = 130


class CliError(Exception):
    """Ends the command with `exit_code`; `str(error)` is for people."""

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        fix: str | None = None,
        status: int | None = None,
        error_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
        self.status = status
        self.error_id = error_id

    @property
    def said(self) -> str:
        """What happened, with the id under which the server's log has it."""
        return f"{self.message} [{self.error_id}]" if self.error_id else self.message

    def __str__(self) -> str:
        return f"{self.said}: {self.fix}" if self.fix else self.said

    def document(self) -> dict[str, Any]:
        """For machines."""
        return error_document(
            self.message, fix=self.fix, status=self.status, error_id=self.error_id
        )


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

    @property
    def said(self) -> str:
        """With the status: there is nothing of ours to say instead."""
        return f"{super().said} (HTTP {self.status})"


class Misconfigured(CliError):
    """A configuration or key file that cannot be used."""

    exit_code = 78


def error_document(
    message: str,
    *,
    fix: str | None = None,
    status: int | None = None,
    error_id: str | None = None,
) -> dict[str, Any]:
    """The one shape of an error with `--json`."""
    return {"error": {"message": message, "fix": fix, "status": status, "error_id": error_id}}
