"""The one `aistack` command. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import sys

from aistack.cli.errors import INTERRUPTED, CliError
from aistack.service.errors import EX_CONFIG, StartError


def main() -> None:
    """Run the command line of this process, and exit with its code."""
    from aistack.cli.app import app

    try:
        app(prog_name="aistack")
    except CliError as error:
        _say(error, error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader has gone (`aistack search … | head`); nothing is left to say to it, and
        # Python's flush at exit must not say so either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except StartError as error:
        _say(error, EX_CONFIG)


def _say(error: Exception, code: int) -> None:
    """One line on stderr; the traceback only for who asks for it."""
    if "--debug" in sys.argv[1:]:
        import traceback

        traceback.print_exception(error)
    sys.stderr.write(f"aistack: {error}\n")
    sys.exit(code)
