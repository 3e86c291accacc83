"""Which files Git would leave out: the `.gitignore` files around and below a directory.

Rules as in gitignore(5): a pattern counts from the directory of its file, deeper files go before
those above, the last matching line of a file decides, and nothing below an ignored directory comes
back. Files above the directory count up to the root of the repository, with its
`.git/info/exclude`. The user's own list (core.excludesFile) is not read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

NAME = ".gitignore"


@dataclass(frozen=True, slots=True)
class Rules:
    """The patterns of one file, which count from `base`."""

    file: Path
    base: Path
    spec: GitIgnoreSpec

    def decides(self, path: Path, *, directory: bool) -> bool | None:
        """True for ignored, False for taken again by `!`, None where no line matches."""
        below = path.relative_to(self.base).as_posix()
        return self.spec.check_file(f"{below}/" if directory else below).include


class Ignored:
    """What is left out below `root`; paths are asked for as the walk goes, directories first.

    Raises OSError where a file of patterns cannot be read: it may name what must stay private.
    """

    def __init__(self, root: Path) -> None:
        #: As the user named it; the rules know absolute paths without links in the way to root.
        self._root = root
        self._real = root.resolve()
        self._rules: dict[Path, tuple[Rules, ...]] = {}
        above = tuple(_above(self._real))
        # A directory that was named itself is taken, whatever the files above it say.
        if _verdict(above, self._real, directory=True) is not None:
            above = ()
        self._above = above

    def enter(self, directory: Path) -> None:
        """Read the patterns of `directory`, whose parent was entered before."""
        here = self._place(directory)
        before = self._above if here == self._real else self._rules[here.parent]
        found = _read(here / NAME, here)
        self._rules[here] = before if found is None else (found, *before)

    def reason(self, path: Path, *, directory: bool = False) -> str | None:
        """Which file leaves `path` out, in words; its directory was entered before."""
        place = self._place(path)
        rules = _verdict(self._rules[place.parent], place, directory=directory)
        return None if rules is None else f"ignored by {_shown(rules.file, self._real)}"

    def _place(self, path: Path) -> Path:
        return self._real / path.relative_to(self._root)


def _verdict(rules: Sequence[Rules], path: Path, *, directory: bool) -> Rules | None:
    for one in rules:
        said = one.decides(path, directory=directory)
        if said is not None:
            return one if said else None
    return None


def _above(root: Path) -> Iterator[Rules]:
    """The rules above `root`, the nearest first; none where `root` is in no repository."""
    found: list[Rules] = []
    for directory in root.parents if not (root / ".git").exists() else ():
        if (rules := _read(directory / NAME, directory)) is not None:
            found.append(rules)
        if (directory / ".git").exists():
            break
    else:
        found = []
        directory = root
    yield from found
    if (rules := _read(directory / ".git" / "info" / "exclude", directory)) is not None:
        yield rules


def _read(file: Path, base: Path) -> Rules | None:
    from pathspec import GitIgnoreSpec  # not at the start of every command

    # Git does not follow a link here (since 2.32), nor does it read anything but a file.
    if file.is_symlink() or not file.is_file():
        return None
    lines = os.fsdecode(file.read_bytes()).splitlines()
    try:
        return Rules(file, base, GitIgnoreSpec.from_lines(lines))
    except ValueError:
        return Rules(file, base, GitIgnoreSpec.from_lines(filter(_is_pattern, lines)))


def _is_pattern(line: str) -> bool:
    """Whether Git knows what it means; it passes over the others without a word."""
    from pathspec import GitIgnoreSpec

    try:
        GitIgnoreSpec.from_lines([line])
    except ValueError:
        return False
    return True


def _shown(file: Path, root: Path) -> str:
    return str(file.relative_to(root)) if file.is_relative_to(root) else str(file)
