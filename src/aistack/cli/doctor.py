"""`aistack doctor`: what would keep a stack from running here, each line with its fix."""

from __future__ import annotations

import typer

from aistack.cli.session import Session, command

_STYLE = {"ok": "green", "warn": "yellow", "fail": "red"}


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "doctor", rich_help_panel="The stack")
    def doctor(session: Session) -> None:
        """Check this machine and its stack. Exit 1 when something fails."""
        from rich.text import Text

        from aistack.cli.checks import examine

        found = list(examine(session.data_dir))
        failed = [item for item in found if item.level == "fail"]
        if session.out.as_json:
            session.out.document(
                {
                    "healthy": not failed,
                    "checks": [
                        {"name": i.name, "level": i.level, "found": i.found, "fix": i.fix}
                        for i in found
                    ],
                }
            )
        else:
            session.out.table(
                ("", "check", "found"),
                [
                    (
                        Text(item.level, style=_STYLE[item.level]),
                        item.name,
                        item.found + (f" → {item.fix}" if item.fix else ""),
                    )
                    for item in found
                ],
            )
        if failed:
            raise typer.Exit(1)
