"""Where the stack is and which key opens it.

The address: `--url`, then `AISTACK_URL`, then `endpoint.json` in the data directory, which a
running stack writes. The key: `--key-file`, then `AISTACK_API_KEY`, then the file that
`endpoint.json` names, and that one only for the address it was written for: a key of this machine
must not travel to another.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from aistack.cli.errors import Misconfigured, Refused, Unreachable, Usage

NOT_RUNNING = "no stack is running"
START = "start one with `aistack up`, or name one with --url"


@dataclass(frozen=True, slots=True)
class Running:
    """What `endpoint.json` says of a stack on this machine."""

    base_url: str
    key_file: Path | None
    run_dir: Path
    pid: int

    def alive(self) -> bool:
        """Whether its supervisor is still there."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


def default_data_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """`AISTACK_DATA_DIR`, else `aistack` below the user's data directory (XDG)."""
    if named := environment.get("AISTACK_DATA_DIR"):
        return Path(named)
    base = environment.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "aistack"


def running(data_dir: Path) -> Running | None:
    """The stack that runs on `data_dir`, as it announced itself; None without the file.

    Raises Misconfigured when the file is there and not readable as one.
    """
    path = data_dir / "endpoint.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        key_file = raw.get("key_file")
        return Running(
            base_url=str(raw["base_url"]).rstrip("/"),
            key_file=Path(key_file) if key_file else None,
            run_dir=Path(raw["run_dir"]),
            pid=int(raw["pid"]),
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Misconfigured(
            f"{path} cannot be read ({type(error).__name__})",
            fix="remove it and start the stack again with `aistack up`",
        ) from error


def address(url: str | None, data_dir: Path) -> str:
    """The base URL of the stack. Raises Unreachable when nothing says where one is."""
    given = url or os.environ.get("AISTACK_URL")
    if given:
        parts = urlsplit(given)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise Usage(f"{given} is not an address", fix="write http://host:port")
        return given.rstrip("/")
    found = running(data_dir)
    if found is None or not found.alive():
        from aistack.dev.state import holder

        if holder(data_dir / "lock") is not None:
            raise Unreachable(
                f"the stack on {data_dir} is still starting", fix="`aistack status` shows its parts"
            )
        raise Unreachable(f"{NOT_RUNNING} on {data_dir}", fix=START)
    return found.base_url


def key(key_file: Path | None, base_url: str, data_dir: Path) -> str:
    """The key to show. Raises Refused when there is none, Misconfigured for a bad file."""
    if key_file is not None:
        return read_key(key_file)
    if given := os.environ.get("AISTACK_API_KEY"):
        return given.strip()
    found = running(data_dir)
    if found and found.key_file and found.base_url == base_url:
        if not found.key_file.exists():
            raise Misconfigured(
                f"the key file {found.key_file} is missing",
                fix=f"make another key with `aistack keys create NAME --write {found.key_file}`",
            )
        return read_key(found.key_file)
    raise Refused(
        f"no key for {base_url}",
        fix="give the key of that stack with --key-file FILE or in AISTACK_API_KEY"
        " (the key of a stack on this machine goes to no other address)",
    )


def read_key(path: Path) -> str:
    """The key in a file of one line."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise Misconfigured(
            f"the key file {path} cannot be read ({error.strerror})",
            fix="name a readable one with --key-file",
        ) from error
    except UnicodeDecodeError as error:
        raise Misconfigured(f"the key file {path} holds no key", fix="put one key in it") from error
    if not text or any(c.isspace() for c in text):
        raise Misconfigured(f"the key file {path} holds no key", fix="put one key in it")
    return text
