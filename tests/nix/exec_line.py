"""Command lines of units: read back, and parsed and run by a real systemd."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from nix.user_systemd import manager

DUMP = """\
import json, pathlib, sys
made = pathlib.Path(__file__).with_suffix(".new")
made.write_text(json.dumps(sys.argv[1:]))
made.rename(made.with_suffix(".json"))
"""

UNIT = """\
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
ExecStart={line}
"""


def arguments(line: str) -> list[str]:
    """What `utils.escapeSystemdExecArgs` was given."""
    words = re.findall(r'"(?:[^"\\]|\\.)*"', line)
    return [json.loads(word).replace("%%", "%").replace("$$", "$") for word in words]


def parsed_by_systemd(line: str, folder: Path) -> list[str]:
    """The arguments that a program gets when systemd starts this line, its program left out.

    The program is replaced by one that writes them down.
    """
    script = folder / "dump.py"
    script.write_text(DUMP)
    program = re.compile(r'^"(?:[^"\\]|\\.)*"')
    unit = UNIT.format(line=program.sub(lambda _: f'"{sys.executable}" "{script}"', line))
    found = script.with_suffix(".json")
    with manager(folder, {"dump.service": unit}, "dump.service") as systemd:
        systemd.until(found.exists)
    words = json.loads(found.read_text())
    assert isinstance(words, list)
    return words
