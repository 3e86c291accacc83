"""Which files `aistack ingest` takes, and under which names. Knows no HTTP."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

#: What the ingestion reads, by suffix.
CONTENT_TYPES = {
    ".txt": "text/plain",
    ".text": "text/plain",
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".html": "text/html",
    ".htm": "text/html",
    ".pdf": "application/pdf",
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file to send; `source` is its name in the collection."""

    path: Path
    source: str
    content_type: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file or directory that is left out, and why. `asked` is True where it was named itself."""

    path: Path
    reason: str
    asked: bool = False


def find(
    roots: Sequence[Path], *, include: Sequence[str], max_bytes: int
) -> Iterator[Candidate | Skipped]:
    """Every file below `roots` in order of name.

    Hidden files, other types and files over `max_bytes` are skipped. `include` are glob patterns
    against the relative path or the name; with them a file of unknown type that matches is taken
    as plain text. Links to directories are not followed: they may go in circles.
    """
    for root in roots:
        if root.is_dir():
            for path in _walk(root):
                if isinstance(path, Skipped):
                    yield path
                elif result := _judge(path, path.relative_to(root), include, max_bytes):
                    yield result
        elif root.exists():
            result = _judge(root, Path(root.name), include, max_bytes)
            if isinstance(result, Skipped):
                yield Skipped(result.path, result.reason, asked=True)
            elif result is not None:
                yield result
        else:
            yield Skipped(root, "no such file or directory", asked=True)


def _walk(root: Path) -> Iterator[Path | Skipped]:
    denied: list[Skipped] = []

    def refuse(error: OSError) -> None:
        denied.append(
            Skipped(Path(str(error.filename)), f"cannot be read ({error.strerror})", asked=True)
        )

    for directory, directories, names in os.walk(root, onerror=refuse):
        here = Path(directory)
        for name in sorted(directories):
            if name.startswith("."):
                yield Skipped(here / name, "hidden")
        directories[:] = sorted(n for n in directories if not n.startswith("."))
        for name in sorted(names):
            yield here / name
    yield from denied


def _judge(
    path: Path, relative: Path, include: Sequence[str], max_bytes: int
) -> Candidate | Skipped | None:
    """A candidate, or why not; None for what `include` leaves out without a word."""
    source = relative.as_posix()
    wanted = any(fnmatchcase(source, glob) or fnmatchcase(path.name, glob) for glob in include)
    if include and not wanted:
        return None
    if path.name.startswith("."):
        return Skipped(path, "hidden")
    content_type = CONTENT_TYPES.get(path.suffix.lower())
    if content_type is None:
        if not wanted:
            return Skipped(path, f"not a type that is read ({path.suffix or 'no suffix'})")
        content_type = "text/plain"
    if not path.is_file():
        return Skipped(path, "not a regular file")
    count = path.stat().st_size
    if count == 0:
        return Skipped(path, "empty")
    if count > max_bytes:
        return Skipped(path, f"too large ({count} bytes; the limit is {max_bytes})")
    try:
        source.encode("utf-8")
    except UnicodeEncodeError:
        return Skipped(path, "its name is not valid UTF-8", asked=True)
    return Candidate(path, source, content_type, count)


def collisions(candidates: Sequence[Candidate]) -> list[tuple[Candidate, Candidate]]:
    """Pairs of files that would take the same name and so replace one another."""
    first: dict[str, Candidate] = {}
    return [
        (other, candidate)
        for candidate in candidates
        if (other := first.setdefault(candidate.source, candidate)) is not candidate
    ]
