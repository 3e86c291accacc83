"""The one `aistack` command. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from aistack.cli.errors import INTERRUPTED, CliError, error_document
from aistack.service.errors import EX_CONFIG, StartError


def main() -> None:
    """Run the command line of this process, and exit with its code."""
    try:
        from aistack.cli.app import app

        if _said("--json"):
            _machine(app)
        app(prog_name="aistack")
    except CliError as error:
        _say(error, error.exit_code, error.document())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader has gone (`aistack search … | head`); nothing is left to say to it, and
        # Python's flush at exit must not say so either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except StartError as error:
        _say(error, EX_CONFIG, error_document(str(error)))


def _machine(app: Any) -> None:
    """Run `app` so that wrong arguments are told like every other error."""
    import typer

    # Newer versions of typer carry their own click: what is caught is theirs, wherever it lives.
    wrong = next(
        kind
        for kind in typer.BadParameter.__mro__
        if issubclass(kind, Exception) and kind.__name__ == "ClickException"
    )
    try:
        sys.exit(app(prog_name="aistack", standalone_mode=False))
    except wrong as error:
        words = _words(error)
        _say(error, getattr(error, "exit_code", 2), error_document(words), words)
    except typer.Abort as error:
        _say(error, 1, error_document("aborted"), "aborted")


def _words(error: Exception) -> str:
    """What the parser says: its exceptions know more than their text."""
    said = getattr(error, "format_message", error.__str__)
    return str(said()).strip()


def _said(option: str) -> bool:
    """Whether the command line has `option`, which may be wrong in everything else."""
    words = sys.argv[1:]
    return option in (words[: words.index("--")] if "--" in words else words)


def _say(error: Exception, code: int, document: dict[str, Any], text: str | None = None) -> None:
    """One line on stderr, with `--json` one on stdout; the traceback only for who asks for it."""
    if _said("--debug"):
        import traceback

        traceback.print_exception(error)
    if _said("--json"):
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
        sys.stdout.flush()
    sys.stderr.write(f"aistack: {error if text is None else text}\n")
    sys.exit(code)
