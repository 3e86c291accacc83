"""Which files `aistack ingest` takes, and under which names. Knows no HTTP."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from aistack import content_types
from aistack.cli.ingest_ignore import Ignored


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file to send; `source` is its name in the collection."""

    path: Path
    source: str
    content_type: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file or directory that is left out, and why.

    `asked` is True where it was named itself, `failed` where it could not be taken although it
    should have been: it is missing, or cannot be read.
    """

    path: Path
    reason: str
    asked: bool = False
    failed: bool = False


def find(
    roots: Sequence[Path],
    *,
    include: Sequence[str],
    max_bytes: int | None,
    prefix: str | None = None,
    follow_links: bool = False,
    ignore: bool = True,
) -> Iterator[Candidate | Skipped]:
    """Every file below `roots` in order of name.

    A source is the name of the directory and the path below it, so that two directories do not take
    the same names, wherever the command is run; of a file that is named itself, its directory's
    name and its own. `prefix` stands in place of the directory's name.

    Hidden files, other types and files over `max_bytes` (if given) are skipped. `include` are glob
    patterns against the relative path or the name; with them a file of unknown type that matches is
    taken as plain text. Links to directories and links that lead out of the directory are only
    followed with `follow_links`. With `ignore` what Git would leave out is skipped, unless it is
    one of `roots` itself.
    """
    for root in roots:
        # Not resolved: the name that the user sees. "." and ".." have none of their own.
        absolute = Path(os.path.abspath(root))
        if root.is_dir():
            before = _before(absolute, prefix)
            for path in _walk(root, follow_links, ignore):
                if isinstance(path, Skipped):
                    yield path
                elif result := _judge(path, path.relative_to(root), before, include, max_bytes):
                    yield result
        elif root.exists():
            before = _before(absolute.parent, prefix)
            result = _judge(root, Path(absolute.name), before, include, max_bytes)
            if isinstance(result, Skipped):
                yield replace(result, asked=True)
            elif result is not None:
                yield result
        else:
            yield Skipped(root, "no such file or directory", asked=True, failed=True)


def _before(directory: Path, prefix: str | None) -> str:
    """What stands before a path in `directory`; the root of the file system has no name."""
    if prefix is not None:
        return prefix
    return f"{directory.name}/" if directory.name else ""


def _walk(root: Path, follow_links: bool, ignore: bool) -> Iterator[Path | Skipped]:
    denied: list[Skipped] = []
    inside = root.resolve()
    seen = {inside}

    def refuse(error: OSError) -> None:
        denied.append(_unreadable(error))

    try:
        ignored = Ignored(root) if ignore else None
    except OSError as error:
        yield _unreadable(error)
        return
    for directory, directories, names in os.walk(root, onerror=refuse, followlinks=follow_links):
        here = Path(directory)
        try:
            if ignored is not None:
                ignored.enter(here)
        except OSError as error:
            # What it would have left out may be private: nothing of this directory is taken.
            directories.clear()
            yield _unreadable(error)
            continue
        entered = []
        for name in sorted(directories):
            reason = _closed(here / name, seen, follow_links)
            if reason is None and ignored is not None:
                reason = ignored.reason(here / name, directory=True)
            if reason:
                yield Skipped(here / name, reason)
            else:
                entered.append(name)
        directories[:] = entered
        for name in sorted(names):
            path = here / name
            leads = path.resolve() if path.is_symlink() and not follow_links else inside
            if not leads.is_relative_to(inside):
                yield Skipped(path, f"link leads out of {root} (--follow-links takes it)")
            elif ignored is not None and (reason := ignored.reason(path)):
                yield Skipped(path, reason)
            else:
                yield path
    yield from denied


def _unreadable(error: OSError) -> Skipped:
    reason = f"cannot be read ({error.strerror})"
    return Skipped(Path(str(error.filename)), reason, failed=True)


def _closed(directory: Path, seen: set[Path], follow_links: bool) -> str | None:
    """Why a directory is not entered. Followed links can go in circles: each is entered once."""
    if directory.name.startswith("."):
        return "hidden"
    if directory.is_symlink() and not follow_links:
        return "a link to a directory (--follow-links takes it)"
    if follow_links:
        target = directory.resolve()
        if target in seen:
            return "is taken already"
        seen.add(target)
    return None


def _judge(
    path: Path, relative: Path, before: str, include: Sequence[str], max_bytes: int | None
) -> Candidate | Skipped | None:
    """A candidate, or why not; None for what `include` leaves out without a word."""
    below = relative.as_posix()
    wanted = any(fnmatchcase(below, glob) or fnmatchcase(path.name, glob) for glob in include)
    if include and not wanted:
        return None
    if path.name.startswith("."):
        return Skipped(path, "hidden")
    content_type = content_types.by_name(path.name)
    if content_type is None:
        if not wanted:
            return Skipped(path, f"not a type that is read ({path.suffix or 'no suffix'})")
        content_type = content_types.PLAIN
    if not path.is_file():
        return Skipped(path, "not a regular file")
    count = path.stat().st_size
    if count == 0:
        return Skipped(path, "empty")
    if max_bytes is not None and count > max_bytes:
        return Skipped(path, f"too large ({count} bytes; the limit is {max_bytes})")
    source = before + below
    try:
        source.encode("utf-8")
    except UnicodeEncodeError:
        return Skipped(path, "its name is not valid UTF-8", failed=True)
    return Candidate(path, source, content_type, count)


def collisions(candidates: Sequence[Candidate]) -> list[tuple[Candidate, Candidate]]:
    """Pairs of files that would take the same name and so replace one another."""
    first: dict[str, Candidate] = {}
    return [
        (other, candidate)
        for candidate in candidates
        if (other := first.setdefault(candidate.source, candidate)) is not candidate
    ]
