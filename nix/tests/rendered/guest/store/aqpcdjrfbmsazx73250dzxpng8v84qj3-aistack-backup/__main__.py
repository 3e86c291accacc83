"""What the units run: `backup`, `restore NAME`, `restore-keys NAME`, `verify NAME`, `list`.

Only Python's standard library and PostgreSQL's programs on PATH.
"""

from __future__ import annotations

import argparse
import sys

import backup
import restore
import store
from settings import Refused, Settings, from_environment


def main() -> int:
    """Do it; 0, or 1 with one line of reason."""
    parser = argparse.ArgumentParser(prog="aistack-backup", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("backup")
    verbs.add_parser("list")
    for verb in ("restore", "restore-keys", "verify"):
        verbs.add_parser(verb).add_argument("name")
    given = parser.parse_args()
    with from_environment() as settings:
        try:
            say(act(settings, given.verb, getattr(given, "name", "")))
        except Refused as reason:
            if given.verb == "backup":
                backup.report(settings, success=False)
            print(f"aistack-backup: {reason}", file=sys.stderr)  # noqa: T201
            return 1
    return 0


def act(settings: Settings, verb: str, name: str) -> str:
    """The work; what to say about it."""
    if verb == "backup":
        made = backup.backup(settings)
        backup.report(settings, success=True)
        return f"made {made}"
    if verb == "restore":
        return f"restored {restore.restore(settings, name)}"
    if verb == "restore-keys":
        return f"restored the keys of {restore.restore_keys(settings, name)}"
    if verb == "verify":
        found = store.find(settings, name)
        found.verify()
        return f"{found.name} is whole"
    return "\n".join(found.name for found in store.complete(settings.directory)) or "no backups"


def say(text: str) -> None:
    print(text)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
